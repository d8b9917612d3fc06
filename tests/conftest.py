"""Shapes and types are checked at run time in the tests, and nothing here may ask a hub or crowd the cores."""

import os

from jaxtyping import install_import_hook

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# before anything imports tercet: every annotated function is checked, its jaxtyping shapes included
install_import_hook("tercet", "beartype.beartype")
