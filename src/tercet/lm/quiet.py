"""The one place where the chatter of the libraries underneath is turned off."""

import os
import warnings

_SETTINGS = {
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "DATASETS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


def hush() -> None:
    """Silence warnings and bars about loading; downloads keep theirs. A variable that the user has set stays.

    Call it before anything imports transformers or datasets, which read their variables at import.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    for package in ("transformers", "datasets", "peft", "accelerate", "torch", "huggingface_hub", "tqdm"):
        warnings.filterwarnings("ignore", module=package)

    import transformers.utils.logging as transformers_logging
    from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars

    downloads_are_shown = not are_progress_bars_disabled()
    transformers_logging.disable_progress_bar()  # "Loading weights", but the hub's downloads with it
    if downloads_are_shown:
        enable_progress_bars()
