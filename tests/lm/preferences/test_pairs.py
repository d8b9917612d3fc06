"""Preference pairs, sampled and judged."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tercet.config.lm import LmConfig
from tercet.errors import FailedError, InputError
from tercet.lm.data.examples import Example, Message
from tercet.lm.data.splits import StepExamples
from tercet.lm.preferences.pairs import Judged, every_two, sampled_pairs, with_round
from tercet.lm.stages import sft_model
from tercet.lm.text.encoder import Encoder
from tercet.runs.folder import RunFolder

MakeConfig = Callable[..., LmConfig]
SftFolder = Callable[[str], Path]

JUDGES = """
def most_letters(prompts, responses):
    return [sum(letter.isalpha() for letter in response) for response in responses]

def all_equal(prompts, responses):
    return [1.0] * len(responses)

def undecided_on_who(prompts, responses):
    return [0.0 if "Who" in prompt else float(i) for i, prompt in enumerate(prompts)]
"""


@pytest.fixture
def judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_config: MakeConfig, sft_folder: SftFolder
) -> Callable[..., LmConfig]:
    """A config with a judge of the user's: `judged("most_letters", reward={...})`."""
    (tmp_path / "users_judges.py").write_text(JUDGES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    def config(judge: str, **reward: int) -> LmConfig:
        settings = {"num_sampled_pairs": 6, "samples_per_prompt": 3} | reward
        return make_config("gpt2", judge=f"users_judges:{judge}" if judge else "", reward=settings)

    return config


def run_of(path: Path, config: LmConfig, sft: Path | None) -> RunFolder:
    """A run whose SFT step is done, if a model is given."""
    folder = RunFolder.open(path, config, preset="tiny")
    if sft is not None:
        with folder.step("sft", total=1, shown=[]) as step:
            step.save_folder(
                "model", lambda target: [(target / f.name).write_bytes(f.read_bytes()) for f in sft.iterdir()]
            )
            step.finish({})
    return folder


def prompts(examples: list[Example]) -> StepExamples:
    return StepExamples(
        train={"made up": examples[:4]}, validation={"made up": []}, test={"made up": examples[4:]}, dropped={}
    )


def test_every_two_responses_with_different_scores_are_a_pair(examples: list[Example]) -> None:
    answers = [Judged("a", True, 1.0), Judged("b", False, 3.0), Judged("c", True, 1.0), Judged("d", True, 2.0)]
    rows = every_two(examples[0], answers)
    assert {row["chosen"] + row["rejected"] for row in rows} == {"ba", "bc", "bd", "da", "dc"}  # a and c tie
    assert len(rows) == 5 and all(row["score_chosen"] > row["score_rejected"] for row in rows)
    assert (rows[0]["chosen"], rows[0]["score_chosen"], rows[0]["score_rejected"]) == ("b", 3.0, 2.0)
    assert (rows[0]["chosen_ended"], rows[0]["rejected_ended"]) == (False, True)
    ties = [Judged("a", True, 1.0)] * 4
    assert every_two(examples[0], ties) == []
    unscored = [Judged("x", True, math.nan), answers[0], Judged("y", True, math.nan), answers[1]]
    assert [(row["chosen"], row["rejected"]) for row in every_two(examples[0], unscored)] == [("b", "a")]


def test_pairs_follow_the_judge_on_each_prompts_own_answers(
    judged: MakeConfig, sft_folder: SftFolder, examples: list[Example], tmp_path: Path
) -> None:
    config = judged("most_letters", num_sampled_pairs=11)
    found = []
    for name in ("one", "two"):
        folder = run_of(tmp_path / name, config, sft_folder("gpt2"))
        pairs = sampled_pairs(
            folder, config, Encoder.of(config), prompts(examples), sft_model(folder, config.ppo.policy)
        )
        train, test = pairs.train["made up"], pairs.test["made up"]
        assert len(train) == 11 and len(test) == 2 and pairs.validation == {"made up": []}  # ceil(1.1)
        assert {pair.key for pair in train} <= {example.key for example in examples[:4]}
        assert {pair.key for pair in test} <= {example.key for example in examples[4:]}
        for pair in train + test:
            assert sum(map(str.isalpha, pair.chosen)) > sum(map(str.isalpha, pair.rejected or ""))
        found.append(train + test)
        folder.close()
    assert found[0] == found[1]  # the seed decides


def test_pairs_of_several_sets_keep_their_sets_and_remember_what_was_cut(
    judged: MakeConfig, sft_folder: SftFolder, examples: list[Example], tmp_path: Path
) -> None:
    config = judged("most_letters", num_sampled_pairs=12)
    folder = run_of(tmp_path / "run", config, sft_folder("gpt2"))
    sets = {name: [replace(e, source=name) for e in examples[i : i + 2]] for i, name in enumerate(("one", "two"))}
    asked = StepExamples(sets, {"held": []}, {"held": [replace(e, source="held") for e in examples[4:]]}, {})
    pairs = sampled_pairs(folder, config, Encoder.of(config), asked, sft_model(folder, config.ppo.policy))
    assert all(pairs.train.values()) and list(pairs.train) == ["one", "two"] and list(pairs.held_out) == ["held"]
    keys = {name: {example.key for example in rows} for name, rows in sets.items()}
    assert all(pair.key in keys[name] and pair.source == name for name, rows in pairs.train.items() for pair in rows)
    eos, encoder = Encoder.of(config).ends.written, Encoder.of(config)
    for pair in pairs.train["one"]:  # a random model hardly ever ends by itself
        ids = encoder.response(pair.chosen, ended=pair.chosen_ended)
        assert (ids[-1:] == [eos]) == pair.chosen_ended
    assert not all(pair.chosen_ended and pair.rejected_ended for pair in pairs.train["one"])


def test_a_run_that_goes_on_takes_the_pairs_it_has(
    judged: MakeConfig, sft_folder: SftFolder, examples: list[Example], tmp_path: Path
) -> None:
    config = judged("most_letters")
    folder = run_of(tmp_path / "run", config, sft_folder("gpt2"))
    first = sampled_pairs(folder, config, Encoder.of(config), prompts(examples), sft_model(folder, config.ppo.policy))
    nothing_to_sample_from = str(tmp_path / "no model")
    again = sampled_pairs(folder, config, Encoder.of(config), prompts(examples), nothing_to_sample_from)
    assert again == first


def test_texts_may_hold_what_unicode_calls_the_end_of_a_line(
    judged: MakeConfig, sft_folder: SftFolder, examples: list[Example], tmp_path: Path
) -> None:
    config = judged("most_letters")
    folder = run_of(tmp_path / "run", config, sft_folder("gpt2"))
    odd = [replace(e, messages=(Message("user", f"{i}\u2028{e.prompt}\x85?"),)) for i, e in enumerate(examples)]
    pairs = sampled_pairs(folder, config, Encoder.of(config), prompts(odd), sft_model(folder, config.ppo.policy))
    assert {pair.key for pair in pairs.train["made up"]} <= {example.key for example in odd[:4]}


def test_what_is_measured_on_has_no_prompt_twice(
    judged: MakeConfig, sft_folder: SftFolder, examples: list[Example], tmp_path: Path
) -> None:
    config = judged("undecided_on_who", num_sampled_pairs=100)
    folder = run_of(tmp_path / "run", config, sft_folder("gpt2"))
    asked = replace(prompts(examples), test={"made up": examples[:4]})
    pairs = sampled_pairs(folder, config, Encoder.of(config), asked, sft_model(folder, config.ppo.policy))
    keys = [pair.key for pair in pairs.test["made up"]]
    assert len(keys) == len(set(keys)) == 3  # answers to the fourth tie


def test_a_few_pairs_are_enough(
    judged: MakeConfig, sft_folder: SftFolder, examples: list[Example], tmp_path: Path
) -> None:
    config = judged("most_letters", num_sampled_pairs=1)
    folder = run_of(tmp_path / "run", config, sft_folder("gpt2"))
    pairs = sampled_pairs(folder, config, Encoder.of(config), prompts(examples), sft_model(folder, config.ppo.policy))
    assert len(pairs.train["made up"]) == len(pairs.test["made up"]) == 1


def test_what_is_missing_is_named(
    judged: MakeConfig, sft_folder: SftFolder, examples: list[Example], tmp_path: Path
) -> None:
    def sample(name: str, config: LmConfig, sft: Path | None, asked: StepExamples) -> None:
        folder = run_of(tmp_path / name, config, sft)
        sampled_pairs(folder, config, Encoder.of(config), asked, sft_model(folder, config.ppo.policy))

    with pytest.raises(InputError, match="need a judge; set judge=module:function"):
        sample("no judge", judged(""), sft_folder("gpt2"), prompts(examples))
    with pytest.raises(InputError, match="tercet lm sft"):
        sample("no sft", judged("most_letters"), None, prompts(examples))
    with pytest.raises(FailedError, match=r"users_judges:all_equal gave every answer .* the same score"):
        sample("ties", judged("all_equal"), sft_folder("gpt2"), prompts(examples))
    none = StepExamples(train={"made up": examples}, validation={"made up": []}, test={"made up": []}, dropped={})
    with pytest.raises(InputError, match=r"no prompts to test.*data\.eval"):
        sample("no test", judged("most_letters"), sft_folder("gpt2"), none)


def test_a_later_round_whose_answers_all_tie_adds_no_pair_and_says_so(
    judged: MakeConfig,
    sft_folder: SftFolder,
    examples: list[Example],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    config = judged("all_equal")
    folder = run_of(tmp_path / "run", config, sft_folder("gpt2"))
    asked, encoder = prompts(examples), Encoder.of(config)
    new = sampled_pairs(folder, config, encoder, asked, sft_model(folder, config.ppo.policy), number=1)
    assert new.train == new.test == {"made up": []}
    assert "reward-1: the judge preferred no answer of this round" in capfd.readouterr().out
    earlier = replace(asked, train={"made up": examples[:2]})
    both = with_round(earlier, new, 1)
    assert both.train == earlier.train and both.test["round-1"] == []
