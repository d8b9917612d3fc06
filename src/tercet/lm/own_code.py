"""Python code that a model's folder or repository brings (`auto_map`): refused, unless model.trust_remote_code is set.

Code runs with the rights of whoever started Tercet. So nothing but that key of the run's config allows it, and
transformers is kept from asking on the terminal.
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

# where a call does not say whether to trust, transformers waits so many seconds for a "y" on the terminal; with 0 it
# raises at once. Every call of ours says it: this is for calls that transformers and peft make among themselves
dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0


def refusal(name: str, code: str = "Python code of its own") -> InputError:
    """What to say of a folder or hub id that cannot be read without running code that it brings or names."""
    return InputError(
        f"{name!r} brings {code}, which would run with your rights; read it, and allow it with "
        f"{KEY}=true, or give a model that transformers has"
    )


def check_kernels(hf_config: HfConfig, name: str) -> None:
    """InputError where config.json has transformers compute with compiled code of some repository on the hub."""
    parts = [hf_config, *(part for part in vars(hf_config).values() if isinstance(part, HfConfig))]
    for part in parts:
        for kernel in (part._attn_implementation, part._experts_implementation):
            if "/" in str(kernel):  # transformers' own have names without an owner
                raise refusal(name, f"kernels of a repository ({kernel!r} in its config.json)")


def asks_for_trust(error: BaseException) -> bool:
    """Return True for the error by which transformers refuses to run code."""
    return "trust_remote_code" in str(error)


@contextmanager
def running(name: str, *, trust: bool) -> Iterator[None]:
    """Name the folder or hub id whose code raised what no reader of models raises; without `trust` no code runs."""
    try:
        yield
    except (OSError, ValueError, KeyError, FailedError):
        raise
    except Exception as error:  # whatever somebody's code raises
        if not trust:
            raise
        raise InputError(f"{name!r}: its own code raised {named_error(error)[:300]}") from error


def register(hf_config: HfConfig, folder: str) -> None:
    """Make the classes of the folder's code known to transformers, so that its model is built as any other."""
    classes = getattr(hf_config, "auto_map", None) or {}
    for auto in _AUTO:
        if reference := classes.get(auto.__name__):
            auto.register(type(hf_config), get_class_from_dynamic_module(reference, folder), exist_ok=True)


def is_from_transformers(model: PreTrainedModel) -> bool:
    """Return False where the transformer is built by somebody's own code, whatever its model_type says."""
    base: nn.Module = model.base_model
    return type(base).__module__.startswith("transformers.")


def save_code(model: PreTrainedModel, folder: Path) -> None:
    """Put the code that the model was built by beside its weights; config.json names it, and the same key allows it.

    transformers does so for a class that the folder's auto_map names, but not for a score head that we put on it.
    """
    for kind in {type(model.base_model), type(model.config)}:
        if kind.__module__.startswith("transformers_modules."):
            for file in Path(str(sys.modules[kind.__module__].__file__)).parent.glob("*.py"):
                if file.name != "__init__.py":
                    shutil.copyfile(file, folder / file.name)
