"""Decode with a cache of fixed size, and on CUDA replay each step as a graph.

A step of a small batch is hundreds of short kernels, and a GPU may wait for the CPU to launch each of them. If all
tensors keep their place and shape, the launches can be recorded once and replayed with one call. So the cache has room
for the longest response from the start, and attention reads all of it, masked. `lm/sampling/stepper.py` reads the
prompts, and is the one to use for caches of another kind.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel, StaticCache

from tercet.errors import FailedError, first_line
from tercet.lm.sampling.stepper import Stepper, can_be_joined, empty_cache

_WARMUPS = 2  # steps before the recording, in which libraries allocate what they keep


def can_be_static(model: PreTrainedModel) -> bool:
    """Return True if the model's cache has keys and values of all tokens, and nothing else."""
    return can_be_joined(empty_cache(model))


class StaticStepper:
    """The state of a left-padded batch in tensors of fixed size; see `Stepper`.

    `mask` is 1 for tokens and 0 for padding and for columns that have no token yet.
    """

    def __init__(self, model: PreTrainedModel, prompts: Sequence[Sequence[int]], pad_id: int, max_tokens: int) -> None:
        """Read the prompts; `logits` are those after each prompt, and at most `max_tokens` tokens may follow."""
        read = Stepper(model, prompts, pad_id)
        self.model, self.logits = model, read.logits
        self.cache_name, self.parameters = read.cache_name, read.parameters
        length, device = read.mask.shape[1], read.mask.device
        self.mask = nn.functional.pad(read.mask, (0, max_tokens))
        self.positions = read.mask.sum(1, keepdim=True)
        self.column = torch.full((1,), length, device=device)
        self.tokens = torch.zeros(len(read.mask), 1, dtype=torch.long, device=device)
        self.cache = _filled(model, read, length + max_tokens)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.recorded_logits: Tensor | None = None

    def __call__(self, tokens: Int[Tensor, " b"]) -> Float[Tensor, "b v"]:
        """Append one token to each row and return the next logits, which the next call may overwrite."""
        self.tokens.copy_(tokens[:, None])
        if tokens.device.type != "cuda":
            return self._step()
        if self.graph is None:
            self._record()
        assert self.graph is not None and self.recorded_logits is not None
        self.graph.replay()
        return self.recorded_logits

    def keep(self, rows: Int[Tensor, " n"]) -> None:
        """Drop all other rows."""
        self.graph = self.recorded_logits = None  # recorded for other tensors
        self.mask, self.positions, self.tokens = self.mask[rows], self.positions[rows], self.tokens[rows]
        for layer in _layers(self.cache):
            layer.keys, layer.values, layer.batch_size = layer.keys[rows], layer.values[rows], len(rows)

    def _step(self) -> Float[Tensor, "b v"]:
        self.mask.index_fill_(1, self.column, 1)
        extra: dict[str, object] = {self.cache_name: self.cache, "attention_mask": self.mask}
        if "position_ids" in self.parameters:
            extra["position_ids"] = self.positions
        logits = self.model(self.tokens, use_cache=True, **extra).logits[:, -1].float()
        self.column.add_(1)
        self.positions.add_(1)
        return logits

    def _record(self) -> None:
        """Record a step as a graph. FailedError if the model does something that cannot be recorded."""
        counters = [self.mask, self.positions, self.column, *(one.cumulative_length for one in _layers(self.cache))]
        before = [counter.clone() for counter in counters]
        side, here = torch.cuda.Stream(), torch.cuda.current_stream()
        side.wait_stream(here)
        try:
            with torch.cuda.stream(side):
                for _ in range(_WARMUPS):  # the same step again; what it writes into the cache is written again
                    self._step()
                    for counter, value in zip(counters, before, strict=True):
                        counter.copy_(value)
            here.wait_stream(side)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.recorded_logits = self._step()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise FailedError(
                f"a sampling step of {type(self.model).__name__} cannot be recorded as a CUDA graph "
                f"({first_line(error)}); set cuda_graphs=false"
            ) from error


def _layers(cache: StaticCache) -> list[Any]:  # Any: the attributes of transformers' layers are set on first use
    return list(cache.layers)


def _filled(model: PreTrainedModel, read: Stepper, length: int) -> StaticCache:
    """Copy keys and values of the prompts into a cache for `length` tokens."""
    cache = StaticCache(config=model.config, max_cache_len=length)
    for layer, of_prompts in zip(_layers(cache), cast(list[Any], read.cache.layers), strict=True):
        keys, values = of_prompts.keys, of_prompts.values
        room = (0, 0, 0, length - keys.shape[-2])
        layer.keys, layer.values = (nn.functional.pad(part, room) for part in (keys, values))
        layer.cumulative_length = torch.tensor(keys.shape[-2], device=keys.device)
        layer.device, (layer.batch_size, layer.num_heads) = keys.device, keys.shape[:2]
        layer.k_head_dim, layer.v_head_dim = keys.shape[-1], values.shape[-1]
        layer.is_initialized = True
    return cache
