"""Actions as tokens, in the manner of OpenVLA (Kim et al. 2024): a language model writes one word for each joint.

A word is one of 256 bins of [-1, 1], on the last ids of the vocabulary. The observation is the prefix, through a linear
layer. For PPO an action's log-probability is the sum of its tokens', as that of an answer is.

A word says nothing of its neighbours, and a policy that is sure of a handful of words has nothing left to try. So it is
cloned from demonstrated actions with Gaussian noise on them, anew in each step: what it learns is the histogram of a
Gaussian around each (as HL-Gauss, Farebrother et al. 2024), and it explores as widely as that.
"""

import math
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tercet.arm.policies.distributions import Categorical
from tercet.arm.policies.llama import HEAD_SIZE, Llama, LlamaShape
from tercet.arm.policies.roles import Policy, Scaled, Sizes, filled, read_config, save
from tercet.config.arm import PolicyConfig
from tercet.core import categorical

NUM_BINS = 256  # edges from -1 to 1; between them lie 255 centres
EDGES = torch.linspace(-1.0, 1.0, NUM_BINS)


class TokenPolicy(Policy):
    """A Llama over [observation, token, token, ...]; decisions are ids of the vocabulary, one for each joint."""

    def __init__(
        self, sizes: Sizes, *, hidden_size: int, num_layers: int, vocab_size: int, log_std: float | None = None
    ) -> None:
        super().__init__()
        self.sizes, self.noise_size = sizes, sizes.action
        self.spread = 0.0 if log_std is None else math.exp(log_std)  # of the noise on actions that are cloned
        self.shape = {"hidden_size": hidden_size, "num_layers": num_layers, "vocab_size": vocab_size}
        self.scaled = Scaled(sizes.observation)
        self.projector = nn.Linear(sizes.observation, hidden_size)
        self.model = Llama(llama_shape(hidden_size, num_layers, vocab_size))

    def decide(
        self, observations: Float[Tensor, "*shape o"], noise: Float[Tensor, "*shape a"] | None, *pictures: Tensor
    ) -> Int[Tensor, "*shape a"]:
        """Tokens one after another, given standard normal noise; the most likely ones without."""
        embedded, past = self._prefix(observations), self.model.nothing_past()
        draws = None if noise is None else noise.flatten(0, -2)
        chosen: list[Tensor] = []
        for place in range(self.sizes.action):
            logits = self._logits(self.model(embedded, past)[:, -1])
            if draws is None:
                token = logits.argmax(-1)
            else:  # the normal distribution's own function makes uniform numbers of the noise
                token = categorical.sample(logits, torch.special.ndtr(draws[:, place]), temperature=1.0).actions
            chosen.append(token + self._first_id)
            embedded = self.model.embed(chosen[-1][:, None])
        return torch.stack(chosen, -1).unflatten(0, observations.shape[:-1])

    def actions(self, decisions: Int[Tensor, "*shape a"]) -> Float[Tensor, "*shape 1 a"]:
        """The centre of each token's bin."""
        return centres_of(decisions, self.shape["vocab_size"]).unsqueeze(-2)

    def look(
        self, observations: Float[Tensor, "*shape o"], decisions: Int[Tensor, "*shape a"], *pictures: Tensor
    ) -> Categorical:
        """What the policy thinks of these decisions; the 256 words of actions share all the probability."""
        before = self.model.embed(decisions.flatten(0, -2)[:, :-1])
        seen = self.model(torch.cat([self._prefix(observations), before], 1))
        return Categorical(decisions - self._first_id, self._logits(seen).unflatten(0, decisions.shape[:-1]))

    def imitation_loss(
        self,
        observations: Float[Tensor, "b o"],
        actions: Float[Tensor, "b 1 a"],
        mask: Bool[Tensor, "b 1"],
        *pictures: Tensor,
    ) -> Float[Tensor, ""]:
        """Cross-entropy of the tokens of demonstrated actions with noise, averaged over joints and summed over rows.

        The noise is drawn by torch's own generator, which `fit` seeds; the words before a word have it too.
        """
        noised = actions[:, 0] + self.spread * torch.randn_like(actions[:, 0])
        wanted = ids_of(noised, self.shape["vocab_size"])
        return -self.look(observations, wanted).logprobs().sum() / self.sizes.action

    def explore(self, log_std: float) -> None:
        """Nothing: tokens are drawn from the policy's own probabilities, which cloning made so wide."""

    def save(self, folder: Path) -> None:
        """config.json and model.safetensors."""
        save(self, folder, {"kind": "tokens", **self.sizes.numbers(), **self.shape})

    @property
    def _first_id(self) -> int:
        return self.shape["vocab_size"] - NUM_BINS

    def _prefix(self, observations: Float[Tensor, "*shape o"]) -> Float[Tensor, "n 1 h"]:
        return self.projector(self.scaled(observations)).reshape(-1, 1, self.shape["hidden_size"])

    def _logits(self, seen: Float[Tensor, "*shape h"]) -> Float[Tensor, "*shape 256"]:
        return seen @ self.model.embed_tokens.weight[self._first_id :].T


def new_tokens(sizes: Sizes, config: PolicyConfig) -> TokenPolicy:
    """A fresh one, whose vocabulary is the words of actions alone."""
    return TokenPolicy(
        sizes,
        hidden_size=config.hidden_size,
        num_layers=config.num_layers,
        vocab_size=NUM_BINS,
        log_std=config.log_std,
    )


def load_tokens(folder: Path, sizes: Sizes) -> TokenPolicy:
    """A saved one, frozen; InputError where it is none, or one for another arm."""
    shape = read_config(folder, "tokens", observation=sizes.observation, action=sizes.action)
    return filled(TokenPolicy(sizes, **shape), folder)


def llama_shape(hidden_size: int, num_layers: int, vocab_size: int) -> LlamaShape:
    """SmolLM2's proportions at another width: heads of 64, three for each key head, 8/3 of the width between layers."""
    num_heads = max(1, hidden_size // HEAD_SIZE)
    num_key_heads = num_heads // 3 if num_heads % 3 == 0 else num_heads
    return LlamaShape(vocab_size, hidden_size, hidden_size * 8 // 3, num_layers, num_heads, num_key_heads)


def ids_of(actions: Float[Tensor, "*shape a"], vocab_size: int) -> Int[Tensor, "*shape a"]:
    """The token of each number: of 256 edges, how many lie at or below it, counted from the vocabulary's end."""
    counts = torch.bucketize(actions.clamp(-1.0, 1.0).contiguous(), EDGES, right=True)
    return vocab_size - counts


def centres_of(ids: Int[Tensor, "*shape a"], vocab_size: int) -> Float[Tensor, "*shape a"]:
    """The number that each token stands for; the last two bins are one, because 256 edges enclose 255."""
    bins = (vocab_size - ids - 1).clamp(0, NUM_BINS - 2)
    return ((EDGES[:-1] + EDGES[1:]) / 2)[bins]
