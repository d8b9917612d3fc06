"""Measure the policy of one run of a comparison, on prompts that all runs of the comparison share."""

import json
from dataclasses import replace
from typing import Any

import torch

from tercet.config.lm import LmConfig
from tercet.core.kl import best_of_n_kl, k1
from tercet.errors import InputError
from tercet.lm.data.columns import columns_of_run
from tercet.lm.data.digests import digests
from tercet.lm.eval import all_logprobs, held_out_prompts, judge_scores, known, reward_model_of, unseen_scores
from tercet.lm.models.roles import load_policy
from tercet.lm.sampling.best_of_n import best_of_n
from tercet.lm.sampling.responses import Responses
from tercet.lm.sampling.sampler import Sampler
from tercet.lm.stages import model_of, sft_model
from tercet.lm.text.encoder import Encoder
from tercet.runs.atomic import write_text
from tercet.runs.folder import RunFolder
from tercet.runs.ranks import first_only
from tercet.train.chance import generator


def run(folder: RunFolder, config: LmConfig) -> None:
    """Write DIR/compare/answers.json: a response to each held-out prompt, with its KL and what each judge says.

    The responses are those of DPO's policy, else of PPO's, else the best of `eval.best_of_n` of SFT's, else of SFT's.
    The prompts depend on data.split_seed and not on the seed of the run.
    """
    sft = sft_model(folder, config.ppo.policy)
    if not sft:
        raise InputError(f"compare: {folder.path} has no SFT policy yet; run `tercet lm sft` with the same --out")
    learned = next((name for name in ("dpo", "ppo") if folder.has_ended(name)), "")
    encoder = Encoder.of(config)
    num, seed, columns = config.eval.num_prompts, config.data.split_seed, columns_of_run(config)
    prompts = held_out_prompts(encoder, config.data, num, seed=seed, columns=columns)
    scores = judge_scores(config, encoder, reward_model_of(folder, config, 0))
    n = 0 if learned else config.eval.best_of_n
    if n and "reward_model" not in scores:
        raise InputError("eval.best_of_n: this run has no reward model yet; run `tercet lm reward` with the same --out")
    with folder.step("compare", total=1, shown=[], data=digests(config, "compare")) as step:
        policy = load_policy(config, path=model_of(folder, learned) if learned else sft)
        encoder.check_window(policy.model)
        sampler = Sampler(policy, encoder, config.ppo.temperature, config.eval.batch_size)
        if n:
            chance = generator(config.seed, "best of n")
            responses = best_of_n(sampler, prompts, scores["reward_model"], chance, n=n)
            kl = torch.full((len(prompts),), best_of_n_kl(n))
        else:  # the same random numbers for all: less noise, and a policy that did not move ties with SFT
            chance = generator(seed, "comparison")
            parts = sampler.sample_all(prompts, chance, title=f"{learned or 'sft'}: held-out prompts")
            kl = _kl(sampler, parts, sft, config) if learned else torch.zeros(len(prompts))
            responses = Responses.joined(parts)
        scores |= unseen_scores(config, encoder)
        by_judge = {name: score(responses).tolist() for name, score in scores.items()}
        lengths = responses.batch.response_mask.sum(1)
        step.log(0, {"compare/eos_fraction": float(responses.ended.float().mean())})
        rows: list[dict[str, Any]] = [  # Any: JSON
            {
                "prompt": example.prompt,
                "answer": responses.texts[i],
                "kl": float(kl[i]),
                "tokens": int(lengths[i]),
                "scores": {name: known(values[i]) for name, values in by_judge.items()},
            }
            for i, example in enumerate(prompts)
        ]
        first_only(write_text)(step.path / "answers.json", json.dumps(rows, ensure_ascii=False, indent=1) + "\n")
        step.finish({})


def _kl(sampler: Sampler, parts: list[Responses], reference_path: str, config: LmConfig) -> torch.Tensor:
    """Return the KL from the reference of each response of the policy: k1 summed over its tokens."""
    own = all_logprobs(sampler, parts)
    reference = all_logprobs(replace(sampler, policy=load_policy(config, path=reference_path)), parts)
    return torch.cat([k1(one, other).sum(1) for one, other in zip(own, reference, strict=True)])
