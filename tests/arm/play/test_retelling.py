import torch

from tercet.arm.play.retelling import WAYS, retelling
from tercet.arm.sim.observations import numbers_of
from tercet.arm.sim.tasks.builtin import TASKS
from tercet.arm.sim.tasks.instructions import numbers

TASK = TASKS["lift-two"]


def test_only_the_sentence_changes_and_it_is_of_the_way() -> None:
    given = torch.randint(8, (200,), generator=torch.Generator().manual_seed(0))
    observations = torch.randn(len(given), len(TASK.observation))
    observations[:, -1] = given * 0.1
    for way in WAYS:
        changed = retelling(TASK, way)(observations)
        assert torch.equal(changed[:, :-1], observations[:, :-1])
        told = [TASK.instructions[number] for number in numbers_of(changed[:, -1].numpy())]
        assert {one.use for one in told} == {"trained" if way == "swapped" else way}
        asked = [TASK.instructions[number].cube for number in given.tolist()]
        if way == "unnamed":
            assert {one.cube for one in told} == {None}
        else:
            same = [one.cube == cube for one, cube in zip(told, asked, strict=True)]
            assert not any(same) if way == "swapped" else all(same)
        choices = numbers(TASK.instructions, "trained" if way == "swapped" else way)
        assert {one.sentence for one in told} == {TASK.instructions[number].sentence for number in choices}
