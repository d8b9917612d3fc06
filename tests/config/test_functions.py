"""Functions that the user names are found, or the message says where they were looked for."""

import importlib
from pathlib import Path

import pytest

from tercet.config.functions import load_function
from tercet.errors import InputError


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_a_function_in_the_working_directory_is_loaded(here: Path) -> None:
    (here / "lengths_mod.py").write_text("def length(responses):\n    return [len(r) for r in responses]\n")
    assert load_function("lengths_mod:length")(["xx", "yyy"]) == [2, 3]


@pytest.mark.parametrize("spec", ["", "no_colon", ":f", "m:", "m:f(", "m:(a)", "tercet.lm.preferences.judge"])
def test_a_spec_without_module_and_function_is_refused(spec: str) -> None:
    with pytest.raises(InputError, match="module:function"):
        load_function(spec)


def test_a_missing_module_names_the_searched_places(here: Path) -> None:
    with pytest.raises(InputError, match=f"no module nowhere_mod in the working directory {here}"):
        load_function("nowhere_mod:f")


def test_a_missing_function_suggests_a_similar_one(here: Path) -> None:
    with pytest.raises(InputError, match="no function polite_and_to_a_point; it has polite_and_to_the_point"):
        load_function("tercet.lm.preferences.judge:polite_and_to_a_point")


def test_a_module_with_a_missing_import_names_it(here: Path) -> None:
    (here / "needy_mod.py").write_text("import not_there_at_all\n")
    with pytest.raises(InputError, match="needy_mod imports not_there_at_all, which is not installed"):
        load_function("needy_mod:f")


def test_a_module_that_raises_on_import_is_an_input_error(here: Path) -> None:
    (here / "broken_mod.py").write_text("1 / 0\n")
    with pytest.raises(InputError, match="importing broken_mod raised ZeroDivisionError: division by zero"):
        load_function("broken_mod:f")


def test_a_text_in_brackets_makes_the_function(here: Path) -> None:
    (here / "maker_mod.py").write_text(
        "def longer(text):\n    limit = int(text)\n    return lambda _, texts: [len(text) > limit for text in texts]\n"
        "def nothing(text):\n    return None\n"
    )
    assert load_function("maker_mod:longer(2)")(["a", "b"], ["xx", "yyy"]) == [False, True]
    with pytest.raises(InputError, match=r"maker_mod:longer\(a:b\): calling it with 'a:b' raised ValueError"):
        load_function("maker_mod:longer(a:b)")
    with pytest.raises(InputError, match=r"maker_mod:nothing\(\): returned a NoneType for ''; it must return a func"):
        load_function("maker_mod:nothing()")


def test_a_text_in_brackets_makes_the_function_once(here: Path) -> None:
    (here / "once_mod.py").write_text(
        "calls = []\n\ndef longer(text):\n    calls.append(text)\n    return lambda _, texts: [text] * len(texts)\n"
    )
    first = load_function("once_mod:longer(2)")
    assert load_function("once_mod:longer(2)") is first
    assert load_function("once_mod:longer(3)")([], ["x"]) == ["3"]
    module = importlib.import_module("once_mod")
    assert module.calls == ["2", "3"]
    importlib.reload(module)
    assert load_function("once_mod:longer(2)") is not first
