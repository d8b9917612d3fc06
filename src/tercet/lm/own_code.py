"""Python code in a model's folder or repository (`auto_map`): refused unless model.trust_remote_code is set.

Such code runs with the user's rights. Only that key allows it, and transformers never asks on the terminal.
"""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    dynamic_module_utils,
)
from transformers import PretrainedConfig as HfConfig
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from tercet.config.functions import named_error
from tercet.errors import FailedError, InputError

KEY = "model.trust_remote_code"
_AUTO = (AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification)

# if a call does not pass trust_remote_code, transformers waits this many seconds for a "y" on the terminal; with 0 it
# raises at once. Our calls always pass it: this is for calls inside transformers and peft
dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0


def refusal(name: str, code: str = "Python code of its own") -> InputError:
    """Return the error for a folder or hub id that cannot be loaded without running its code."""
    return InputError(
        f"{name!r} brings {code}, which would run with your rights; read it, and allow it with "
        f"{KEY}=true, or give a model that transformers has"
    )


def check_kernels(hf_config: HfConfig, name: str) -> None:
    """Raise InputError if config.json names compiled kernels of a hub repository."""
    parts = [hf_config, *(part for part in vars(hf_config).values() if isinstance(part, HfConfig))]
    for part in parts:
        for kernel in (part._attn_implementation, part._experts_implementation):
            if "/" in str(kernel):  # names of transformers' own kernels have no owner
                raise refusal(name, f"kernels of a repository ({kernel!r} in its config.json)")


def asks_for_trust(error: BaseException) -> bool:
    """Return True for the error that transformers raises instead of running code."""
    return "trust_remote_code" in str(error)


@contextmanager
def running(name: str, *, trust: bool) -> Iterator[None]:
    """Turn unexpected errors of a model's own code into an InputError that names its folder or hub id."""
    try:
        yield
    except (OSError, ValueError, KeyError, FailedError):
        raise
    except Exception as error:  # any error of the model's own code
        if not trust:
            raise
        raise InputError(f"{name!r}: its own code raised {named_error(error)[:300]}") from error


def register(hf_config: HfConfig, folder: str) -> None:
    """Register the classes of the folder's code in transformers, so that its model is built like any other."""
    classes = getattr(hf_config, "auto_map", None) or {}
    for auto in _AUTO:
        if reference := classes.get(auto.__name__):
            auto.register(type(hf_config), get_class_from_dynamic_module(reference, folder), exist_ok=True)


def is_from_transformers(model: PreTrainedModel) -> bool:
    """Return False if the model is built by code outside transformers, whatever its model_type."""
    base: nn.Module = model.base_model
    return type(base).__module__.startswith("transformers.")


def save_code(model: PreTrainedModel, folder: Path) -> None:
    """Save the model's own code beside its weights; config.json names it, and loading needs the same key.

    transformers does this for a class in the folder's auto_map, but not for our score head on it.
    """
    for kind in {type(model.base_model), type(model.config)}:
        if kind.__module__.startswith("transformers_modules."):
            for file in Path(str(sys.modules[kind.__module__].__file__)).parent.glob("*.py"):
                if file.name != "__init__.py":
                    shutil.copyfile(file, folder / file.name)
