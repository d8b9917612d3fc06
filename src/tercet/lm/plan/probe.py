"""Measure the time of the phases of a step on this machine: run shallow copies of the model through the pipeline.

A model of one layer and a model of two layers give the time of a layer and of the rest; all layers are assumed to take
the same time. The weights are random, because time does not depend on them.
"""

import time
from collections.abc import Callable
from itertools import pairwise
from statistics import median

import torch
from torch import nn
from transformers import PretrainedConfig as HfConfig

from tercet.config.lm import NetworkConfig, PpoConfig
from tercet.lm.batch import TokenBatch, pad
from tercet.lm.models.configs import fresh
from tercet.lm.models.logprobs import response_logprobs
from tercet.lm.models.roles import Policy, ScoreModel, policy_of, score_model_of
from tercet.lm.plan.cost import Sizes
from tercet.lm.plan.footprint import footprint
from tercet.lm.plan.hardware import best_seconds, wait
from tercet.lm.rollout import reference_logprobs
from tercet.lm.sampling.generate import generate
from tercet.train.device import device_of
from tercet.train.optim import adamw, clip_gradients

_WORD = 5  # the id of every token
_NEVER = -1  # id of EOS: it is never drawn
_STEPS = 8  # tokens drawn to time one token
_MOST_TOKENS = 1024  # in one timed forward pass; time is proportional to their number
_MOST_BYTES = 2**30  # more than a CPU cache holds

Work = Callable[[], object]
Seconds = dict[str, float]


def policy_seconds(config: NetworkConfig, hf_config: HfConfig, ppo: PpoConfig, sizes: Sizes) -> Seconds:
    """Measure the phases of a policy.

    Of one rollout: `read` (the prompts) and `draw` (one token for every prompt); of one micro-batch: `score` and
    `learn`; and `apply`, the optimizer step.
    """
    return _in_depth(lambda layers: _policy(config, hf_config, ppo, sizes, layers), hf_config.num_hidden_layers)


def score_seconds(
    config: NetworkConfig, hf_config: HfConfig, ppo: PpoConfig, sizes: Sizes, *, num_layers: int = 0
) -> Seconds:
    """Measure the phases of a critic or reward model: `score` and `learn` of one micro-batch, and `apply`."""
    depth = num_layers or hf_config.num_hidden_layers
    return _in_depth(lambda layers: _score_model(config, hf_config, ppo, sizes, layers), depth)


def _in_depth(seconds: Callable[[int], Seconds], depth: int) -> Seconds:
    one, two = seconds(1), seconds(2)
    return {phase: one[phase] + (depth - 1) * max(0.0, two[phase] - one[phase]) for phase in one}


def _policy(config: NetworkConfig, hf_config: HfConfig, ppo: PpoConfig, sizes: Sizes, layers: int) -> Seconds:
    policy = policy_of(fresh(hf_config, scores=False, num_layers=layers, device="cpu"), config, learns=True)
    device, temperature = device_of(config.device), ppo.temperature
    policy = policy.to(device)
    reference = reference_logprobs(policy, None if config.lora.rank else policy, temperature=temperature)

    def sample(prompt: int, most: int, watch: Callable[[int], None] | None = None) -> None:
        prompts = _prompts(ppo.batch_size, prompt)
        with policy.autocast():
            generate(
                policy.model,
                prompts,
                end_ids=[_NEVER],
                max_tokens=most,
                temperature=temperature,
                generator=torch.Generator().manual_seed(0),
                watch=watch,
            )

    batch, times = _micro_batch(ppo, sizes, device)
    policy.eval()
    read = _seconds(policy, lambda: sample(sizes.prompt, 1))
    middle = sizes.prompt + max(0, sizes.response // 2 - _STEPS // 2)
    tokens = _TimesOfTokens(footprint(config, hf_config, "policy").stored, device)
    sample(middle, 1 + _STEPS, watch=tokens)
    score = times * _seconds(policy, lambda: reference(batch))
    policy.train()
    learn = times * _seconds(
        policy, lambda: response_logprobs(policy, batch, temperature=temperature).logprobs.sum().backward()
    )
    return {"read": read, "draw": tokens.median, "score": score, "learn": learn, "apply": _apply(policy)}


class _TimesOfTokens:
    """The times from one token to the next, with the CPU's cache overwritten in between.

    A shallow copy would find its few weights in the cache, but the whole model reads its weights from memory.
    """

    def __init__(self, num_bytes: int, device: torch.device) -> None:
        self.device = device
        self.rest = torch.zeros(min(num_bytes, _MOST_BYTES) if device.type == "cpu" else 0, dtype=torch.uint8)
        self.times: list[tuple[float, float]] = []  # end of each token, and start of the next

    def __call__(self, token: int) -> None:
        wait(self.device)
        end = time.perf_counter()
        self.rest.add_(1)
        self.times.append((end, time.perf_counter()))

    @property
    def median(self) -> float:
        """The median time of a token, in seconds."""
        return median(end - start for (_, start), (end, _) in pairwise(self.times))


def _score_model(config: NetworkConfig, hf_config: HfConfig, ppo: PpoConfig, sizes: Sizes, layers: int) -> Seconds:
    model = score_model_of(fresh(hf_config, scores=True, num_layers=layers, device="cpu"), config, learns=True)
    device = device_of(config.device)
    model = model.to(device)
    batch, times = _micro_batch(ppo, sizes, device)

    def score() -> None:
        with torch.no_grad():
            model(batch, batch.deciding)

    model.eval()
    score_s = times * _seconds(model, score)
    model.train()
    learn = times * _seconds(model, lambda: batch.at_actions(model(batch, batch.deciding), shift=-1).sum().backward())
    return {"score": score_s, "learn": learn, "apply": _apply(model)}


def _micro_batch(ppo: PpoConfig, sizes: Sizes, device: torch.device) -> tuple[TokenBatch, float]:
    """Return a micro-batch, or a part of a large one, and the factor from its time to that of the whole."""
    rows = min(ppo.micro_batch_size, ppo.batch_size)
    timed = min(rows, max(1, _MOST_TOKENS // sizes.row))
    batch = pad(_prompts(timed, sizes.prompt), [[_WORD] * sizes.response] * timed, pad_id=_WORD)
    return batch.to(device), rows / timed


def _prompts(num: int, length: int) -> list[list[int]]:
    """Make prompts with different first tokens: a shared prefix would be computed only once."""
    return [[_WORD + row % 200, *[_WORD] * (length - 1)] for row in range(num)]


def _apply(module: nn.Module) -> float:
    """Time gradient clipping and AdamW; the gradients come from the backward pass that was timed before."""
    optimizer = adamw(module, lr=0.0)

    def step() -> None:
        clip_gradients(module.parameters(), 1.0)
        optimizer.step()

    return best_seconds(step, next(module.parameters()).device, most_seconds=0.1)


def _seconds(module: Policy | ScoreModel, work: Work) -> float:
    return best_seconds(work, next(module.parameters()).device, most_seconds=0.2)
