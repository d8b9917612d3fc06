"""What an exception that nobody foresaw becomes where something is read."""

import pytest

from tercet.errors import FailedError, InputError, reading


def test_an_unforeseen_exception_names_what_was_being_read() -> None:
    said = r"^a\.jsonl:3 cannot be read: KeyError: 'x'; if it is not damaged, .*report"
    with pytest.raises(FailedError, match=said), reading("a.jsonl:3"):
        raise KeyError("x")
    with pytest.raises(FailedError, match=r"^a\.jsonl: Input/output error$"), reading("a.jsonl"):
        raise OSError(5, "Input/output error")


def test_an_error_that_says_what_is_wrong_passes_as_it_is() -> None:
    with pytest.raises(InputError, match=r"^line 3: no prompt$"), reading("a.jsonl"):
        raise InputError("line 3: no prompt")
