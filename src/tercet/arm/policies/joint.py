"""A policy of LeRobot on an SO-101: its state and its actions are the six joints, in the robot's units.

Everything else in this project acts by moves of the hand. This policy translates: a state follows from what the arm
measures on itself, and its actions are the moves that follow the commanded joints as fast as a move can. It is
saved in LeRobot's files, so LeRobot's tools run it on the robot as it is.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from safetensors.torch import load_file, save_file
from torch import Tensor

from tercet.arm.networks.files import check_sizes, read_json
from tercet.arm.networks.layers import Scaled
from tercet.arm.networks.sizes import Sizes
from tercet.arm.policies.act import ActPolicy, load_act
from tercet.arm.policies.distributions import Distribution
from tercet.arm.policies.policy import Policy
from tercet.arm.policies.vla.openvla import OpenVlaPolicy, load_openvla
from tercet.arm.policies.vla.smolvla import SmolVlaPolicy, load_smolvla
from tercet.arm.sim import kinematics
from tercet.arm.sim.kinematics import JOINTS, Array
from tercet.arm.sim.observations import ARM, Layout
from tercet.arm.sim.scene import OPENING
from tercet.arm.sim.workspace import STEPS, WORKSPACE, within_limits
from tercet.config.robot import CalibrationConfig
from tercet.errors import InputError

OWN = Layout(tuple(part for part in ARM if part.robot))  # with which the observation must begin
JOINT_SIZES = Sizes(len(JOINTS) + 1, len(JOINTS) + 1)
Inner = ActPolicy | SmolVlaPolicy | OpenVlaPolicy
FILE = "joints.safetensors"  # the units, and the scale of whole observations, which the critic uses
_HAND = len(STEPS)  # x, y, z, turn and opening
_RADIUS = 0.2  # metres from the pan's axis to the hand, by which a move of the hand is compared with a turn of a joint


@dataclass(frozen=True)
class JointUnits:
    """Units of the joints of a robot, as its calibration has them; the last entries are those of the gripper."""

    zero: Array  # (6,): the value at our zero
    scale: Array  # (6,): units per radian, or per metre of a finger

    @classmethod
    def of(cls, config: CalibrationConfig) -> "JointUnits":
        """Return the units of a calibration."""
        joints, grip = [getattr(config, name) for name in JOINTS], config.gripper
        per_radian = [np.degrees(1) / joint.degrees_per_unit for joint in joints]
        return cls(
            np.array([*(joint.zero for joint in joints), grip.closed]),
            np.array([*per_radian, (grip.wide - grip.closed) / OPENING]),
        )

    def values(self, hands: Array) -> Array:
        """Convert x, y, z, turn and opening (n, 5) to the robot's joints (n, 6)."""
        joints = np.concatenate([kinematics.inverse(hands[:, :3], hands[:, 3]), hands[:, 4:]], 1)
        return joints * self.scale + self.zero

    def hands(self, values: Array) -> Array:
        """Convert the robot's joints (n, 6) to x, y, z, turn and opening (n, 5)."""
        joints = (values - self.zero) / self.scale
        hand = kinematics.forward(joints[:, : len(JOINTS)])
        return np.column_stack([hand.tip, hand.turn, joints[:, len(JOINTS)]])


