"""Step 1, imitate: supervised fine-tuning on the chosen responses."""

import math
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from tercet.config.lm import LmConfig
from tercet.errors import FailedError, InputError
from tercet.lm.data.batches import lessons
from tercet.lm.data.columns import columns_of_run
from tercet.lm.data.digests import digests
from tercet.lm.data.examples import Example
from tercet.lm.data.splits import Sets, flat, overlap, step_examples
from tercet.lm.imitation import SftBatches, response_loss
from tercet.lm.models.backbone import on_exact_weights
from tercet.lm.models.division import to_save
from tercet.lm.models.roles import Policy, load_policy
from tercet.lm.preferences.best import best_responses
from tercet.lm.sampling.model_check import check_policy
from tercet.lm.sampling.sampler import Sampler
from tercet.lm.text.encoder import Encoder
from tercet.runs.folder import RunFolder
from tercet.runs.progress import progress
from tercet.runs.step import SAMPLES_PRINTED
from tercet.train.chance import generator
from tercet.train.device import device_of
from tercet.train.fit import LossTerms, fit
from tercet.train.loss_scale import LossScale
from tercet.train.parallel import own, summed


def run(folder: RunFolder, config: LmConfig) -> None:
    """Fine-tune model.path, measure its perplexity before and after, and save it in DIR/sft/model."""
    encoder = Encoder.of(config)
    examples = step_examples(config.data, "sft", columns_of_run(config))
    train = encoder.within_limits(examples.train, "sft")
    timeout = config.function_timeout_seconds
    train = best_responses(train, config.judge, config.sft.best_fraction, timeout_seconds=timeout)
    some = {name: rows[: config.sft.num_eval] for name, rows in examples.held_out.items()}
    held_out = encoder.within_limits(some, "held out")
    held_out = {name: rows for name, rows in held_out.items() if rows}
    if not held_out:
        raise InputError(
            "sft: no examples are held out to measure perplexity on; raise data.eval_fraction or give data.eval"
        )
    todo = lessons(train, config.data, config.sft, step="sft", seed=config.seed)
    stages = dict(todo.plan.stages)
    policy = load_policy(config, learns=True, lora_dropout=config.lora.dropout, is_backbone=True)
    encoder.check_window(policy.model)
    check_policy(policy)
    batches = SftBatches(encoder, device_of(config.device), config.sft)
    sampler = Sampler(policy, encoder, config.ppo.temperature, config.eval.batch_size)

    def measure(index: int) -> dict[str, float]:
        if index not in stages:
            return {}
        return {f"sft/perplexity/{name}": value for name, value in perplexities(policy, held_out, batches).items()}

    printed = flat(held_out)[:SAMPLES_PRINTED]

    def samples(index: int) -> list[dict[str, str]]:
        if index + 1 == len(todo.plan.rows) or (index + 1) % config.sft.samples_every == 0:
            return sample(sampler, printed, seed=config.seed)
        return []

    data = digests(config, "sft")
    with folder.step("sft", total=len(todo.plan.rows), shown=["sft/loss", "sft/lr"], data=data) as step:
        if step.restore() is None:
            before = {"base": perplexities(policy, held_out, batches)[ALL]}
            folder.add_results("sft", {"perplexity": before, "prompt_overlap": {"sft": overlap(examples)}})
        fit(
            step,
            modules={"policy": policy},
            plan=todo.plan.rows,
            micro_batches=lambda rows: batches.of(own([todo.examples[row] for row in rows], _length)),
            count=lambda batch: int(batch.response_mask.sum()),
            loss=lambda batch: LossTerms(response_loss(policy, batch), {}),
            config=config.sft,
            seed=config.seed,
            metric_prefix="sft",
            scale=LossScale() if config.scales_losses else None,
            eight_bit=config.optimizer == "adamw8bit",
            measure=measure,
            samples=samples,
        )
        last = {name: value for row in folder.metrics() if row["step"] == "sft" for name, value in row.items()}
        saved = to_save(policy)

        def save(path: Path) -> None:
            exact = on_exact_weights(saved, config) if config.lora.backbone == "nf4" else saved
            exact.save(path, encoder.tokenizer, encoder.ends.ids)

        step.save_folder("model", save)
        after = {name: last[f"sft/perplexity/{name}"] for name in [ALL, *held_out]}
        step.finish({"perplexity": {"sft": after.pop(ALL), "sets": after}})


def sample(sampler: Sampler, examples: Sequence[Example], *, seed: int) -> list[dict[str, str]]:
    """Sample a response to each example's prompt; every call draws the same random numbers."""
    responses = sampler.sample(examples, generator(seed, "sft samples"))
    return [{"prompt": p, "response": text} for p, text in zip(responses.prompts, responses.texts, strict=True)]


ALL = "all"  # name of the perplexity over all held-out sets together


@torch.no_grad()
def perplexities(policy: Policy, sets: Sets, batches: SftBatches) -> dict[str, float]:
    """Return exp of the mean negative log-likelihood per token, for each set and for all sets together (ALL).

    FailedError if a mean is not a number or its exponential overflows.
    """
    policy.eval()
    losses: dict[str, tuple[float, int]] = {}
    with progress("perplexity", total=sum(map(len, sets.values())), unit="responses") as bar:
        for name, examples in sets.items():
            loss, count = 0.0, 0
            for batch in batches.of(sorted(own(examples, _length), key=_length)):
                loss += float(response_loss(policy, batch))
                count += int(batch.response_mask.sum())
                bar.advance(len(batch.ids))
            total = summed({"loss": loss, "count": count})
            losses[name] = (total["loss"], int(total["count"]))
    losses[ALL] = (sum(loss for loss, _ in losses.values()), sum(count for _, count in losses.values()))
    return {name: _perplexity(name, loss / count) for name, (loss, count) in losses.items() if count}


def _length(example: Example) -> int:
    return len(example.prompt) + len(example.chosen)


def _perplexity(name: str, loss: float) -> float:
    if not loss < math.log(sys.float_info.max):  # nan too
        raise FailedError(
            f"the mean loss on the held-out set {name} is {loss:.4g} nats per token, too large for a perplexity; "
            "lower sft.lr, or check the model"
        )
    return math.exp(loss)
