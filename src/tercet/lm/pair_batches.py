"""The preference pairs from which reward model and DPO learn, of the data or sampled, as batches of tokens."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tercet.config.lm import LmConfig
from tercet.errors import InputError
from tercet.lm.batch import TokenBatch
from tercet.lm.data.columns import columns_of_run
from tercet.lm.data.examples import Example, Message
from tercet.lm.data.splits import Sets, StepExamples, flat, require_pairs, step_examples
from tercet.lm.preferences.pair_scores import PairScores
from tercet.lm.preferences.pairs import sampled_pairs, with_round
from tercet.lm.stages import model_of, sft_model
from tercet.lm.text.encoder import Encoder
from tercet.runs.folder import RunFolder
from tercet.runs.progress import progress
from tercet.runs.rounds import in_round
from tercet.train.parallel import combined, even, own_rows


def preference_pairs(folder: RunFolder, config: LmConfig, number: int = 0) -> tuple[StepExamples, Encoder]:
    """Return the pairs of the data, or pairs sampled from the SFT model if it has none, and the encoder for them.

    The pairs of rounds 1 to `number` are added, each sampled from the actor that PPO had kept before the round.
    """
    examples, encoder = step_examples(config.data, "reward", columns_of_run(config)), Encoder.of(config)
    if samples_pairs(examples, config.reward.num_sampled_pairs):
        # a response that was cut off when sampled must not get an EOS here: PPO scores it without one
        encoder = replace(encoder, max_response_tokens=encoder.max_sampled_tokens)
        pairs = sampled_pairs(folder, config, encoder, examples, sft_model(folder, config.ppo.policy))
    else:
        require_pairs(examples)
        pairs = examples
        if number:  # sampled responses must not be cut, since PPO scores them whole
            encoder = replace(encoder, max_response_tokens=max(encoder.max_response_tokens, encoder.max_sampled_tokens))
    for one in range(1, number + 1):
        actor = model_of(folder, in_round("ppo", one - 1))
        pairs = with_round(pairs, sampled_pairs(folder, config, encoder, examples, actor, number=one), one)
    return encoder.pairs_that_differ(pairs), encoder


def samples_pairs(examples: StepExamples, num_sampled_pairs: int) -> bool:
    """Return True if the data has no pairs and they are to be sampled."""
    has_pairs = any(example.rejected is not None for example in flat(examples.train))
    return bool(num_sampled_pairs) and not has_pairs


def held_out_pairs(examples: StepExamples, encoder: Encoder, *, most: int, step: str) -> Sets:
    """Return at most so many held-out pairs of each set that are not too long; InputError if there is none."""
    pairs = {name: [e for e in rows if e.rejected is not None][:most] for name, rows in examples.held_out.items()}
    found = {name: rows for name, rows in encoder.within_limits(pairs, "held out").items() if rows}
    if not found:
        raise InputError(
            f"{step}: no pairs are held out to measure on; raise data.eval_fraction or give data.eval pairs"
        )
    return found


@dataclass(frozen=True)
class Pairs:
    """The rows of chosen and rejected responses in a batch; a response that is in several pairs has one row."""

    batch: TokenBatch
    chosen: Int[Tensor, " n"]
    rejected: Int[Tensor, " n"]

    @property
    def num(self) -> int:
        """The number of pairs."""
        return len(self.chosen)


class PairBatches:
    """Make micro-batches of preference pairs on a device."""

    def __init__(self, encoder: Encoder, device: torch.device, size: int) -> None:
        self.encoder, self.device, self.size = encoder, device, size

    def of(self, examples: Sequence[Example]) -> list[Pairs]:
        """Return micro-batches in the order of the examples; if weights are divided, equally many on all ranks."""
        parts = [examples[start : start + self.size] for start in range(0, len(examples), self.size)]
        none = torch.zeros(0, dtype=torch.long, device=self.device)
        return even([self._of(part) for part in parts], Pairs(TokenBatch.empty(self.device), none, none))

    def _of(self, examples: Sequence[Example]) -> Pairs:
        encoder = self.encoder
        prompts = [tuple(encoder.prompt(example)) for example in examples] * 2
        responses = [*map(encoder.chosen, examples), *map(encoder.rejected, examples)]
        numbers: dict[tuple[tuple[int, ...], tuple[int, ...]], int] = {}
        rows = [numbers.setdefault((p, tuple(r)), len(numbers)) for p, r in zip(prompts, responses, strict=True)]
        batch = encoder.batch([prompt for prompt, _ in numbers], [response for _, response in numbers])
        chosen, rejected = torch.tensor(rows, device=self.device).chunk(2)
        return Pairs(batch.to(self.device), chosen, rejected)


def pair_length(pair: Example) -> int:
    """Return the number of characters of a pair, by which its cost is estimated."""
    return len(pair.prompt) + len(pair.chosen) + len(pair.rejected or "")


def pair_prompt(pair: Example) -> tuple[Message, ...]:
    """Return the prompt of a pair; pairs of one prompt are computed together."""
    return pair.messages


@torch.no_grad()
def score_pairs(
    score: Callable[[TokenBatch], Float[Tensor, " b"]], examples: Sequence[Example], batches: PairBatches
) -> PairScores:
    """Score both responses of every pair, and count their tokens."""
    order = sorted(range(len(examples)), key=lambda i: len(examples[i].prompt) + len(examples[i].chosen))
    mine = own_rows(pair_length(examples[i]) for i in order)
    scores, lengths = torch.zeros(len(examples), 2), torch.zeros(len(examples), 2, dtype=torch.long)
    with progress("accuracy", total=len(mine), unit="pairs") as bar:
        start = 0
        for pairs in batches.of([examples[order[i]] for i in mine]):
            rows, places = torch.stack([pairs.chosen, pairs.rejected], 1), mine[start : start + pairs.num]
            scores[places] = score(pairs.batch)[rows].cpu()
            lengths[places] = pairs.batch.response_mask.sum(1)[rows].cpu()
            start += pairs.num
            bar.advance(pairs.num)
    both, sizes = combined(scores), combined(lengths)
    return PairScores(both[:, 0], both[:, 1], sizes[:, 0], sizes[:, 1])
