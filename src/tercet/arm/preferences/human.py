"""A person as the judge: questions are written to a sheet as videos, and the answers become pairs."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tercet.arm.networks.reward_ensemble import RewardEnsemble
from tercet.arm.play import video
from tercet.arm.play.footage import Footage
from tercet.arm.preferences.moments import frames_of_marks, pairs_of_marks
from tercet.arm.preferences.pairs import Pairs, Questions, pairs_from_answers
from tercet.arm.preferences.questions import Teacher, choose_episodes, comparisons
from tercet.arm.sim.tasks.builtin import task_of
from tercet.config.functions import PERSON
from tercet.errors import FailedError, first_line
from tercet.feedback.sheets import Entry, Sheet, answers_to, check_whole, read_sheet, take, write_sheet
from tercet.runs.progress import progress

LOOK_FOR_SUCCESS = "Mark as good moments at which the task is done, and as bad moments at which it is not."
LOOK_FOR_ANY = "The better one is closer to what the arm should do."
HOLD = 8  # frames for which the last image of a segment is shown, so that the end can be seen
PREFERENCES = {"left": 1.0, "equal": 0.5, "right": 0.0, "unclear": float("nan")}  # preference for the left segment
_STATES = "states.safetensors"


def sheet_folder(run: Path, name: str) -> Path:
    """Folder of the sheet of that name."""
    return run / "feedback" / name


def write_questions(
    folder: Path, footage: Footage, teacher: Teacher, num: int, *, name: str, model: RewardEnsemble | None = None
) -> None:
    """Write a sheet of questions into `folder`, for about `num` judgements on the episodes of the footage."""
    look_for = teacher.config.look_for or _look_for(teacher.env, teacher.config.feedback)
    episodes = footage.episodes()
    if teacher.config.feedback != "pairs":
        rows = choose_episodes(episodes, teacher, num, name=name, model=model)
        chosen = episodes.rows(rows)
        states = {"states": chosen.outcomes, "lengths": chosen.first_ends() + 1}
        write_sheet(folder, "moments", look_for, lambda partial: _episodes(partial, states, footage, rows.tolist()))
    else:
        questions = comparisons(episodes, teacher, num, name=name, model=model)
        write_sheet(folder, "pairs", look_for, lambda partial: _segments(partial, questions, footage))


def _look_for(env: str, feedback: str) -> str:
    task = task_of(env)
    look_for = LOOK_FOR_ANY if task is None else task.look_for
    return f"{LOOK_FOR_SUCCESS} {look_for}" if feedback == "success" else look_for


def read_pairs(folders: Sequence[Path], feedback: str, known: Pairs | None = None) -> list[Pairs]:
    """Read a person's answers to each of these sheets, to questions of this reward.feedback; `known` are earlier ones.

    WaitingError while a question of any sheet is open; FailedError if a sheet is damaged.
    """
    sheets = [read_sheet(folder) for folder in folders]
    for sheet in sheets:
        check_whole(sheet)
    answers = answers_to(sheets)
    of_sheets = zip(sheets, answers, strict=True)
    pairs = [_pairs(sheet, [row["said"] for row in rows], feedback, known) for sheet, rows in of_sheets]
    for sheet, rows in zip(sheets, answers, strict=True):
        take(sheet, rows)  # only after all were converted: until then a person can change them
    return pairs


def _pairs(
    sheet: Sheet,
    answers: Sequence[Any],  # Any: JSON, a word or a list of marks
    feedback: str,
    known: Pairs | None,
) -> Pairs:
    states = _states(sheet)
    if sheet.kind == "moments":
        if feedback == "success":
            return frames_of_marks(states["states"], states["lengths"], answers, PERSON, known)
        return pairs_of_marks(states["states"], states["lengths"], answers, PERSON, known)
    preferences = torch.tensor([PREFERENCES[word] for word in answers])
    return pairs_from_answers(states["first"], states["second"], preferences, PERSON, known)


def _states(sheet: Sheet) -> dict[str, Tensor]:
    """Load the states of the questions; each tensor has one row per question."""
    file = sheet.path / _STATES
    try:
        names = {"pairs": ("first", "second"), "moments": ("states", "lengths")}[sheet.kind]
        states = load_file(file)
        if any(len(states[name]) != len(sheet.questions) for name in names):
            raise ValueError("it does not have one row per question")
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        reason = first_line(error)
        raise FailedError(f"{file}: damaged ({reason}); remove {sheet.path} to write new questions") from error
    return states


def _segments(folder: Path, questions: Questions, footage: Footage) -> list[Entry]:
    """Film the two segments of each question; a segment of several questions is filmed once."""
    segments, left, right = questions.segments, questions.first.tolist(), questions.second.tolist()
    _save(folder, {"first": segments.states[questions.first], "second": segments.states[questions.second]})
    steps = {segment: segments.step[segment].tolist() for segment in sorted({*left, *right})}
    segments_of: dict[int, list[int]] = {}  # by row of the episodes
    for segment in steps:
        segments_of.setdefault(int(segments.row[segment, 0]), []).append(segment)
    wanted = {row: {step for one in segments_of[row] for step in steps[one]} for row in segments_of}
    for row, pictures in _film(footage, wanted):
        for segment in segments_of[row]:
            images = [pictures[step] for step in steps[segment]]
            video.encode(folder / f"{segment}.mp4", [*images, *images[-1:] * HOLD])
    return [{"left": f"{a}.mp4", "right": f"{b}.mp4"} for a, b in zip(left, right, strict=True)]


def _episodes(folder: Path, states: dict[str, Tensor], footage: Footage, rows: Sequence[int]) -> list[Entry]:
    """Film each episode up to its end."""
    _save(folder, states)
    lengths = dict(zip(rows, states["lengths"].tolist(), strict=True))
    for row, pictures in _film(footage, {row: range(length) for row, length in lengths.items()}):
        video.encode(folder / f"{row}.mp4", pictures.values())
    rate = video.FRAMES_A_SECOND
    return [{"video": f"{row}.mp4", "num_steps": lengths[row], "steps_a_second": rate} for row in rows]


def _film(footage: Footage, wanted: Mapping[int, Collection[int]]) -> Iterator[tuple[int, dict[int, video.Picture]]]:
    with progress("filming", len(wanted), "episodes") as bar:
        for row, pictures in footage.film(wanted):
            yield row, pictures
            bar.advance()


def _save(folder: Path, states: dict[str, Tensor]) -> None:
    save_file({name: tensor.contiguous() for name, tensor in states.items()}, folder / _STATES)
