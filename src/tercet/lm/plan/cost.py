"""The cost of the phases of a step in arithmetic and memory traffic: pure functions of numbers.

A product of (n, k) and (k, m) counts 2 n k m operations. Norms, activations, softmax and sampling are not counted: they
are little arithmetic, but they take time on small models.
"""

from collections.abc import Sequence
from dataclasses import dataclass

ADAMW_TRAFFIC = (
    7 * 4
)  # bytes per trainable weight: weight, gradient and two moments are read; all but the gradient are written


@dataclass(frozen=True)
class Network:
    """The numbers of one network that determine its cost."""

    num_layers: int
    width: int  # of the queries, all heads together
    kv_width: int  # of the keys, all heads together
    matrices: int  # weights of the products in all layers, without adapters
    unread: int  # of these, the last layer's after attention: only tokens whose state is read pass them
    adapters: int  # weights of low-rank adapters
    head: int  # weights of the head
    learning: int  # trainable weights
    weight_bytes: int  # bytes of one weight of `matrices`; the head is in fp32


@dataclass(frozen=True)
class Sizes:
    """Tokens of a prompt and of a response."""

    prompt: int
    response: int

    @property
    def row(self) -> int:
        """Tokens of prompt and response together."""
        return self.prompt + self.response


@dataclass(frozen=True)
class Cost:
    """Arithmetic operations, and bytes moved between memory and processor."""

    flops: int
    bytes: int
    head_flops: int = 0  # the part of `flops` in the head, which is always in fp32

    def seconds(self, *, flops_per_s: float, bytes_per_s: float, fp32_flops_per_s: float = 0.0) -> float:
        """Return the least time on a machine with these rates; arithmetic and memory traffic overlap.

        Without `fp32_flops_per_s`, fp32 is as fast as the rest.
        """
        head = self.head_flops / (fp32_flops_per_s or flops_per_s)
        return max((self.flops - self.head_flops) / flops_per_s + head, self.bytes / bytes_per_s)


def attention_flops(network: Network, lengths: Sequence[int]) -> int:
    """Count the operations of causal attention: token t attends to t tokens, with two products of `width` each."""
    return sum(4 * network.width * network.num_layers * length * (length + 1) // 2 for length in lengths)


def _passed(network: Network, lengths: Sequence[int], num_read: int) -> int:
    """Count the weights that the tokens pass through, once per token."""
    tokens = sum(lengths)
    return network.matrices * tokens - network.unread * (tokens - num_read) + network.head * num_read


def _weights(network: Network) -> int:
    """Return the bytes of the weights that are read."""
    return network.weight_bytes * network.matrices + 4 * network.head


def forward(network: Network, lengths: Sequence[int], num_read: int) -> Cost:
    """Return the cost of a forward pass over rows of these lengths; the head reads `num_read` of their tokens."""
    products = _passed(network, lengths, num_read) + network.adapters * sum(lengths)
    flops = 2 * products + attention_flops(network, lengths)
    return Cost(flops, _weights(network), 2 * network.head * num_read)


def learn(network: Network, lengths: Sequence[int], num_read: int, *, recompute: bool = False) -> Cost:
    """Return the cost of forward and backward pass: each product has two in the backward pass, for input and weight.

    Frozen weights need only the first. With `recompute`, the layers are computed again (gradient checkpointing).
    """
    ahead = forward(network, lengths, num_read)
    saved = 2 * _passed(network, lengths, num_read) if network.adapters else 0
    again = forward(network, lengths, 0).flops if recompute else 0
    of_head = (2 if network.adapters else 3) * ahead.head_flops
    return Cost(3 * ahead.flops - saved + again, 3 * ahead.bytes, of_head)


def apply(network: Network) -> Cost:
    """Return the cost of one step of AdamW."""
    return Cost(10 * network.learning, ADAMW_TRAFFIC * network.learning)


def read_prompts(network: Network, prompt_lengths: Sequence[int]) -> Cost:
    """Return the cost of reading the prompts and drawing the first token of each response."""
    return forward(network, prompt_lengths, len(prompt_lengths))


def decode(network: Network, context_lengths: Sequence[int]) -> Cost:
    """Return the cost of one more token per row with `context_lengths` cached tokens; each weight is read once."""
    rows, cached = len(context_lengths), sum(context_lengths)
    flops = 2 * (network.matrices + network.head) * rows + 4 * network.width * network.num_layers * cached
    cache = 2 * network.kv_width * network.num_layers * cached * network.weight_bytes
    return Cost(flops, _weights(network) + cache, 2 * network.head * rows)


def generate(network: Network, prompt_lengths: Sequence[int], response_lengths: Sequence[int]) -> list[Cost]:
    """Return the cost of reading the prompts, then of each further token of the longest response."""
    steps = [read_prompts(network, prompt_lengths)]
    pairs = list(zip(prompt_lengths, response_lengths, strict=True))
    for t in range(1, max(response_lengths, default=0)):
        steps.append(decode(network, [prompt + t for prompt, response in pairs if response > t]))
    return steps


def cache_bytes(network: Network, num_tokens: int, bytes_a_number: int) -> int:
    """Return the bytes of keys and values of `num_tokens` tokens."""
    return 2 * network.kv_width * network.num_layers * num_tokens * bytes_a_number
