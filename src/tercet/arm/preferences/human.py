"""A person as the judge: questions are put on a sheet as videos, and the answers become pairs."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tercet.arm.play import video
from tercet.arm.play.footage import Footage
from tercet.arm.policies.roles import RewardEnsemble
from tercet.arm.preferences.moments import pairs_of_marks
from tercet.arm.preferences.pairs import Pairs, Questions, answered
from tercet.arm.preferences.questions import comparisons, to_watch
from tercet.arm.sim.tasks.builtin import TASKS
from tercet.config.arm import ArmConfig
from tercet.config.functions import PERSON
from tercet.errors import FailedError, first_line
from tercet.feedback.sheets import Entry, Sheet, answers_to, check_whole, read_sheet, take, write_sheet
from tercet.runs.progress import progress

ELSE = "Better is what comes nearer to what the arm should do."
HOLD = 8  # times that the last picture of a segment is shown, so that one sees how it ended
PREFERENCES = {"left": 1.0, "equal": 0.5, "right": 0.0, "unclear": float("nan")}  # how far the left one is preferred
_STATES = "states.safetensors"


def place(run: Path, name: str) -> Path:
    """Where the sheet of that name lies."""
    return run / "feedback" / name


def put(
    place: Path, footage: Footage, config: ArmConfig, num: int, *, name: str, model: RewardEnsemble | None = None
) -> None:
    """Write a sheet of questions into the folder `place`, about `num` judgements on what the footage shows."""
    look_for, played = config.reward.look_for or _look_for(config.env), footage.episodes()
    if config.reward.feedback == "steps":
        rows = to_watch(played, config, num, name=name, model=model)
        chosen = played.rows(rows)
        lengths = chosen.first_ends() + 1
        states = {"states": chosen.next_observations, "lengths": lengths}
        write_sheet(place, "moments", look_for, lambda partial: _episodes(partial, states, footage, rows.tolist()))
    else:
        questions = comparisons(played, config, num, name=name, model=model)
        write_sheet(place, "pairs", look_for, lambda partial: _segments(partial, questions, footage))


def _look_for(env: str) -> str:
    return TASKS[env].look_for if env in TASKS else ELSE


def told(places: Sequence[Path]) -> list[Pairs]:
    """What a person said of each of these sheets.

    WaitingError while a question of any of them is open; FailedError where one is damaged.
    """
    sheets = [read_sheet(place) for place in places]
    for sheet in sheets:
        check_whole(sheet)
    answers = answers_to(sheets)
    pairs = [_pairs(sheet, [row["said"] for row in rows]) for sheet, rows in zip(sheets, answers, strict=True)]
    for sheet, rows in zip(sheets, answers, strict=True):
        take(sheet, rows)  # not before they are of use: until then they can be changed
    return pairs


def _pairs(sheet: Sheet, said: Sequence[Any]) -> Pairs:  # Any: JSON, a word or a list of marks
    found = _states(sheet)
    if sheet.kind == "moments":
        return pairs_of_marks(found["states"], found["lengths"], said, PERSON)
    return answered(found["first"], found["second"], torch.tensor([PREFERENCES[word] for word in said]), PERSON)


def _states(sheet: Sheet) -> dict[str, Tensor]:
    """What the questions are about: one row a question in each tensor."""
    file = sheet.path / _STATES
    try:
        names = {"pairs": ("first", "second"), "moments": ("states", "lengths")}[sheet.kind]
        found = load_file(file)
        if any(len(found[name]) != len(sheet.questions) for name in names):
            raise ValueError("it has not one row for each question")
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        reason = first_line(error)
        raise FailedError(f"{file}: damaged ({reason}); remove {sheet.path} to have the questions put anew") from error
    return found


def _segments(folder: Path, questions: Questions, footage: Footage) -> list[Entry]:
    """Two videos a question; a segment that is asked about twice is filmed once."""
    segments, both = questions.segments, (questions.first.tolist(), questions.second.tolist())
    _save(folder, {"first": segments.states[questions.first], "second": segments.states[questions.second]})
    steps = {segment: segments.step[segment].tolist() for segment in sorted({*both[0], *both[1]})}
    inside: dict[int, list[int]] = {}
    for segment in steps:
        inside.setdefault(int(segments.row[segment, 0]), []).append(segment)
    wanted = {row: {step for segment in some for step in steps[segment]} for row, some in inside.items()}
    for row, pictures in _shown(footage, wanted):
        for segment in inside[row]:
            taken = [pictures[step] for step in steps[segment]]
            video.encode(folder / f"{segment}.mp4", [*taken, *taken[-1:] * HOLD])
    return [{"left": f"{left}.mp4", "right": f"{right}.mp4"} for left, right in zip(*both, strict=True)]


def _episodes(folder: Path, states: dict[str, Tensor], footage: Footage, rows: Sequence[int]) -> list[Entry]:
    """One video an episode, up to its end."""
    _save(folder, states)
    lengths = dict(zip(rows, states["lengths"].tolist(), strict=True))
    for row, pictures in _shown(footage, {row: range(length) for row, length in lengths.items()}):
        video.encode(folder / f"{row}.mp4", pictures.values())
    rate = video.FRAMES_A_SECOND
    return [{"video": f"{row}.mp4", "num_steps": lengths[row], "steps_a_second": rate} for row in rows]


def _shown(footage: Footage, wanted: Mapping[int, Collection[int]]) -> Iterator[tuple[int, dict[int, video.Picture]]]:
    with progress("filming", len(wanted), "episodes") as bar:
        for row, pictures in footage.film(wanted):
            yield row, pictures
            bar.advance()


def _save(folder: Path, states: dict[str, Tensor]) -> None:
    save_file({name: tensor.contiguous() for name, tensor in states.items()}, folder / _STATES)
