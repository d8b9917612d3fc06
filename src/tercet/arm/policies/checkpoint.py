"""The policy from which a run starts: of another run, or one that LeRobot trained. What does not fit is refused."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float
from torch import Tensor

from tercet.arm.networks.files import read_json
from tercet.arm.networks.sizes import Sizes
from tercet.arm.policies.act import load_act
from tercet.arm.policies.joint import FILE, JOINT_SIZES, JointPolicy, JointUnits, is_over_joints, over_joints
from tercet.arm.policies.kinds import kind_of, load_policy
from tercet.arm.policies.policy import Policy
from tercet.arm.policies.vla.openvla import start_openvla
from tercet.arm.policies.vla.openvla_files import OpenVlaFiles
from tercet.arm.policies.vla.smolvla import start_smolvla
from tercet.arm.sim.cameras import Camera, cameras_of
from tercet.arm.sim.scene import OPENING
from tercet.arm.sim.workspace import WORKSPACE
from tercet.config.arm import PolicyConfig
from tercet.config.robot import CalibrationConfig
from tercet.errors import InputError
from tercet.runs.done import check_made

_NEAR = 0.06  # metres from the workspace to where the actions of a checkpoint lead on average
_FAR = 6.0  # standard deviations from the mean of a checkpoint's observations to those of the run


def load_checkpoint(
    folder: Path, sizes: Sizes, config: PolicyConfig, calibration: CalibrationConfig, names: Mapping[str, str]
) -> Policy:
    """Load the policy with gradients. `calibration` has the units of the joints of a policy that LeRobot trained.

    `names` are the checkpoint's names of cameras, where they differ.

    Raise InputError if the policy is of another kind, sees something else, or has other units than the run.
    """
    check_made(folder)
    kind = kind_of(folder)
    if kind != config.kind:
        raise InputError(f"bc.policy={folder}: of kind {kind}, not policy.kind={config.kind}; set policy.kind={kind}")
    if names and kind != "smolvla":
        raise InputError(f"bc.policy_cameras is for policy.kind=smolvla, not {kind}; leave it empty")
    if kind == "smolvla":
        policy: Policy = _smolvla(folder, sizes, config, calibration, names)
    elif kind == "openvla" and read_json(folder / "config.json").get("kind") != kind:
        policy = _openvla(folder, sizes, config, calibration)
    elif kind == "act" and is_over_joints(folder) and not (folder / FILE).exists():
        policy = JointPolicy(load_act(folder, JOINT_SIZES), JointUnits.of(calibration), sizes)
    else:
        policy = load_policy(folder, sizes)
    _check_sight(folder, policy, config)
    if isinstance(policy, JointPolicy) and policy.inner.has_scales:
        _check_units(folder, policy)
    return policy.requires_grad_(True)


def _smolvla(
    folder: Path, sizes: Sizes, config: PolicyConfig, calibration: CalibrationConfig, names: Mapping[str, str]
) -> JointPolicy:
    """Load a SmolVLA. It takes pictures of any size, so the cameras are those of the run."""
    _check_one_sentence(sizes, "smolvla")
    inner = start_smolvla(folder, cameras_of(config), instruction=config.instruction, names=names)
    if (folder / FILE).exists():
        return over_joints(folder, inner, sizes)
    return JointPolicy(inner, JointUnits.of(calibration), sizes)


def _openvla(folder: Path, sizes: Sizes, config: PolicyConfig, calibration: CalibrationConfig) -> Policy:
    """Load an OpenVLA, which takes a picture of any size. Six numbers are joints, unless they are actions here."""
    _check_one_sentence(sizes, "openvla")
    files, camera = OpenVlaFiles(folder), cameras_of(config)[0]
    num = len(files.statistics(config.unnorm_key).low)
    if num != JOINT_SIZES.action or num == sizes.action:
        return start_openvla(files, sizes, config, camera)
    return JointPolicy(start_openvla(files, JOINT_SIZES, config, camera), JointUnits.of(calibration), sizes)


def _check_one_sentence(sizes: Sizes, kind: str) -> None:
    if sizes.sentences:
        raise InputError(
            f"policy.kind={kind}: is told one sentence for the whole run, and this environment gives one to each "
            "episode; set another env"
        )


def adopt_scales(
    folder: str, policy: Policy, observations: Float[Tensor, "n o"], actions: Float[Tensor, "n c a"]
) -> None:
    """Keep the scales of a checkpoint, or raise InputError if observations of the run are far outside of them.

    A checkpoint without scales gets those of the demonstrations. What sees no numbers has no scale of its own.
    """
    if policy.blind:
        policy.scaled.measure(observations)  # of the critic
        return
    if isinstance(policy, JointPolicy) and not policy.inner.has_scales:
        policy.measure_joints(observations, actions)
    if isinstance(policy, JointPolicy):
        policy.scaled.measure(observations)  # of the critic
        scaled, rows = policy.inner.scaled, policy.states(observations)
    else:
        scaled, rows = policy.scaled, observations
    away = ((rows - scaled.mean) / scaled.std).abs().mean(0)
    worst = int(away.argmax())
    if away[worst] > _FAR:
        mean, std = scaled.mean[worst], scaled.std[worst]
        raise InputError(
            f"bc.policy={folder}: number {worst} of what it observes was {mean:.3g} on average in its training, with a "
            f"deviation of {std:.2g}, and is {rows[:, worst].mean():.3g} in the demonstrations of this run; it is for "
            "another task, or in other units (bc.policy_robot)"
        )


def _check_sight(folder: Path, policy: Policy, config: PolicyConfig) -> None:
    wanted = cameras_of(config)
    if policy.cameras != wanted:
        names = ",".join(camera.name for camera in policy.cameras)
        sizes = {(camera.height, camera.width) for camera in policy.cameras}
        remedy = f"policy.cameras=[{names}]"
        if len(sizes) > 1:
            remedy = "cameras of one size, which a run cannot set apart: train the checkpoint with images of one size"
        elif sizes:
            remedy += " policy.image_size=[{},{}]".format(*next(iter(sizes)))
        raise InputError(f"bc.policy={folder}: sees {_named(policy.cameras)}, this run {_named(wanted)}; set {remedy}")
    if policy.sees_itself != (config.sees == "itself"):
        sees = "itself" if policy.sees_itself else "everything"
        raise InputError(f"bc.policy={folder}: policy.sees={config.sees}, but it sees {sees}; set policy.sees={sees}")


def _named(cameras: tuple[Camera, ...]) -> str:
    listed = ", ".join(f"{camera.name} ({camera.height} x {camera.width})" for camera in cameras)
    return f"the cameras {listed}" if listed else "no camera"


def _check_units(folder: Path, policy: JointPolicy) -> None:
    """Raise InputError unless the average state and action of a checkpoint are a hand near the workspace."""
    for what, average in policy.inner.averages().items():
        values = average.double().cpu().numpy()
        x, y, z, _, opening = policy.units.hands(values[None])[0]
        outside = np.maximum(WORKSPACE[:, 0] - (x, y, z), (x, y, z) - WORKSPACE[:, 1]).max()
        if outside <= _NEAR and -0.2 * OPENING <= opening <= 3 * OPENING:
            continue
        listed = ", ".join(f"{value:.1f}" for value in values)
        place = f"x, y, z = {1000 * x:.0f}, {1000 * y:.0f}, {1000 * z:.0f} mm"
        raise InputError(
            f"bc.policy={folder}: the average {what} of its training is {listed}, which puts the finger tips at "
            f"{place} and opens each finger by {1000 * opening:.0f} mm, far from the workspace; its joints must be "
            "those of an SO-101 in LeRobot's order, in degrees and 0 to 100 for the gripper (use_degrees=true), with "
            "the zeros of bc.policy_robot"
        )
