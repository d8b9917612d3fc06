"""Shapes and types are checked at run time in the tests, and nothing here may ask a hub or crowd the cores."""

import os

from hypothesis import settings
from jaxtyping import install_import_hook

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# before anything imports them: every annotated function that may meet a tensor is checked, its shapes included
install_import_hook([f"tercet.{part}" for part in ("core", "types", "train", "lm", "arm")], "beartype.beartype")

settings.register_profile("tercet", deadline=None)  # a busy machine is no failure
settings.load_profile("tercet")