class JointPolicy(Policy):
    """A policy over joints, `inner`. A decision is one of its, and the target of the hand from which it starts."""

    sees_itself = True

    def __init__(self, inner: Inner, units: JointUnits, sizes: Sizes) -> None:
        super().__init__()
        if sizes.names[: len(OWN)] != OWN.names:
            raise InputError(
                "a policy over joints needs an observation that begins with what the arm measures on itself "
                f"({', '.join(OWN.names)}): use a task of the built-in arm"
            )
        self.inner, self.units, self.sizes = inner, units, sizes
        self.chunk, self.noise_size, self.cameras = inner.chunk, inner.noise_size, inner.cameras
        self.blind = inner.blind
        self.scaled = Scaled(sizes.observation)

    def states(self, observations: Float[Tensor, "*shape o"]) -> Float[Tensor, "*shape 6"]:
        """Return the joints in the robot's units."""
        hands, _ = self._hands(observations)
        return self._tensor(self.units.values(hands), observations)

    def look(self, *pictures: UInt8[Tensor, "*shape _ _ 3"]) -> tuple[Tensor, ...]:
        """Return what the inner policy keeps of the pictures."""
        return self.inner.look(*pictures)

    def decide(
        self, observations: Float[Tensor, "*shape o"], noise: Float[Tensor, "*shape z"] | None, *pictures: Tensor
    ) -> Float[Tensor, "*shape d"]:
        """Draw a decision of the inner policy, and append the target from which the hand will follow its joints."""
        _, target = self._hands(observations)
        decisions = self.inner.decide(self.states(observations), noise, *pictures)
        return torch.cat([decisions, self._tensor(target, observations)], -1)

    def actions(self, decisions: Float[Tensor, "*shape d"]) -> Float[Tensor, "*shape c a"]:
        """Return the moves that follow the joints."""
        target = decisions[..., -_HAND:]
        joints = self.inner.actions(self._of_inner(decisions)).detach()
        rows = joints.flatten(0, -3).cpu().double().numpy()
        hand = target.detach().flatten(0, -2).cpu().double().numpy()
        moves = []
        for step in range(self.chunk):
            led = within_limits(self.units.hands(rows[:, step]))
            moves.append(np.clip((led - hand) / STEPS, -1.0, 1.0))
            hand = hand + STEPS * moves[-1]
        return self._tensor(np.stack(moves, 1), target).unflatten(0, decisions.shape[:-1])

    def distribution(
        self, observations: Float[Tensor, "*shape o"], decisions: Float[Tensor, "*shape d"], *pictures: Tensor
    ) -> Distribution:
        """Return the distribution of the inner decisions; the target is given by the observation."""
        return self.inner.distribution(self.states(observations), self._of_inner(decisions), *pictures)

    def imitation_loss(
        self,
        observations: Float[Tensor, "b o"],
        actions: Float[Tensor, "b c a"],
        mask: Bool[Tensor, "b c"],
        *pictures: Tensor,
    ) -> Float[Tensor, ""]:
        """Return the loss of the inner policy on the joints to which the demonstrated moves lead."""
        targets = self.joints_of(observations, actions)
        return self.inner.imitation_loss(self.states(observations), targets, mask, *pictures)

    def joints_of(self, observations: Float[Tensor, "b o"], actions: Float[Tensor, "b c a"]) -> Float[Tensor, "b c 6"]:
        """Return the joints to which moves lead, one after the other, in the robot's units."""
        _, hand = self._hands(observations)
        joints = []
        for moves in actions.transpose(0, 1).cpu().double().numpy():
            hand = within_limits(hand + STEPS * moves)
            joints.append(self.units.values(hand))
        return torch.from_numpy(np.stack(joints, 1)).to(actions)

    def measure(
        self, observations: Float[Tensor, "*shape o"], actions: Float[Tensor, "*shape a"], *pictures: Tensor
    ) -> None:
        """Set the scale for the critic. The network keeps the scales with which it was trained."""
        self.scaled.measure(observations)

    def measure_joints(self, observations: Float[Tensor, "n o"], actions: Float[Tensor, "n c a"]) -> None:
        """Set the scales of an inner policy that has none, from the first move of each row."""
        targets = self.joints_of(observations, actions[:, :1])[:, 0]
        self.inner.measure(self.states(observations), targets)

    def explore(self, log_std: float) -> None:
        """Set a deviation of the joints that moves the hand about as far as this deviation of a move would."""
        turn = np.full(len(JOINTS), STEPS[0] / _RADIUS)
        turn[-1] = STEPS[3]  # the wrist's roll
        one_move = np.abs(self.units.scale) * np.append(turn, STEPS[4])
        self.inner.explore_each(torch.from_numpy(log_std + np.log(one_move)))

    def requires_grad_(self, requires_grad: bool = True) -> "JointPolicy":
        """Let the inner policy learn, as far as it does, or freeze it."""
        self.inner.requires_grad_(requires_grad)
        return self

    def save(self, folder: Path) -> None:
        """Write LeRobot's files, and what they cannot hold."""
        self.inner.save(folder)
        arrays = {"zero": torch.from_numpy(self.units.zero), "scale": torch.from_numpy(self.units.scale)}
        arrays |= {f"observation.{name}": value.cpu() for name, value in self.scaled.state_dict().items()}
        save_file(arrays, folder / FILE)

    def _hands(self, observations: Float[Tensor, "*shape o"]) -> tuple[Array, Array]:
        """Return x, y, z, turn and opening (n, 5), as measured and as commanded. The turn is only measured."""
        rows = observations.detach().flatten(0, -2)[:, : len(OWN)].cpu().double().numpy()
        read = {part.name: (rows[:, OWN.slices[part.name]] + part.shift) / part.scale for part in OWN.parts}
        tip = read["tip"] + WORKSPACE.mean(1)
        measured = np.column_stack([tip, read["turn"], read["opening"]])
        return measured, np.column_stack([tip + read["target-tip"], read["turn"], read["target_opening"]])

    def _of_inner(self, decisions: Float[Tensor, "*shape d"]) -> Tensor:
        """Return the decision of the inner policy. Tokens are held as real numbers beside the target."""
        part = decisions[..., :-_HAND]
        return part.long() if isinstance(self.inner, OpenVlaPolicy) else part

    def _tensor(self, rows: Array, like: Tensor) -> Tensor:
        return torch.from_numpy(rows).to(like).unflatten(0, like.shape[:-1])


