"""A second device on any machine: a tensor on it has its numbers in the memory of the CPU, and meets no other tensor.

On a GPU a tensor of the CPU beside one of the card is an error, and a number that is read from the card stops the CPU
until the card has computed it. Both are found here without a card: `SecondDevice` refuses the first and counts the
second. Its name is `lazy`, a device type of torch that nothing else uses and whose gradients run on the CPU's thread.
With `without_fp64` it refuses fp64 as well, as Apple's GPUs do.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

from tercet.core import precision

NAME = "lazy"
NO_CARD = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
DEVICES = [NAME, pytest.param("cuda", marks=[pytest.mark.gpu, NO_CARD])]
aten = torch.ops.aten
_MOVES = {aten._to_copy.default, aten.copy_.default, aten._copy_from_and_resize.default}
_INDEXES = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
# operations whose result the CPU has to wait for: its value, or its size
_WAITS = {aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default, aten.equal.default}


class DeviceMismatch(AssertionError):
    """Tensors of two devices in one operation."""


class NoFp64(AssertionError):
    """A number in fp64 on a device that has none."""


class OnDevice(Tensor):
    """A tensor on the second device; `held` has its numbers."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor) -> "OnDevice":
        new = Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=torch.device(NAME, 0),
            requires_grad=False,
        )
        new.held = held
        return new

    def __repr__(self, *, tensor_contents: object = None) -> str:
        return f"OnDevice({self.held})"

    def tolist(self) -> Any:
        """Read all numbers at once, as on a GPU; torch refuses it for subclasses."""
        return self.detach().cpu().tolist()

    def untyped_storage(self) -> torch.UntypedStorage:
        """Show which tensors share their memory, which is asked when a model is saved."""
        return self.held.untyped_storage()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


class SecondDevice(TorchDispatchMode):
    """Make the second device known to functions that create tensors; `waits` counts numbers read from it."""

    waits = 0

    def __init__(self, *, without_fp64: bool = False) -> None:
        super().__init__()
        self.without_fp64 = without_fp64

    def __enter__(self) -> "SecondDevice":
        self.waits = 0
        self._known = precision.WITHOUT_FP64
        if self.without_fp64:
            precision.WITHOUT_FP64 = self._known | {NAME}
        # torch.tensor(..., device=...) then moves a tensor of the CPU, as FakeTensorMode has it
        self._lifted, _ = torch._C._only_lift_cpu_tensors(), torch._C._set_only_lift_cpu_tensors(True)
        # a module's parameters stay the same objects, so that weights that are tied stay tied
        self._swaps = torch.__future__.get_swap_module_params_on_conversion()
        torch.__future__.set_swap_module_params_on_conversion(True)
        self._autocast = torch.is_autocast_enabled
        # torch knows no autocast of this device type
        torch.is_autocast_enabled = lambda *kind: kind != (NAME,) and self._autocast(*kind)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        torch._C._set_only_lift_cpu_tensors(self._lifted)
        torch.is_autocast_enabled = self._autocast
        precision.WITHOUT_FP64 = self._known
        torch.__future__.set_swap_module_params_on_conversion(self._swaps)
        super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        on_device = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, OnDevice)]
        leaves = func is aten._to_copy.default and on_device and not _is_second(kwargs.get("device", NAME))
        if on_device and (func in _WAITS or leaves or _selects_by_mask(func, args)):
            self.waits += 1
        return compute(func, args, kwargs)


def compute(func: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
    """Compute on the CPU, after a check that all tensors are on one device."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    is_on = any(isinstance(one, OnDevice) for one in tensors)
    if is_on and func not in _MOVES:
        checked = tensors[:1] if func in _INDEXES else tensors  # an index may be on the CPU
        values = args[2] if func in _INDEXES and len(args) > 2 else None
        checked = [*checked, *([values] if isinstance(values, Tensor) else [])]
        strangers = [one for one in checked if not isinstance(one, OnDevice) and one.dim() > 0]
        if strangers:
            shapes = ", ".join(f"{one.device.type}{tuple(one.shape)}" for one in tensors)
            raise DeviceMismatch(f"{func}: tensors on two devices: {shapes}")
    asked = kwargs.get("device")
    inner = {**kwargs, "device": torch.device("cpu")} if asked is not None else kwargs
    inner_args, inner = tree_map_only(OnDevice, lambda one: one.held, (args, inner))
    out = func(*inner_args, **inner)
    if func is aten.copy_.default:
        return args[0]
    if func is aten._local_scalar_dense.default or not (_is_second(asked) if asked is not None else is_on):
        return out
    if NAME in precision.WITHOUT_FP64 and any(
        isinstance(leaf, Tensor) and leaf.dtype == torch.float64 for leaf in tree_leaves(out)
    ):
        raise NoFp64(f"{func}: gives fp64 on the device")
    out = tree_map_only(Tensor, lambda one: one if isinstance(one, OnDevice) else OnDevice(one), out)
    return return_and_correct_aliasing(func, args, kwargs, out)


def _is_second(device: object) -> bool:
    return device is not None and torch.device(device).type == NAME  # type: ignore[arg-type]  # what functions take


def _selects_by_mask(func: object, args: Any) -> bool:
    """Return True if a mask selects rows, whose number the CPU must know."""
    return func in _INDEXES and any(
        isinstance(one, OnDevice) and one.dtype in (torch.bool, torch.uint8) for one in tree_leaves(args[1])
    )


def same_metrics(run: Path, other: Path) -> None:
    """The metrics of both runs are equal up to rounding."""
    files = [path / "metrics.jsonl" for path in (run, other)]
    here, there = ([json.loads(line) for line in file.read_text().splitlines()] for file in files)
    assert [row.keys() for row in here] == [row.keys() for row in there] and here
    for row, copy in zip(here, there, strict=True):
        for name, value in row.items():
            assert copy[name] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-2, abs=1e-3)), name
