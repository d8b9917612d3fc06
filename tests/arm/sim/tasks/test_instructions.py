from tercet.arm.sim.scene import COLOURS
from tercet.arm.sim.tasks.builtin import TASKS
from tercet.arm.sim.tasks.instructions import USES, numbers

INSTRUCTIONS = TASKS["lift-two"].instructions


def test_every_use_but_the_unnamed_has_as_many_sentences_for_each_cube() -> None:
    for use in USES:
        of_cube = [len(numbers(INSTRUCTIONS, use, cube)) for cube in range(len(COLOURS))]
        assert of_cube == ([0, 0] if use == "unnamed" else [len(numbers(INSTRUCTIONS, use)) // 2] * 2)
    assert sum(len(numbers(INSTRUCTIONS, use)) for use in USES) == len(INSTRUCTIONS)


def test_a_sentence_names_the_colour_of_its_cube_and_sentences_for_evaluation_are_not_trained() -> None:
    trained = {INSTRUCTIONS[number].sentence for number in numbers(INSTRUCTIONS, "trained")}
    colours = list(COLOURS)
    for one in INSTRUCTIONS:
        named = [number for number, colour in enumerate(colours) if colour in one.sentence.split()]
        assert named == ([one.cube] if one.use in ("trained", "reworded") else [])
        assert (one.sentence in trained) == (one.use == "trained")
    assert len({one.sentence for one in INSTRUCTIONS}) == len(INSTRUCTIONS)
