"""What an exception that nobody foresaw becomes where something is read."""

import pytest

from tercet.errors import FailedError, InputError, reading


def test_an_unexpected_exception_names_what_was_read() -> None:
    said = r"^a\.jsonl:3 cannot be read: KeyError: 'x'; if it is not damaged, .*report"
    with pytest.raises(FailedError, match=said), reading("a.jsonl:3"):
        raise KeyError("x")
    with pytest.raises(FailedError, match=r"^a\.jsonl: Input/output error$"), reading("a.jsonl"):
        raise OSError(5, "Input/output error")


def test_errors_of_tercet_pass_unchanged() -> None:
    with pytest.raises(InputError, match=r"^line 3: no prompt$"), reading("a.jsonl"):
        raise InputError("line 3: no prompt")
