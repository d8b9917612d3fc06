"""Messages of the libraries are turned off."""

import os
import warnings

import pytest
from huggingface_hub.utils import are_progress_bars_disabled
from transformers.utils import logging

from tercet.lm.quiet import hush


def test_settings_of_the_user_and_bars_of_downloads_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "info")
    monkeypatch.delenv("DATASETS_VERBOSITY", raising=False)
    shows_downloads = not are_progress_bars_disabled()
    with warnings.catch_warnings():
        hush()
    assert (os.environ["TRANSFORMERS_VERBOSITY"], os.environ["DATASETS_VERBOSITY"]) == ("info", "error")
    assert not logging.is_progress_bar_enabled()
    assert are_progress_bars_disabled() != shows_downloads
