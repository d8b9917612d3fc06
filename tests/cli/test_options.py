"""Arguments and the default run folder of commands."""

from pathlib import Path

import pytest

from tercet.cli.options import default_folder, key_for, split_arguments
from tercet.errors import InputError


def test_a_run_goes_into_a_folder_named_after_its_preset_or_file() -> None:
    assert default_folder("lift") == Path("runs/lift")
    assert default_folder("configs/mine.yaml") == Path("runs/mine")


def test_an_argument_with_an_equals_sign_is_an_override_unless_it_is_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a=b.jsonl").touch()
    assert split_arguments(["a=b.jsonl", "seed=1", "c.jsonl"]) == (["a=b.jsonl", "c.jsonl"], ["seed=1"])
    assert split_arguments(None) == ([], [])


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "example.org", ""])
def test_a_key_is_made_up_where_other_computers_can_connect(host: str) -> None:
    assert len(key_for(host, "")) >= 32 and key_for(host, "") != key_for(host, "")
    assert key_for(host, "mine") == "mine"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost", "LocalHost"])
def test_this_computer_needs_no_key_but_may_have_one(host: str) -> None:
    assert (key_for(host, ""), key_for(host, "mine")) == ("", "mine")


@pytest.mark.parametrize("key", ["schlüssel", "密钥", "two\nlines", " space", "tab\t"])
def test_a_key_that_a_browser_cannot_send_is_refused(key: str) -> None:
    with pytest.raises(InputError, match="--api-key: a browser cannot send this key"):
        key_for("0.0.0.0", key)
