"""Actions as tokens, as in OpenVLA (Kim et al. 2024): a language model generates one token per joint.

A token is one of 256 bins of [-1, 1]. Tokens use the last ids of the vocabulary. A linear layer maps the observation to
the prefix. For PPO the log-probability of an action is the sum over its tokens, as for a response.

The loss of a token ignores that neighbouring bins are similar, and a policy that is certain of a few tokens does not
explore. So the policy is cloned from demonstrated actions with fresh Gaussian noise in each step. It learns the
histogram of a Gaussian around each action (as in HL-Gauss, Farebrother et al. 2024) and explores with that width.
"""

import math
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tercet.arm.networks.files import load_weights, read_config, save_model
from tercet.arm.networks.layers import Scaled
from tercet.arm.networks.llama import HEAD_SIZE, Llama, LlamaShape
from tercet.arm.networks.sizes import Sizes
from tercet.arm.policies.distributions import Categorical
from tercet.arm.policies.policy import Policy
from tercet.config.arm import PolicyConfig
from tercet.core import categorical

NUM_BINS = 256  # edges from -1 to 1; between them lie 255 centres
EDGES = torch.linspace(-1.0, 1.0, NUM_BINS)


class ActionTokens(Policy):
    """A Llama over [what is observed, token, token, ...]. A decision is one token id per joint.

    A subclass says by which positions it reads an observation, and sets `model`, whose last ids are the action tokens.
    """

    model: Llama
    num_tokens: int  # of an action

    def __init__(self, sizes: Sizes, *, log_std: float | None) -> None:
        super().__init__()
        self.sizes = sizes
        self.num_tokens = self.noise_size = sizes.action
        self.noise_std = 0.0 if log_std is None else math.exp(log_std)  # of the noise on cloned actions
        self.scaled = Scaled(sizes.observation)

    def read(self, observations: Float[Tensor, "n o"], *pictures: Tensor) -> Float[Tensor, "n s h"]:
        """Return the positions that stand for each observation. The last one predicts the first token."""
        raise NotImplementedError

    def embed(self, decisions: Int[Tensor, "m t"], first: int) -> Float[Tensor, "m t h"]:
        """Return the positions of some tokens of decisions, from number `first` of each decision on."""
        return self.model.embed(decisions)

    def encoded(self, actions: Float[Tensor, "*shape a"]) -> Float[Tensor, "*shape n"]:
        """Convert actions to the numbers that tokens stand for, one for each token."""
        return actions

    def decoded(self, numbers: Float[Tensor, "*shape n"]) -> Float[Tensor, "*shape a"]:
        """Convert the numbers that tokens stand for to actions."""
        return numbers

    def decide(
        self, observations: Float[Tensor, "*shape o"], noise: Float[Tensor, "*shape n"] | None, *pictures: Tensor
    ) -> Int[Tensor, "*shape n"]:
        """Sample one token after another from standard normal noise; without noise take those of `choice`."""
        embedded, cache = self._read(observations, pictures), self.model.empty_cache()
        draws = None if noise is None else noise.flatten(0, -2)
        chosen: list[Tensor] = []
        for index in range(self.num_tokens):
            logits = self._logits(self.model(embedded, cache)[:, -1])
            if draws is None:
                token = self.choice(logits)
            else:  # the normal CDF turns the noise into uniform numbers
                token = categorical.sample(logits, torch.special.ndtr(draws[:, index]), temperature=1.0).actions
            chosen.append(token + self._first_id)
            if index + 1 < self.num_tokens:
                embedded = self.embed(chosen[-1][:, None], index)
        return torch.stack(chosen, -1).unflatten(0, observations.shape[:-1])

    def choice(self, logits: Float[Tensor, "n 256"]) -> Int[Tensor, " n"]:
        """Return the number of the action token to take without noise: the most likely one."""
        return logits.argmax(-1)

    def actions(self, decisions: Int[Tensor, "*shape n"]) -> Float[Tensor, "*shape 1 a"]:
        """Return the action of the centres of the tokens' bins."""
        return self.decoded(centres_of(decisions, self._vocab_size)).unsqueeze(-2)

    def distribution(
        self, observations: Float[Tensor, "*shape o"], decisions: Int[Tensor, "*shape n"], *pictures: Tensor
    ) -> Categorical:
        """Return the distribution of these decisions, over the 256 action tokens only."""
        before = self.embed(decisions.flatten(0, -2)[:, :-1], 0)
        embedded = self._read(observations, pictures)
        hidden = self.model(torch.cat([embedded, before], 1))[:, embedded.shape[1] - 1 :]
        return Categorical(decisions - self._first_id, self._logits(hidden).unflatten(0, decisions.shape[:-1]))

    def imitation_loss(
        self,
        observations: Float[Tensor, "b o"],
        actions: Float[Tensor, "b 1 a"],
        mask: Bool[Tensor, "b 1"],
        *pictures: Tensor,
    ) -> Float[Tensor, ""]:
        """Return the cross-entropy of the tokens of noisy demonstrated actions: mean over tokens, sum over rows.

        The noise is drawn by torch's global generator, which `fit` seeds. The preceding tokens are noisy too.
        """
        noised = actions[:, 0] + self.noise_std * torch.randn(actions[:, 0].shape).to(actions)
        targets = ids_of(self.encoded(noised), self._vocab_size)
        return -self.distribution(observations, targets, *pictures).logprobs().sum() / self.num_tokens

    def explore(self, log_std: float) -> None:
        """Do nothing: exploration comes from the token probabilities, which cloning with noise made wide."""

    def _read(self, observations: Float[Tensor, "*shape o"], pictures: tuple[Tensor, ...]) -> Float[Tensor, "n s h"]:
        return self.read(observations.flatten(0, -2), *(one.flatten(0, observations.ndim - 2) for one in pictures))

    @property
    def _vocab_size(self) -> int:
        return self.model.shape.vocab_size

    @property
    def _first_id(self) -> int:
        return self._vocab_size - NUM_BINS

    def _logits(self, hidden: Float[Tensor, "*shape h"]) -> Float[Tensor, "*shape 256"]:
        return hidden @ self.model.embed_tokens.weight[self._first_id :].T


