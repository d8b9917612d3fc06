"""Silence warnings and progress bars of the libraries."""

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
    """Silence warnings and loading bars, except for downloads; environment variables set by the user stay.

    Call this before transformers or datasets are imported: they read the variables at import.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    for package in ("transformers", "datasets", "peft", "accelerate", "torch", "huggingface_hub", "tqdm"):
        warnings.filterwarnings("ignore", module=package)

    import transformers.utils.logging as transformers_logging
    from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars

    downloads_are_shown = not are_progress_bars_disabled()
    transformers_logging.disable_progress_bar()  # "Loading weights"; this turns off the hub's download bars too
    if downloads_are_shown:
        enable_progress_bars()
