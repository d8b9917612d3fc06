"""Check shapes and types at run time, forbid access to a hub, and limit the threads."""

import os
from typing import Any

from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# before these modules are imported: check the types and shapes of every annotated function with tensors
install_import_hook([f"tercet.{part}" for part in ("core", "types", "train", "lm", "arm")], "beartype.beartype")

# no deadline, because the machine may be busy; the default suite tries the same examples every time
_calm: dict[str, Any] = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("tercet", derandomize=True, **_calm)
settings.register_profile("thorough", database=None, **_calm)  # make hostile: --hypothesis-seed selects the examples
settings.load_profile("thorough" if os.environ.get("TERCET_THOROUGH") == "1" else "tercet")
