"""Time a PPO step written directly with transformers: `generate()`, four models, a padded batch; print one JSON line.

The same work as `benchmarks/ppo_step.py`. With `--lean`, the language-model head is applied only at response
positions, and no log-softmax over the vocabulary is stored.

    PYTHONPATH=benchmarks $PEERS/venv-trl/bin/python benchmarks/peers/ppo_plain.py --lengths real --batch 32
"""

import argparse
from dataclasses import dataclass

import torch
from random_opt import PAD, causal, scorer
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel
from work import EOS, Moment, eos_of, most_tokens, parser, phases, prompts, report

KL_COEF, CLIP, LAM = 0.1, 0.2, 0.95


@dataclass(frozen=True)
class Batch:
    """Prompts padded on the left, answers on the right; `mask` counts the tokens of an answer up to its EOS."""

    ids: Tensor
    attention: Tensor
    mask: Tensor

    def part(self, rows: slice) -> "Batch":
        """Return some rows, padded to the longest of them."""
        return Batch(self.ids[rows], self.attention[rows], self.mask[rows])


class PlainStep:
    """Four models and two optimizers; calling it takes one step."""

    def __init__(self, settings: argparse.Namespace) -> None:
        self.settings, self.micro = settings, min(settings.batch, settings.micro)
        self.actor, self.reference = causal(settings), causal(settings)
        self.critic, self.reward = scorer(settings), scorer(settings)
        for frozen in (self.reference, self.reward):
            frozen.eval().requires_grad_(False)
        self.learning = [self.actor, self.critic]
        self.optimizers = [torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True) for model in self.learning]
        self.actor.generation_config.eos_token_id = None

    def __call__(self, index: int) -> dict[str, float]:
        """Generate, score and train; return the seconds of each."""
        start = Moment.now()
        batch, num_prompt_tokens = self.sample(prompts(self.settings, index))
        generated = Moment.now()
        scored = self.score(batch)
        judged = Moment.now()
        self.train(batch, *scored)
        moments = (start, generated, judged, Moment.now())
        return phases(moments, num_drawn=int(batch.mask.sum()), num_prompt_tokens=num_prompt_tokens)

    @torch.no_grad()
    def sample(self, asked: list[list[int]]) -> tuple[Batch, int]:
        """Return the answers, and the number of tokens of the prompts."""
        width, eos = max(map(len, asked)), eos_of(self.settings)
        ids = torch.tensor([[PAD] * (width - len(prompt)) + prompt for prompt in asked])
        attention = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in asked])
        drawing = GenerationConfig(
            max_new_tokens=most_tokens(self.settings),
            do_sample=True,
            top_k=0,
            top_p=1.0,
            temperature=1.0,
            eos_token_id=EOS if eos == EOS else None,
            pad_token_id=PAD,
        )
        self.actor.eval()
        whole = self.actor.generate(ids, attention_mask=attention, generation_config=drawing)
        ends = (whole[:, width:] == eos).long()
        mask = ends.cumsum(1) - ends == 0  # tokens that have no EOS before them
        return Batch(whole, torch.cat([attention, mask.long()], 1), mask), int(attention.sum())

    @torch.no_grad()
    def score(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Compute old log-probabilities, old values, advantages and returns, with four forward passes."""
        parts = [batch.part(slice(start, start + self.micro)) for start in range(0, len(batch.ids), self.micro)]
        old = torch.cat([self.logprobs(self.actor, part) for part in parts])
        reference = torch.cat([self.logprobs(self.reference, part) for part in parts])
        values = torch.cat([self.values(self.critic, part) for part in parts]) * batch.mask
        last = batch.mask.sum(1, keepdim=True) - 1
        scores = torch.cat([self.values(self.reward, part, shift=0) for part in parts]).gather(1, last)
        rewards = -KL_COEF * (old - reference) * batch.mask
        rewards.scatter_add_(1, last, scores.clamp(-5, 5))
        advantages, running = torch.zeros_like(rewards), torch.zeros(len(rewards))
        following = nn.functional.pad(values, (0, 1))[:, 1:]
        for t in reversed(range(rewards.shape[1])):
            running = (rewards[:, t] + following[:, t] - values[:, t] + LAM * running) * batch.mask[:, t]
            advantages[:, t] = running
        counted = advantages[batch.mask]
        whitened = (advantages - counted.mean()) / (counted.std() + 1e-8)
        return old, values, whitened, advantages + values

    def train(self, batch: Batch, old: Tensor, old_values: Tensor, advantages: Tensor, returns: Tensor) -> None:
        """Take one optimizer step of actor and critic."""
        for model in self.learning:
            model.train()
        count = batch.mask.sum()
        for start in range(0, len(batch.ids), self.micro):
            rows = slice(start, start + self.micro)
            part = batch.part(rows)
            ratio = ((self.logprobs(self.actor, part) - old[rows]) * part.mask).exp()
            surrogates = advantages[rows] * ratio, advantages[rows] * ratio.clamp(1 - CLIP, 1 + CLIP)
            (-(torch.minimum(*surrogates) * part.mask).sum() / count).backward()
            values, before = self.values(self.critic, part), old_values[rows]
            clipped = before + (values - before).clamp(-CLIP, CLIP)
            errors = torch.maximum((values - returns[rows]) ** 2, (clipped - returns[rows]) ** 2)
            (0.5 * (errors * part.mask).sum() / count).backward()
        for model, optimizer in zip(self.learning, self.optimizers, strict=True):
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def logprobs(self, model: PreTrainedModel, batch: Batch) -> Tensor:
        """Return the log-probabilities of the tokens of every answer; padding has arbitrary values."""
        num = batch.mask.shape[1]
        asked = {"input_ids": batch.ids, "attention_mask": batch.attention, "use_cache": False}
        chosen = batch.ids[:, -num:, None]
        if self.settings.lean:
            logits = model(**asked, logits_to_keep=num + 1).logits[:, :-1]
            return logits.gather(-1, chosen)[..., 0] - logits.logsumexp(-1)
        logits = model(**asked).logits[:, -num - 1 : -1]
        return logits.log_softmax(-1).gather(-1, chosen)[..., 0]

    def values(self, model: PreTrainedModel, batch: Batch, shift: int = -1) -> Tensor:
        """Return the value before every token of the answers (`shift` -1), or after it (0)."""
        states = model.model(batch.ids, attention_mask=batch.attention, use_cache=False).last_hidden_state
        width, num = batch.ids.shape[1], batch.mask.shape[1]
        return model.score(states)[:, width - num + shift : width + shift, 0]


def main() -> None:
    """Run `--warmup` steps, then measure `--iters` steps."""
    command = parser(__doc__ or "")
    command.add_argument("--lean", action="store_true")
    settings = command.parse_args()
    torch.set_num_threads(settings.threads)
    step = PlainStep(settings)
    rows = [step(index) for index in range(settings.warmup + settings.iters)][settings.warmup :]
    report("lean" if settings.lean else "plain", settings, rows)


if __name__ == "__main__":
    main()
