"""Success by instruction: whose success counts, and what a policy is told."""

import numpy as np
import torch

from tercet.arm.instructed import by_instruction, sentences_of
from tercet.arm.networks.sizes import Sizes
from tercet.arm.play.episodes import Episodes, play
from tercet.arm.play.retelling import WAYS, Retell
from tercet.arm.policies.gaussian import GaussianPolicy
from tercet.arm.sim.env import ArmEnv
from tercet.arm.sim.observations import numbers_of
from tercet.arm.sim.scene import COLOURS
from tercet.arm.sim.tasks.builtin import TASKS

TASK = TASKS["lift-two"]


class Reader(GaussianPolicy):
    """Stands for a policy that reads."""

    reads = True


def obey(env: ArmEnv, retell: Retell) -> Episodes:
    """Play the expert for the sentence that it is told, or the blue cube if it is told no colour."""

    def act(step: int, observations: torch.Tensor, fresh: torch.Tensor) -> torch.Tensor:
        asked = env._instruction.copy()
        told = numbers_of(retell(observations)[:, -1].numpy())
        env._instruction[:] = [number if TASK.instructions[number].cube is not None else 0 for number in told]
        actions = torch.from_numpy(env.expert_actions())
        env._instruction[:] = asked
        return actions

    return play(env, act, horizon=20, seed=1)


def test_a_policy_that_obeys_lifts_the_cube_that_it_is_told_to_lift() -> None:
    env = ArmEnv("lift-two", 12, horizon=20, num_threads=1)
    sizes = Sizes(len(TASK.observation), 5)
    reader, other = (kind(sizes, hidden_size=4, num_layers=1, log_std=0.0) for kind in (Reader, GaussianPolicy))
    played = {name: obey(env, lambda observations: observations) for name in ("bc", "ppo")}
    found = by_instruction(TASK, [("bc", reader), ("ppo", reader)], played, lambda name, retell: obey(env, retell))
    assert list(found["bc"]) == ["trained", "reworded"] and list(found["ppo"]) == ["trained", *WAYS]
    rates = {way: {name: one["mean"] for name, one in rows.items()} for way, rows in found["ppo"].items()}
    for way in ("trained", "reworded", "renamed"):
        assert rates[way] == {"all": 1.0, "blue": 1.0, "red": 1.0, "other": 0.0}
    assert rates["swapped"] == {"all": 0.0, "blue": 0.0, "red": 0.0, "other": 1.0}
    assert (rates["unnamed"]["blue"], rates["unnamed"]["red"]) == (1.0, 0.0)
    # a policy that does not read is told nothing else
    assert by_instruction(TASK, [("ppo", other)], played, lambda name, retell: obey(env, retell)).keys() == {"ppo"}
    assert list(by_instruction(TASK, [("ppo", other)], played, lambda name, retell: obey(env, retell))["ppo"]) == [
        "trained"
    ]
    env.reset(seed=1)
    sentences = sentences_of(TASK, played["bc"])
    assert sentences == [TASK.instructions[number].sentence for number in env.readings().instruction]
    red = np.array(["red" in sentence for sentence in sentences])
    assert found["ppo"]["trained"]["red"]["num_states"] == int(red.sum()) and list(COLOURS) == ["blue", "red"]
    env.close()