def load_any_act(folder: Path, sizes: Sizes) -> Policy:
    """Load an ACT over moves or over joints and freeze it. Raise InputError if its sizes differ."""
    if not (folder / FILE).exists():
        if is_over_joints(folder) and sizes.action == _HAND:
            raise _without_units(folder)
        return load_act(folder, sizes)
    return over_joints(folder, load_act(folder, JOINT_SIZES), sizes)


def load_any_smolvla(folder: Path, sizes: Sizes) -> Policy:
    """Load a SmolVLA over joints and freeze it. Raise InputError if its sizes differ."""
    if not (folder / FILE).exists():
        raise _without_units(folder)
    return over_joints(folder, load_smolvla(folder), sizes)


def load_any_openvla(folder: Path, sizes: Sizes) -> Policy:
    """Load an OpenVLA over moves or over joints and freeze it. Raise InputError if its sizes differ."""
    if not (folder / FILE).exists():
        return load_openvla(folder, sizes)
    return over_joints(folder, load_openvla(folder, JOINT_SIZES), sizes)


def over_joints(folder: Path, inner: Inner, sizes: Sizes) -> JointPolicy:
    """Return a frozen policy with the units that `save` wrote. Raise InputError if its sizes differ."""
    arrays = load_file(folder / FILE)
    check_sizes(folder, {"observation": len(arrays["observation.mean"])}, {"observation": sizes.observation})
    policy = JointPolicy(inner, JointUnits(arrays["zero"].numpy(), arrays["scale"].numpy()), sizes)
    policy.scaled.mean.copy_(arrays["observation.mean"])
    policy.scaled.std.copy_(arrays["observation.std"])
    policy.requires_grad_(False)
    return policy.eval()


def _without_units(folder: Path) -> InputError:
    return InputError(
        f"{folder}: its actions are the joints of a robot, in units that it does not state; start a run from it with "
        f"bc.policy={folder}"
    )


def is_over_joints(folder: Path) -> bool:
    """Return True if the config of an ACT states six numbers as its action."""
    outputs = read_json(folder / "config.json").get("output_features")
    action = outputs.get("action") if isinstance(outputs, dict) else None
    return isinstance(action, dict) and action.get("shape") == [JOINT_SIZES.action]
