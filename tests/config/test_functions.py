"""Functions that the user names are found, or the message says where they were looked for."""

from pathlib import Path

import pytest

from tercet.config.functions import load_function
from tercet.errors import InputError


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_a_function_beside_the_user_is_found(here: Path) -> None:
    (here / "lengths_mod.py").write_text("def length(responses):\n    return [len(r) for r in responses]\n")
    assert load_function("lengths_mod:length")(["xx", "yyy"]) == [2, 3]


@pytest.mark.parametrize("spec", ["", "no_colon", ":f", "m:", "tercet.lm.preferences.judge"])
def test_a_spec_without_module_and_function_is_refused(spec: str) -> None:
    with pytest.raises(InputError, match="module:function"):
        load_function(spec)


def test_a_missing_module_says_where_it_was_looked_for(here: Path) -> None:
    with pytest.raises(InputError, match=f"no module nowhere_mod in the working directory {here}"):
        load_function("nowhere_mod:f")


def test_a_missing_function_names_its_nearest_neighbour(here: Path) -> None:
    with pytest.raises(InputError, match="no function polite_and_to_a_point; it has polite_and_to_the_point"):
        load_function("tercet.lm.preferences.judge:polite_and_to_a_point")


def test_a_module_that_needs_a_missing_package_says_which(here: Path) -> None:
    (here / "needy_mod.py").write_text("import not_there_at_all\n")
    with pytest.raises(InputError, match="needy_mod imports not_there_at_all, which is not installed"):
        load_function("needy_mod:f")


def test_a_module_that_raises_while_it_is_read_is_bad_input(here: Path) -> None:
    (here / "broken_mod.py").write_text("1 / 0\n")
    with pytest.raises(InputError, match="importing broken_mod raised ZeroDivisionError: division by zero"):
        load_function("broken_mod:f")
