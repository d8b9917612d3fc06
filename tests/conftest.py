"""Check shapes and types at run time, forbid access to a hub, and limit the threads."""

import os
import re
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

PACKAGE = Path(__file__).parents[1] / "src" / "tercet"


def modules_with_shapes() -> list[str]:
    """List the modules that annotate tensors with jaxtyping, or use records that do."""
    files = [file for part in ("core", "train", "lm", "arm") for file in (PACKAGE / part).rglob("*.py")]
    named = [file for file in [*files, PACKAGE / "types.py"] if re.search(r"jaxtyping|tercet\.types", file.read_text())]
    return [".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts) for file in named]


os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# before these modules are imported; the types in the other modules are left to pyright, because checking them at run
# time costs much time where a function is called for every row of a data set
install_import_hook(modules_with_shapes(), "beartype.beartype")

# no deadline, because the machine may be busy; the default suite tries the same examples every time
_calm: dict[str, Any] = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("tercet", derandomize=True, **_calm)
settings.register_profile("thorough", database=None, **_calm)  # make hostile: --hypothesis-seed selects the examples
settings.load_profile("thorough" if os.environ.get("TERCET_THOROUGH") == "1" else "tercet")
