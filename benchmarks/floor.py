"""What no implementation goes below: the arithmetic and the memory traffic of a PPO step, over what the machine can do.

A floor is max(FLOPs / peak, bytes / bandwidth) of each part of the work, summed. Peak and bandwidth are the best that
the machine showed in the same run, so the floor moves with the machine. A product of matrices (m, k) and (k, n) takes
2mkn FLOPs; a backward pass takes twice its forward.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

Clock = Callable[[], float]
# CPU seconds of one thread are worth something on a busy machine too
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass(frozen=True)
class Cost:
    """What one part of the work cannot do without."""

    flops: float = 0.0
    bytes: float = 0.0


@dataclass(frozen=True)
class Machine:
    """The best that was seen: FLOPs a second of a matrix product, and bytes a second read from memory."""

    flops_per_s: float
    bytes_per_s: float

    def seconds(self, costs: Sequence[Cost]) -> float:
        """The floor of several parts, one after the other."""
        return sum(max(cost.flops / self.flops_per_s, cost.bytes / self.bytes_per_s) for cost in costs)


def measured(
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    size: int = 2048,
    num: int = 2**26,
    clock: Clock = time.perf_counter,
) -> Machine:
    """Time products of square matrices of `size`, and sums over `num` numbers: more than any cache holds."""
    one, other = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    many = torch.zeros(num, device=device)
    product = _fastest(lambda: one @ other, device, clock)
    read = _fastest(many.sum, device, clock)
    return Machine(2 * size**3 / product, 4 * num / read)


def _fastest(call: Callable[[], object], device: str, clock: Clock, seconds: float = 1.0) -> float:
    def timed() -> float:
        start = clock()
        call()
        if device != "cpu":
            torch.cuda.synchronize()
        return clock() - start

    timed(), timed()
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        best = min(best, timed())
    return best


@dataclass(frozen=True)
class Shape:
    """A transformer: the weights of its matrices and of all of it, and how many bytes a number takes."""

    matrices: int
    head: int
    num_parameters: int
    layers: int
    hidden: int
    width: int = 4

    @classmethod
    def of(cls, model: PreTrainedModel, *, width: int = 4) -> "Shape":
        """Counted on a language model or a score model; the head lies between the last state and the logits."""
        outside = [m for name, m in model.named_modules() if name in ("lm_head", "score")]
        products = [m for m in model.modules() if isinstance(m, nn.Linear) and m not in outside]
        head = model.get_output_embeddings()
        return cls(
            matrices=sum(m.weight.numel() for m in products),
            head=head.weight.numel() if head is not None else 0,
            num_parameters=sum(p.numel() for p in model.parameters()),
            layers=model.config.num_hidden_layers,
            hidden=model.config.hidden_size,
            width=width,
        )

    def forward(self, lengths: Sequence[int], *, num_logits: int = 0) -> Cost:
        """Rows of these lengths in one pass, with logits at `num_logits` positions."""
        keys = sum(n * (n + 1) // 2 for n in lengths)
        flops = 2 * self.matrices * sum(lengths) + 4 * self.hidden * self.layers * keys + 2 * self.head * num_logits
        return Cost(flops, self.width * (self.matrices + self.head * bool(num_logits)))

    def decode(self, seen: Sequence[int]) -> Cost:
        """One token more for rows that have seen so many: all weights and all keys and values are read."""
        flops = 2 * (self.matrices + self.head) * len(seen) + 4 * self.hidden * self.layers * sum(seen)
        return Cost(flops, self.width * (self.matrices + self.head + 2 * self.hidden * self.layers * sum(seen)))

    def backward(self, lengths: Sequence[int], *, num_logits: int = 0) -> Cost:
        """The gradients of weights and of states."""
        once = self.forward(lengths, num_logits=num_logits)
        return Cost(2 * once.flops, 2 * once.bytes)

    def optimizer(self) -> Cost:
        """AdamW in fp32 reads weight, gradient and two moments, and writes all but the gradient."""
        return Cost(0.0, 4 * 7 * self.num_parameters)


@dataclass(frozen=True)
class Sampled:
    """The tokens of one step's prompts and answers, row by row."""

    prompts: Sequence[int]
    answers: Sequence[int]

    @property
    def lengths(self) -> list[int]:
        """Prompt and answer together."""
        return [p + a for p, a in zip(self.prompts, self.answers, strict=True)]

    def live(self, t: int) -> list[int]:
        """How many tokens each row has seen that still draws its token number `t`, counted from 0."""
        return [p + t for p, a in zip(self.prompts, self.answers, strict=True) if a > t]


def costs_of_step(actor: Shape, critic: Shape, work: Sampled, *, vocab: int) -> dict[str, list[Cost]]:
    """Every phase of a PPO step by its name; reference and reward model have the shapes of actor and critic."""
    num_rows, num_drawn = len(work.prompts), sum(work.answers)
    lengths = work.lengths
    steps = range(max(work.answers))
    return {
        "reading prompts": [actor.forward(work.prompts, num_logits=num_rows)],
        "decoding": [actor.decode(work.live(t)) for t in steps if t],
        "drawing": [Cost(0.0, 4 * vocab * len(work.live(t))) for t in steps],
        "reference": [actor.forward(lengths, num_logits=num_drawn)],
        "values": [critic.forward(lengths)],
        "scores": [critic.forward(lengths)],
        "critic forward": [critic.forward(lengths)],
        "critic backward": [critic.backward(lengths)],
        "critic optimizer": [critic.optimizer()],
        "actor forward": [actor.forward(lengths, num_logits=num_drawn)],
        "actor backward": [actor.backward(lengths, num_logits=num_drawn)],
        "actor optimizer": [actor.optimizer()],
    }


SAMPLING = ("reading prompts", "decoding", "drawing")
