"""What the phases of a step cost in arithmetic and in memory traffic: each formula once, on plain numbers.

A product of (n, k) and (k, m) counts 2 n k m operations. What is left out (norms, activations, softmax, sampling) is
little arithmetic, but not little time on small models.
"""

from collections.abc import Sequence
from dataclasses import dataclass

ADAMW_TRAFFIC = 7 * 4  # bytes a weight that learns: weight, gradient and two moments read, all but the gradient written


@dataclass(frozen=True)
class Network:
    """The numbers of one network that its cost follows from."""

    num_layers: int
    width: int  # of attention's queries, all heads together
    kv_width: int  # of attention's keys, all heads together
    matrices: int  # weights of the products in all layers, adapters not counted
    unread: int  # of these, the last layer's behind its attention: no token passes them whose state nobody reads
    adapters: int  # weights of low-rank adapters; all of them count for every token
    head: int  # weights of the head
    learning: int  # weights that learn
    weight_bytes: int  # bytes of one weight of `matrices`; the head's are in fp32


@dataclass(frozen=True)
class Sizes:
    """Tokens of a prompt and of an answer."""

    prompt: int
    response: int

    @property
    def row(self) -> int:
        """Tokens of both."""
        return self.prompt + self.response


@dataclass(frozen=True)
class Cost:
    """Operations on numbers, and bytes that must be moved between memory and processor."""

    flops: int
    bytes: int
    head_flops: int = 0  # of `flops`, those of the head, which are in fp32 whatever the precision

    def seconds(self, *, flops_per_s: float, bytes_per_s: float, fp32_flops_per_s: float = 0.0) -> float:
        """The least time in which a machine of these rates can do it: arithmetic and traffic overlap.

        Without a rate of its own fp32 is as fast as the rest.
        """
        head = self.head_flops / (fp32_flops_per_s or flops_per_s)
        return max((self.flops - self.head_flops) / flops_per_s + head, self.bytes / bytes_per_s)


def attention_flops(network: Network, lengths: Sequence[int]) -> int:
    """Scores and sums of causal attention: token t looks at t tokens, two products of `width` each."""
    return sum(4 * network.width * network.num_layers * length * (length + 1) // 2 for length in lengths)


def _passed(network: Network, lengths: Sequence[int], num_read: int) -> int:
    """Weights that the tokens pass through, each counted once a token."""
    tokens = sum(lengths)
    return network.matrices * tokens - network.unread * (tokens - num_read) + network.head * num_read


def _weights(network: Network) -> int:
    """Bytes of the weights that are read."""
    return network.weight_bytes * network.matrices + 4 * network.head


def forward(network: Network, lengths: Sequence[int], num_read: int) -> Cost:
    """One forward pass over rows of these lengths; the head reads `num_read` of their tokens."""
    products = _passed(network, lengths, num_read) + network.adapters * sum(lengths)
    flops = 2 * products + attention_flops(network, lengths)
    return Cost(flops, _weights(network), 2 * network.head * num_read)


def learn(network: Network, lengths: Sequence[int], num_read: int, *, recompute: bool = False) -> Cost:
    """Forward and backward: a product has two of its size behind it, for its input and for its weight.

    Frozen weights need the first alone. `recompute`: the layers once more (gradient checkpointing).
    """
    ahead = forward(network, lengths, num_read)
    spared = 2 * _passed(network, lengths, num_read) if network.adapters else 0
    again = forward(network, lengths, 0).flops if recompute else 0
    of_head = (2 if network.adapters else 3) * ahead.head_flops
    return Cost(3 * ahead.flops - spared + again, 3 * ahead.bytes, of_head)


def apply(network: Network) -> Cost:
    """One step of AdamW."""
    return Cost(10 * network.learning, ADAMW_TRAFFIC * network.learning)


def read_prompts(network: Network, prompt_lengths: Sequence[int]) -> Cost:
    """The prompts once, and the first token of each answer."""
    return forward(network, prompt_lengths, len(prompt_lengths))


def decode(network: Network, context_lengths: Sequence[int]) -> Cost:
    """One more token for each row, with a cache of `context_lengths` tokens: every weight and key is read once."""
    rows, seen = len(context_lengths), sum(context_lengths)
    flops = 2 * (network.matrices + network.head) * rows + 4 * network.width * network.num_layers * seen
    cache = 2 * network.kv_width * network.num_layers * seen * network.weight_bytes
    return Cost(flops, _weights(network) + cache, 2 * network.head * rows)


def generate(network: Network, prompt_lengths: Sequence[int], response_lengths: Sequence[int]) -> list[Cost]:
    """Reading the prompts, then one entry for each token of the longest answer behind its first."""
    steps = [read_prompts(network, prompt_lengths)]
    pairs = list(zip(prompt_lengths, response_lengths, strict=True))
    for t in range(1, max(response_lengths, default=0)):
        steps.append(decode(network, [prompt + t for prompt, response in pairs if response > t]))
    return steps


def cache_bytes(network: Network, num_tokens: int, bytes_a_number: int) -> int:
    """Keys and values of so many tokens."""
    return 2 * network.kv_width * network.num_layers * num_tokens * bytes_a_number
