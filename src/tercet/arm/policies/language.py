"""A pretrained language model that reads the task as a sentence, and writes actions as tokens (Kim et al. 2024).

The lower layers of the model read text only: each sentence, followed by the name of a thing on the table. From about
its tenth layer on, what SmolLM2 makes of a name says whether the sentence holds the same word. So these layers are
frozen, and what they read is computed once per sentence. The next layers get adapters, and act. Their positions are the
things, then the arm, then one action token per joint. The position of a thing is a linear function of the entries about
it, plus what was read of its name in contrast to the other things (`sentences.py::contrasts`). The position of the arm
has what was read of the sentence. There are no pictures.

With the sentence, the things and the actions as one text from the first layer on, the first two or three layers were
all that two CPU cores could train. They do not relate a name to the same word in the sentence, and a clone did not
learn to.

The embeddings of the action tokens start as smooth functions of the actions, so that neighbours are alike, and their
logits start small. With the pretrained rows of the last ids, as in OpenVLA, a few hundred steps of cloning learned
nearly nothing. The position of a token has an embedding of its joint too.

The policy does not see what follows from the instruction (`Sizes.told`): it has to read.
"""

from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tercet.arm.networks.files import check_sizes, load_weights, read_json, save_model
from tercet.arm.networks.llama import Llama
from tercet.arm.networks.sentences import acting_layers, contrasts, language_files, lower, read_names
from tercet.arm.networks.sizes import Sizes
from tercet.arm.policies.action_tokens import NUM_BINS, ActionTokens, centres_of, ids_of
from tercet.arm.sim.observations import INSTRUCTION, numbers_of
from tercet.config.arm import PolicyConfig
from tercet.errors import InputError
from tercet.pretrained.llama_files import digest_of
from tercet.runs.done import check_made

_INIT_STD = 1.0 / 24.0  # 576 ** -0.5, SmolLM2's initializer_range
_NUM_WAVES = 8  # sines and cosines of an action, the fastest with two periods over its range
_LOGIT_STD = 0.5  # of a new policy
_TEXT_STD = 0.125  # of what was read, about that of the embedding of a token
_SAME = 1e-6  # what was read differs less between sentences only by rounding
_SHAPE = ("reading_layers", "num_layers", "rank")


