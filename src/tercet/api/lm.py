"""Sample responses from, and score them with, the models of a language run."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from tercet.api.libraries import quiet_libraries, torch_threads
from tercet.api.record import Run
from tercet.config.lm import LmConfig
from tercet.config.load import recorded_config
from tercet.errors import InputError
from tercet.runs.folder import RunFolder
from tercet.runs.progress import silent

if TYPE_CHECKING:  # torch and transformers, which take seconds
    from transformers import PreTrainedModel

    from tercet.lm.data.examples import Example


def sample(
    run: Run,
    prompts: Sequence[str],
    *,
    stage: str = "ppo",
    seed: int = 0,
    temperature: float | None = None,
    max_tokens: int | None = None,
) -> list[str]:
    """Sample one response to each prompt from a stage of a run: `base`, `sft`, `ppo`, `ppo-1` for round 1, or `dpo`.

    The same seed gives the same responses. Temperature 0 takes the most likely token each time. Without `temperature`
    and `max_tokens`, `ppo.temperature` and `eval.max_response_tokens` of the run apply. Each call loads the model once,
    so give all prompts together. Raise InputError if the run has no such stage or a prompt is too long.
    """
    if temperature is not None and not temperature >= 0:
        raise InputError(f"temperature={temperature}: must be at least 0")
    if max_tokens is not None and max_tokens < 1:
        raise InputError(f"max_tokens={max_tokens}: must be at least 1")
    with _opened(run) as (folder, config):
        import torch

        from tercet.lm.models.roles import load_policy
        from tercet.lm.sampling.responses import respond_all
        from tercet.lm.stages import stages_of
        from tercet.lm.text.encoder import Encoder

        paths = {one.name: one.path for one in stages_of(folder, config.ppo.policy, config.reward.num_rounds)}
        if stage not in paths:
            raise InputError(f"stage={stage!r}: {run.path} has {', '.join(paths)}")
        examples, encoder = _examples(prompts), Encoder.of(config)
        policy = load_policy(config, path=paths[stage])
        limit = config.eval.max_response_tokens if max_tokens is None else max_tokens
        lengths = [len(encoder.prompt(example)) + limit for example in examples]
        _check_window(policy.model, lengths, remedy="shorten it, or lower max_tokens")
        parts = respond_all(
            policy,
            encoder,
            examples,
            generator=torch.Generator().manual_seed(seed),
            temperature=config.ppo.temperature if temperature is None else float(temperature),
            max_tokens=limit,
            batch_size=config.eval.batch_size,
            title="sample",
        )
        return [text for part in parts for text in part.texts]


def score(run: Run, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    """Score each response to its prompt with the run's reward model (the last one, after rounds); higher is better.

    A response is scored as complete, with its EOS. Over the SFT policy's responses the scores have mean 0 and
    variance 1. Raise InputError if the run has no reward model or a text is too long.
    """
    if len(prompts) != len(responses):
        raise InputError(f"{len(prompts)} prompts and {len(responses)} responses: give one response to each prompt")
    if not prompts:
        return []
    with _opened(run) as (folder, config):
        from tercet.lm.data.turns import plain
        from tercet.lm.models.roles import load_score_model
        from tercet.lm.scoring import score_rows
        from tercet.lm.stages import last_reward_model
        from tercet.lm.text.encoder import Encoder
        from tercet.train.device import device_of

        path = last_reward_model(folder, config.reward.num_rounds)
        if not path:
            raise InputError(f"{run.path}: has no reward model; run its step reward first")
        encoder = replace(Encoder.of(config), max_response_tokens=10**9)  # a shortened response would get another score
        model = load_score_model(config, path=path, trained=True)
        prompt_ids = [encoder.prompt(example) for example in _examples(prompts)]
        response_ids = [encoder.response(plain(text)) for text in responses]
        lengths = [len(one) + len(other) for one, other in zip(prompt_ids, response_ids, strict=True)]
        _check_window(model.model, lengths, remedy="shorten one of them")
        batch = encoder.batch(prompt_ids, response_ids).to(device_of(config.device))
        return score_rows(model, batch, config.eval.batch_size).tolist()


@contextmanager
def _opened(run: Run) -> Iterator[tuple[RunFolder, LmConfig]]:
    if run.domain != "lm":
        raise InputError(f"{run.path}: is a run of a robot arm; give a run of a language model")
    config = recorded_config(LmConfig, run.config, run.path)
    with silent(), quiet_libraries(), torch_threads(config.threads):
        yield RunFolder.read(run.path), config


def _examples(prompts: Sequence[str]) -> list["Example"]:
    """Return each prompt as a conversation of one message."""
    from tercet.lm.data.examples import Example, Message
    from tercet.lm.data.turns import plain

    if isinstance(prompts, str):
        raise InputError(f"prompts={prompts!r}: must be a list of texts; write [{prompts!r}]")
    texts = [plain(prompt).strip() for prompt in prompts]
    for number, text in enumerate(texts):
        if not text:
            raise InputError(f"prompts[{number}] is blank")
    return [Example((Message("user", text),), "", None, "", f"prompts[{n}]") for n, text in enumerate(texts)]


def _check_window(model: "PreTrainedModel", lengths: Sequence[int], *, remedy: str) -> None:
    from tercet.lm.models.configs import window_of

    window = window_of(model.config)
    for number, length in enumerate(lengths):
        if window is not None and length > window:
            raise InputError(
                f"prompts[{number}] with its response needs {length} tokens, but the model reads {window}; {remedy}"
            )
