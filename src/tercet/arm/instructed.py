"""Success by instruction, with the sentences of training and with others, in the episodes of the evaluation."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from tercet.arm.play.episodes import Episodes
from tercet.arm.play.retelling import WAYS, Retell, retelling
from tercet.arm.policies.policy import Policy
from tercet.arm.sim.env import OTHER
from tercet.arm.sim.observations import INSTRUCTION, numbers_of
from tercet.arm.sim.scene import COLOURS
from tercet.arm.sim.tasks.task import Task
from tercet.core.intervals import wilson

Tree = dict[str, Any]  # Any: JSON
# each takes as long as an evaluation, so only the last stage is told in all ways
_OF_EVERY_STAGE = ("reworded",)


def by_instruction(
    task: Task,
    policies: Sequence[tuple[str, Policy]],
    played: Mapping[str, Episodes],
    play: Callable[[str, Retell], Episodes],
) -> Tree:
    """Return success of every stage by the cube that was asked for, with each way of telling it.

    `policies` are the stages that are compared, in their order, `played` their episodes, and `play` plays a stage again
    from the same starts. Only a policy that reads sentences is told others.
    """
    results: Tree = {}
    for name, policy in policies:
        results[name] = {"trained": _rates(task, played[name])}
        if not policy.reads:
            continue
        for way in WAYS if name == policies[-1][0] else _OF_EVERY_STAGE:
            results[name][way] = _rates(task, play(name, retelling(task, way)))
    return results


def sentences_of(task: Task, episodes: Episodes) -> list[str]:
    """Return the sentence of each row's first episode."""
    return [task.instructions[number].sentence for number in _numbers(task, episodes)]


def _numbers(task: Task, episodes: Episodes) -> list[int]:
    entry = task.observation.names.index(INSTRUCTION.name)
    return numbers_of(episodes.observations[:, 0, entry].numpy()).tolist()


def _rates(task: Task, episodes: Episodes) -> Tree:
    """Return success over all rows and by the colour that was asked for, and how often it was the other cube."""
    asked = torch.tensor([task.instructions[number].cube for number in _numbers(task, episodes)])
    done, other = episodes.succeeded(), _at_end(episodes, OTHER)
    of_colour = {colour: done[asked == cube] for cube, colour in enumerate(COLOURS)}
    return {
        "all": _rate(done),
        **{colour: _rate(rows) for colour, rows in of_colour.items() if len(rows)},
        "other": _rate(other),
    }


def _at_end(episodes: Episodes, info: str) -> Bool[Tensor, " n"]:
    return episodes.infos[info].gather(1, episodes.first_ends()[:, None]).squeeze(1) > 0.5


def _rate(rows: Bool[Tensor, " n"]) -> Tree:
    return wilson(rows.int().tolist()).as_json("states")