class LanguagePolicy(ActionTokens):
    """Layers of a language model over [things, arm, token, token, ...], above those that read the sentence."""

    text: Tensor
    text_mean: Tensor
    text_std: Tensor
    reads = True

    def __init__(
        self,
        sizes: Sizes,
        *,
        language_model: str,
        reading_layers: int,
        num_layers: int,
        rank: int,
        log_std: float | None = None,
    ) -> None:
        super().__init__(sizes, log_std=log_std)
        if not sizes.sentences:
            raise InputError(
                "policy.kind=language: reads a sentence, and this environment gives none; set env=lift-two, or another "
                "policy.kind"
            )
        files = language_files(language_model)
        self.language_model = language_model
        self.shape = {"reading_layers": reading_layers, "num_layers": num_layers, "rank": rank}
        weights = files.layers(reading_layers + num_layers)
        self.digest = digest_of(weights)
        self.model = acting_layers(files, weights, reading_layers, num_tokens=NUM_BINS, rank=rank)
        _start_smoothly(self.model)
        self.entries = _entries_by_thing(sizes)
        width = self.model.shape.hidden_size
        self.projectors = nn.ModuleList(_projector(len(entries), width) for entries in self.entries.values())
        self.joints = nn.Parameter(torch.randn(sizes.action, width) * _TEXT_STD)
        read = read_names(files, lower(weights, reading_layers), sizes.sentences, list(self.entries))
        self.register_buffer("text", contrasts(read, [bool(name) for name in self.entries]), persistent=False)
        self.register_buffer("text_mean", torch.zeros(self.text.shape[1:]))
        self.register_buffer("text_std", torch.ones(len(self.entries)))
        self._measure_text(torch.arange(len(sizes.sentences)))
        self._instruction = sizes.names.index(INSTRUCTION.name) if INSTRUCTION.name in sizes.names else None

    def measure(
        self, observations: Float[Tensor, "*shape o"], actions: Float[Tensor, "*shape a"], *pictures: Tensor
    ) -> None:
        """Set the scale of the entries, and of what is read of the sentences in these observations."""
        super().measure(observations, actions, *pictures)
        self._measure_text(self._sentence_of(observations.flatten(0, -2)).unique())

    def read(self, observations: Float[Tensor, "n o"], *pictures: Tensor) -> Float[Tensor, "n s h"]:
        """Return a position for each thing, and one for the arm."""
        scaled = self.scaled(observations)
        numbers = zip(self.entries.values(), self.projectors, strict=True)
        seen = torch.stack([projector(scaled[:, entries]) for entries, projector in numbers], 1)
        text = (self.text[self._sentence_of(observations)] - self.text_mean) / self.text_std[:, None]
        positions = seen + _TEXT_STD * text
        return torch.cat([positions[:, :-1], positions[:, -1:] + self.joints[0]], 1)

    def embed(self, decisions: Int[Tensor, "m t"], first: int) -> Float[Tensor, "m t h"]:
        """Return the embedding of each token, plus that of the joint that its position predicts."""
        return self.model.embed(decisions) + self.joints[first + 1 : first + 1 + decisions.shape[1]]

    def choice(self, logits: Float[Tensor, "n 256"]) -> Int[Tensor, " n"]:
        """Return the token whose bin holds the mean of the histogram (as in HL-Gauss, Farebrother et al. 2024).

        The histogram of a noisy action has a flat top, and which of its bins is highest is chance.
        """
        centres = centres_of(torch.arange(NUM_BINS), NUM_BINS).to(logits)
        return ids_of((logits.softmax(-1) * centres).sum(-1), NUM_BINS)

    def explore(self, log_std: float) -> None:
        """Freeze the embeddings of action tokens and the last norm. PPO then moves whole histograms, not single bins.

        A rollout has each bin a few times. With its embedding PPO would learn by chance which of two neighbours to
        prefer.
        """
        self.model.embed_tokens.requires_grad_(False)
        self.model.norm.requires_grad_(False)

    def _measure_text(self, numbers: Int[Tensor, " k"]) -> None:
        """Set the mean of what is read at each position after these sentences, and its deviation.

        The things share one deviation: where a sentence says little of them, that stays little.
        """
        read = self.text[numbers]
        self.text_mean.copy_(read.mean(0))
        of_things = torch.tensor([bool(name) for name in self.entries], device=read.device)
        for group in (of_things, ~of_things):
            if group.any():
                std = (read - self.text_mean)[:, group].square().mean().sqrt()
                self.text_std[group] = std if std > _SAME * self.text.abs().max() else 1.0

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
    """Return the entries that the policy sees by what they are about: each thing on the table, and last the arm, ''."""
    by_thing: dict[str, list[int]] = {}
    for entry in range(sizes.observation):
        if not (sizes.told and sizes.told[entry]):
            by_thing.setdefault(sizes.of[entry] if sizes.of else "", []).append(entry)
    return {name: entries for name, entries in by_thing.items() if name} | {"": by_thing.get("", [])}


def new_language(sizes: Sizes, config: PolicyConfig) -> LanguagePolicy:
    """Create a policy over a pretrained model, with adapters that have no effect yet."""
    return LanguagePolicy(
        sizes,
        language_model=config.language_model,
        reading_layers=config.reading_layers,
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
        raise InputError(f"{file}: must hold {', '.join(_SHAPE)} as whole numbers above 0, and language_model")
    policy = LanguagePolicy(sizes, language_model=base, **whole)
    if policy.digest != digest:
        raise InputError(
            f"{folder}: was trained on another model than what language_model={base} is here: its frozen weights differ"
        )
    return load_weights(policy, folder)
