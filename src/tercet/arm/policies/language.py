"""A pretrained language model that reads the task as a sentence, and writes actions as tokens (Kim et al. 2024).

Its positions are the tokens of the sentence, then the observation, then one action token per joint. It is the first
layers of the model (as SmolVLA, Shukor et al. 2025, keeps the first half), frozen, with low-rank adapters. There are no
pictures: a position stands for the arm, and one for each thing on the table. It is a linear function of the entries
about it, and the embedding of its name. So the sentence can point at a thing by the word that both share.

The embeddings of the action tokens start as smooth functions of the actions, so that neighbours are alike, and their
logits start small. With the pretrained rows of the last ids, as in OpenVLA, a few hundred steps of cloning learned
nearly nothing.

The policy does not see what follows from the instruction (`Sizes.told`): it has to read.
"""

from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tercet.arm.networks.files import check_sizes, load_weights, read_json, save_model
from tercet.arm.networks.llama import Cache, Llama
from tercet.arm.networks.sentences import Sentences, first_layers, language_files, name_embedding
from tercet.arm.networks.sizes import Sizes
from tercet.arm.policies.action_tokens import NUM_BINS, ActionTokens, centres_of
from tercet.arm.sim.observations import INSTRUCTION, numbers_of
from tercet.config.arm import PolicyConfig
from tercet.errors import InputError
from tercet.pretrained.llama_files import digest_of
from tercet.runs.done import check_made

_INIT_STD = 1.0 / 24.0  # 576 ** -0.5, SmolLM2's initializer_range
_NUM_WAVES = 8  # sines and cosines of an action, the fastest with two periods over its range
_LOGIT_STD = 0.5  # of a new policy
_SHAPE = ("num_layers", "rank")


class LanguagePolicy(ActionTokens):
    """The first layers of a language model over [sentence, arm, things, token, token, ...]."""

    names: Tensor
    reads = True

    def __init__(
        self, sizes: Sizes, *, language_model: str, num_layers: int, rank: int, log_std: float | None = None
    ) -> None:
        super().__init__(sizes, log_std=log_std)
        if not sizes.sentences:
            raise InputError(
                "policy.kind=language: reads a sentence, and this environment gives none; set env=lift-two, or another "
                "policy.kind"
            )
        files = language_files(language_model)
        self.language_model, self.shape = language_model, {"num_layers": num_layers, "rank": rank}
        self.model, frozen = first_layers(files, num_layers, num_tokens=NUM_BINS, rank=rank)
        self.digest = digest_of(frozen)
        _start_smoothly(self.model)
        self.sentences = Sentences(files, sizes.sentences)
        self.entries = _entries_by_thing(sizes)
        width = self.model.shape.hidden_size
        self.projectors = nn.ModuleList(_projector(len(entries), width) for entries in self.entries.values())
        names = torch.stack([name_embedding(files, name) for name in self.entries])
        self.register_buffer("names", names, persistent=False)
        self._instruction = sizes.names.index(INSTRUCTION.name) if INSTRUCTION.name in sizes.names else None

    def read(self, observations: Float[Tensor, "n o"], *pictures: Tensor) -> tuple[Float[Tensor, "n s h"], Cache]:
        """Return a position for the arm and for each thing, and a cache of the sentences before them."""
        scaled = self.scaled(observations)
        numbers = zip(self.entries.values(), self.projectors, strict=True)
        embedded = torch.stack([projector(scaled[:, entries]) for entries, projector in numbers], 1) + self.names
        before = self.sentences.before(self.model, self._sentence_of(observations))
        return embedded, self.model.empty_cache(before)

    def save(self, folder: Path) -> None:
        """Write config.json and model.safetensors: what was learned, and which frozen weights it is for."""
        base = {"language_model": self.language_model, "digest": self.digest}
        save_model(self, folder, {"kind": "language", **self.sizes.numbers(), **self.shape, **base})

    def _sentence_of(self, observations: Float[Tensor, "n o"]) -> Int[Tensor, " n"]:
        if self._instruction is None:
            return torch.zeros(len(observations), dtype=torch.long, device=observations.device)
        entries = observations[:, self._instruction].detach().cpu().numpy()
        return torch.from_numpy(numbers_of(entries)).to(observations.device)


@torch.no_grad()
def _start_smoothly(model: Llama) -> None:
    """Set the embeddings of action tokens to random smooth functions of their actions, as large as the pretrained.

    Scale the last norm so that logits have about the deviation of `_LOGIT_STD`.
    """
    weight = model.embed_tokens.weight
    angles = centres_of(torch.arange(NUM_BINS), NUM_BINS)[:, None] * torch.arange(1, _NUM_WAVES + 1) * torch.pi / 2
    damped = torch.arange(1, _NUM_WAVES + 1).rsqrt()
    waves = torch.cat([angles.sin() * damped, angles.cos() * damped], 1)
    smooth = waves @ torch.randn(2 * _NUM_WAVES, weight.shape[1])
    smooth -= smooth.mean(0)
    weight.copy_(smooth * (weight.std() / smooth.std()))
    # a normalised position has entries of about 1, so its product with an embedding has this deviation
    size = (model.norm.weight * weight).square().sum(1).mean().sqrt()
    model.norm.weight.mul_(_LOGIT_STD / size)


def _projector(num_entries: int, width: int) -> nn.Linear:
    """Create a linear layer whose outputs are about as large as the embedding of a token."""
    projector = nn.Linear(num_entries, width)
    nn.init.normal_(projector.weight, std=_INIT_STD)
    nn.init.zeros_(projector.bias)
    return projector


def _entries_by_thing(sizes: Sizes) -> dict[str, list[int]]:
    """Return the entries that the policy sees by what they are about: the arm, '', and each thing on the table."""
    by_thing: dict[str, list[int]] = {"": []}
    for entry in range(sizes.observation):
        if not (sizes.told and sizes.told[entry]):
            by_thing.setdefault(sizes.of[entry] if sizes.of else "", []).append(entry)
    return by_thing


def new_language(sizes: Sizes, config: PolicyConfig) -> LanguagePolicy:
    """Create a policy over a pretrained model, with adapters that have no effect yet."""
    return LanguagePolicy(
        sizes,
        language_model=config.language_model,
        num_layers=config.num_layers,
        rank=config.lora_rank,
        log_std=config.log_std,
    )


def load_language(folder: Path, sizes: Sizes) -> LanguagePolicy:
    """Load a saved policy and freeze it. Raises InputError if `folder` holds none, or one with other sizes.

    It also raises if the language model below it is missing or is another one.
    """
    check_made(folder)
    file = folder / "config.json"
    tree = read_json(file)
    if tree.get("kind") != "language":
        raise InputError(f"{folder}: not a saved language policy")
    check_sizes(folder, {name: tree.get(name) for name in sizes.numbers()}, sizes.numbers())
    shape, base, digest = {name: tree.get(name) for name in _SHAPE}, tree.get("language_model"), tree.get("digest")
    whole = {name: size for name, size in shape.items() if type(size) is int and size > 0}
    if len(whole) < len(shape) or not isinstance(base, str):
        raise InputError(f"{file}: must hold {' and '.join(_SHAPE)} as whole numbers above 0, and language_model")
    policy = LanguagePolicy(sizes, language_model=base, **whole)
    if policy.digest != digest:
        raise InputError(
            f"{folder}: was trained on another model than what language_model={base} is here: its frozen weights differ"
        )
    return load_weights(policy, folder)
