"""How long the phases of a step take here: shallow copies of the model go through the pipeline's own code.

A model of one layer and one of two tell what a layer costs and what the rest does; every layer is taken to cost the
same. The weights are random: time does not depend on them.
"""

import time
from collections.abc import Callable
from itertools import pairwise
from statistics import median

import torch
from torch import nn
from transformers import PretrainedConfig as HfConfig

from tercet.config.lm import LmConfig
from tercet.lm.batch import TokenBatch, pad
from tercet.lm.models.logprobs import response_logprobs
from tercet.lm.models.roles import Policy, ScoreModel, device_of, policy_of, score_model_of
from tercet.lm.models.weights import fresh
from tercet.lm.plan.cost import Sizes
from tercet.lm.plan.footprint import footprint
from tercet.lm.plan.hardware import best_seconds, wait
from tercet.lm.rollout import reference_logprobs
from tercet.lm.sampling.generate import generate
from tercet.train.optim import adamw, clip_gradients

_WORD = 5  # what every token is
_NEVER = -1  # as EOS: an id that is never drawn
_STEPS = 8  # tokens drawn to time one
_MOST_TOKENS = 1024  # in one timed forward; time grows with their number
_MOST_PUSHED_OUT = 2**30  # bytes: more than a cache holds

Work = Callable[[], object]
Seconds = dict[str, float]


def policy_seconds(config: LmConfig, hf_config: HfConfig, sizes: Sizes) -> Seconds:
    """Of one rollout: `read`, `draw` (a token for every prompt); of one micro-batch: `score`, `learn`; and `apply`."""
    return _in_depth(lambda layers: _policy(config, hf_config, sizes, layers), hf_config.num_hidden_layers)


def score_seconds(config: LmConfig, hf_config: HfConfig, sizes: Sizes, *, num_layers: int = 0) -> Seconds:
    """Of a critic or reward model: `score` and `learn` of one micro-batch, and `apply`."""
    depth = num_layers or hf_config.num_hidden_layers
    return _in_depth(lambda layers: _score_model(config, hf_config, sizes, layers), depth)


def _in_depth(seconds: Callable[[int], Seconds], depth: int) -> Seconds:
    one, two = seconds(1), seconds(2)
    return {phase: one[phase] + (depth - 1) * max(0.0, two[phase] - one[phase]) for phase in one}


def _policy(config: LmConfig, hf_config: HfConfig, sizes: Sizes, layers: int) -> Seconds:
    policy = policy_of(fresh(hf_config, scores=False, num_layers=layers, device="cpu"), config, learns=True)
    policy = policy.to(device_of(config))
    temperature, count = config.ppo.temperature, config.ppo.batch_size
    reference = reference_logprobs(policy, None if config.lora.rank else policy, temperature=temperature)

    def sample(prompt: int, most: int, watch: Callable[[int], None] | None = None) -> None:
        prompts = _prompts(count, prompt)
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

    batch, times = _micro_batch(config, sizes)
    policy.eval()
    read = _seconds(policy, lambda: sample(sizes.prompt, 1))
    middle = sizes.prompt + max(0, sizes.response // 2 - _STEPS // 2)
    tokens = _TimesOfTokens(footprint(config, hf_config, "policy").stored, device_of(config))
    sample(middle, 1 + _STEPS, watch=tokens)
    score = times * _seconds(policy, lambda: reference(batch))
    policy.train()
    learn = times * _seconds(
        policy, lambda: response_logprobs(policy, batch, temperature=temperature).logprobs.sum().backward()
    )
    return {"read": read, "draw": tokens.median, "score": score, "learn": learn, "apply": _apply(policy)}


class _TimesOfTokens:
    """What a token takes from the one before it, with a cache that the rest of the model has gone through meanwhile.

    A shallow copy would find its few weights in the cache, where the whole model has to read its own from memory.
    """

    def __init__(self, num_bytes: int, device: torch.device) -> None:
        self.device = device
        self.rest = torch.zeros(min(num_bytes, _MOST_PUSHED_OUT) if device.type == "cpu" else 0, dtype=torch.uint8)
        self.marks: list[tuple[float, float]] = []  # when each token came, and when the next was begun

    def __call__(self, token: int) -> None:
        wait(self.device)
        came = time.perf_counter()
        self.rest.add_(1)
        self.marks.append((came, time.perf_counter()))

    @property
    def median(self) -> float:
        """Seconds."""
        return median(came - begun for (_, begun), (came, _) in pairwise(self.marks))


def _score_model(config: LmConfig, hf_config: HfConfig, sizes: Sizes, layers: int) -> Seconds:
    model = score_model_of(fresh(hf_config, scores=True, num_layers=layers, device="cpu"), config, learns=True)
    model = model.to(device_of(config))
    batch, times = _micro_batch(config, sizes)

    def score() -> None:
        with torch.no_grad():
            model(batch, batch.deciding)

    model.eval()
    score_s = times * _seconds(model, score)
    model.train()
    learn = times * _seconds(model, lambda: batch.at_actions(model(batch, batch.deciding), shift=-1).sum().backward())
    return {"score": score_s, "learn": learn, "apply": _apply(model)}


def _micro_batch(config: LmConfig, sizes: Sizes) -> tuple[TokenBatch, float]:
    """A micro-batch, or a part of a large one and how many times as long the whole takes."""
    rows = min(config.ppo.micro_batch_size, config.ppo.batch_size)
    timed = min(rows, max(1, _MOST_TOKENS // sizes.row))
    batch = pad(_prompts(timed, sizes.prompt), [[_WORD] * sizes.response] * timed, pad_id=_WORD)
    return batch.to(device_of(config)), rows / timed


def _prompts(num: int, length: int) -> list[list[int]]:
    """Each begins in another way: what several begin with alike would be computed once."""
    return [[_WORD + row % 200, *[_WORD] * (length - 1)] for row in range(num)]


def _apply(module: nn.Module) -> float:
    """Clipping and AdamW; the gradients are there from the backward pass that was timed before."""
    optimizer = adamw(module, lr=0.0)

    def step() -> None:
        clip_gradients(module.parameters(), 1.0)
        optimizer.step()

    return best_seconds(step, next(module.parameters()).device, most_seconds=0.1)


def _seconds(module: Policy | ScoreModel, work: Work) -> float:
    return best_seconds(work, next(module.parameters()).device, most_seconds=0.2)
