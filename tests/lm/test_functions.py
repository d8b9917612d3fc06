"""The user's own functions: found, called, and held to one finite score for each answer."""

from pathlib import Path

import pytest

from tercet.errors import FailedError, InputError
from tercet.lm.functions import call_function, load_function


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_a_function_beside_the_user_is_found_and_called(here: Path) -> None:
    (here / "lengths_mod.py").write_text("def length(prompts, responses):\n    return [len(r) for r in responses]\n")
    function = load_function("lengths_mod:length")
    assert call_function(function, ["a", "b"], ["xx", "yyy"]) == [2.0, 3.0]


@pytest.mark.parametrize("spec", ["", "no_colon", ":f", "m:", "tercet.lm.judge"])
def test_a_spec_without_module_and_function_is_refused(spec: str) -> None:
    with pytest.raises(InputError, match="module:function"):
        load_function(spec)


def test_a_missing_module_says_where_it_was_looked_for(here: Path) -> None:
    with pytest.raises(InputError, match=f"no module nowhere_mod in the working directory {here}"):
        load_function("nowhere_mod:f")


def test_a_missing_function_names_its_nearest_neighbour(here: Path) -> None:
    with pytest.raises(InputError, match="no function polite_and_to_a_point; it has polite_and_to_the_point"):
        load_function("tercet.lm.judge:polite_and_to_a_point")


def test_a_module_that_needs_a_missing_package_says_which(here: Path) -> None:
    (here / "needy_mod.py").write_text("import not_there_at_all\n")
    with pytest.raises(InputError, match="needy_mod imports not_there_at_all, which is not installed"):
        load_function("needy_mod:f")


def test_a_module_that_raises_while_it_is_read_is_bad_input(here: Path) -> None:
    (here / "broken_mod.py").write_text("1 / 0\n")
    with pytest.raises(InputError, match="importing broken_mod raised ZeroDivisionError: division by zero"):
        load_function("broken_mod:f")


def raises(prompts: list[str], responses: list[str]) -> list[float]:
    raise KeyError("score")


def too_few(prompts: list[str], responses: list[str]) -> list[float]:
    return [0.0] * (len(responses) - 1)


def not_a_number(prompts: list[str], responses: list[str]) -> list[float]:
    return [1.0, float("nan")]


def nothing(prompts: list[str], responses: list[str]) -> None:
    return None


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (raises, r":raises raised KeyError: 'score' on 2 answers"),
        (too_few, r":too_few gave 1 scores for 2 answers"),
        (not_a_number, r":not_a_number gave nan for the answer 'second' to 'b'"),
        (nothing, r":nothing raised TypeError"),
    ],
)
def test_a_function_that_misbehaves_is_named_with_the_cause(function, message: str) -> None:  # type: ignore[no-untyped-def]  # each of them is wrong in its own way
    with pytest.raises(FailedError, match=message):
        call_function(function, ["a", "b"], ["first", "second"])