class TokenPolicy(ActionTokens):
    """A small Llama from scratch. A linear layer maps the observation to one position."""

    def __init__(
        self, sizes: Sizes, *, hidden_size: int, num_layers: int, vocab_size: int, log_std: float | None = None
    ) -> None:
        super().__init__(sizes, log_std=log_std)
        self.shape = {"hidden_size": hidden_size, "num_layers": num_layers, "vocab_size": vocab_size}
        self.projector = nn.Linear(sizes.observation, hidden_size)
        self.model = Llama(llama_shape(hidden_size, num_layers, vocab_size))

    def read(self, observations: Float[Tensor, "n o"], *pictures: Tensor) -> Float[Tensor, "n 1 h"]:
        """Return the observation as one position."""
        return self.projector(self.scaled(observations))[:, None]

    def save(self, folder: Path) -> None:
        """Write config.json and model.safetensors."""
        save_model(self, folder, {"kind": "tokens", **self.sizes.numbers(), **self.shape})


def new_tokens(sizes: Sizes, config: PolicyConfig) -> TokenPolicy:
    """Create a policy whose vocabulary is the action tokens."""
    return TokenPolicy(
        sizes,
        hidden_size=config.hidden_size,
        num_layers=config.num_layers,
        vocab_size=NUM_BINS,
        log_std=config.log_std,
    )


def load_tokens(folder: Path, sizes: Sizes) -> TokenPolicy:
    """Load a saved policy and freeze it. Raises InputError if `folder` holds none, or one with other sizes."""
    shape = read_config(folder, "tokens", ("hidden_size", "num_layers", "vocab_size"), **sizes.numbers())
    return load_weights(TokenPolicy(sizes, **shape), folder)


def llama_shape(hidden_size: int, num_layers: int, vocab_size: int) -> LlamaShape:
    """Scale SmolLM2's proportions to another width: heads of 64, three per key head, 8/3 of the width in the MLP."""
    num_heads = max(1, hidden_size // HEAD_SIZE)
    num_key_heads = num_heads // 3 if num_heads % 3 == 0 else num_heads
    return LlamaShape(vocab_size, hidden_size, hidden_size * 8 // 3, num_layers, num_heads, num_key_heads)


def ids_of(actions: Float[Tensor, "*shape a"], vocab_size: int) -> Int[Tensor, "*shape a"]:
    """Return the token of each number: the count of edges at or below it, from the end of the vocabulary."""
    counts = torch.bucketize(actions.clamp(-1.0, 1.0).contiguous(), EDGES.to(actions), right=True)
    return vocab_size - counts


def centres_of(ids: Int[Tensor, "*shape a"], vocab_size: int) -> Float[Tensor, "*shape a"]:
    """Return the number that each token represents. The last two ids share a bin: 256 edges enclose 255 bins."""
    bins = (vocab_size - ids - 1).clamp(0, NUM_BINS - 2)
    return ((EDGES[:-1] + EDGES[1:]) / 2).to(ids.device)[bins]
