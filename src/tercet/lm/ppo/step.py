"""Step 3, improve: PPO with actor, critic, reference and reward model over tokens (Ouyang et al. 2022, section 3.5).

With an algorithm that compares groups of responses there is no critic.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from tercet.config.lm import LmConfig, PpoConfig, judge_name
from tercet.core.statistics import AS_IT_IS
from tercet.errors import InputError
from tercet.lm.data.columns import columns_of_run
from tercet.lm.data.digests import digests
from tercet.lm.data.splits import flat, overlap, step_examples, weights_of
from tercet.lm.engines.choose import engine_of
from tercet.lm.models.division import to_save
from tercet.lm.ppo.collect import Collect
from tercet.lm.ppo.networks import Networks, load_networks
from tercet.lm.ppo.pretraining_mix import pretraining_mix
from tercet.lm.ppo.roles import Roles, validate
from tercet.lm.prompts import validation_prompts
from tercet.lm.rollout import (
    LmActorCritic,
    reference_logprobs,
)
from tercet.lm.sampling.responses import Responses
from tercet.lm.sampling.sampler import Sampler
from tercet.lm.scales import Scales, find_scales, load_scales, reference_responses, save_scales
from tercet.lm.scoring import REWARD_MODEL, Give, Scorer, Term, by_judge, load_terms
from tercet.lm.stages import model_of, sft_model
from tercet.lm.text.encoder import Encoder
from tercet.runs.folder import RunFolder
from tercet.runs.progress import say
from tercet.runs.ranks import shards, share
from tercet.runs.rounds import in_round, results_in_round
from tercet.runs.step import Step
from tercet.train.chance import round_seed
from tercet.train.ppo.kept import kept_updates
from tercet.train.ppo.loop import Trained, train
from tercet.train.ppo.watch import Stopped, StopRule

NO_VALIDATION = "ppo: no validation prompts are held out to choose the best checkpoint; raise data.eval_fraction"
SHOWN = ["ppo/score", "ppo/kl", "ppo/response_length", "ppo/explained_variance", "ppo/clip_fraction"]


def run(folder: RunFolder, config: LmConfig, *, number: int = 0) -> None:
    """Optimise the SFT policy against the reward and save the best actor in DIR/ppo/model.

    Round `number` continues from the actor of the round before, against the reward model of this round, and writes to
    DIR/ppo-<number>. The reference stays the SFT policy, so that the KL means the same in every round.
    """
    policy_path, reward_path = _start_paths(folder, config.ppo, number)
    name, seed = in_round("ppo", number), round_seed(config.seed, number)
    start = model_of(folder, in_round("ppo", number - 1)) if number else policy_path
    encoder = Encoder.of(config)
    examples = step_examples(config.data, "ppo", columns_of_run(config))
    prompts = encoder.within_limits(examples.train, "ppo")
    held_out = validation_prompts(encoder, config)
    if not held_out:
        raise InputError(NO_VALIDATION)
    networks = load_networks(config, encoder, start, policy_path, reward_path, number)
    policy = networks.policy
    terms = load_terms(config, encoder, reward_path, networks.backbone)
    data = digests(config, "ppo")
    with (
        folder.step(name, total=config.ppo.num_updates, num_before=1, shown=SHOWN, data=data) as step,
        engine_of(config, policy, encoder, folder.path) as engine,
    ):
        if step.restore() is None:
            folder.add_results(name, results_in_round({"prompt_overlap": {"ppo": overlap(examples)}}, number))
        sampler = Sampler(policy, encoder, config.ppo.temperature, config.eval.batch_size, engine)
        # in round 0 the policy has not moved yet
        untrained = replace(sampler, policy=networks.frozen, engine=None) if number and networks.frozen else sampler
        num = config.reward.num_reference_samples
        scales = _scales(step, terms, partial(reference_responses, untrained, flat(prompts), num, seed=config.seed))
        roles = _roles(config, encoder, networks, sampler, terms, scales, seed)
        collect = Collect(roles, prompts, weights_of(config.data, "ppo"))
        self_check = partial(collect.self_check, at_reference=not number)
        checked = self_check() if shards() else share(self_check)  # no rank can use divided networks alone
        trained = train(
            step,
            networks.learner(roles.actor_critic, config),
            collect=collect,
            validate=lambda: validate(roles, held_out),
            carry=_first_carry(config.ppo),
            config=config.ppo,
            samples_every=config.ppo.samples_every,
            seed=seed,
            extra_actor_loss=pretraining_mix(policy, encoder, config, seed) if config.ppo.ptx_coef else None,
            stop=_stop_rule(config.ppo),
            keep=kept_updates(config.ppo.num_updates, config.ppo.keep_rollouts),
            budget=config.ppo.max_sampled_tokens,
        )
        saved = to_save(policy)
        step.save_folder("model", lambda path: saved.save(path, encoder.tokenizer, encoder.ends.ids))
        results = _results(trained, checked, scales, config.ppo)
        say(f"{name}: {trained.kept('prompts')}")
        step.finish(results_in_round(results, number))


def _roles(
    config: LmConfig,
    encoder: Encoder,
    networks: Networks,
    sampler: Sampler,
    terms: Mapping[str, Give],
    scales: Scales,
    seed: int,
) -> Roles:
    ppo = config.ppo
    return Roles(
        LmActorCritic(networks.policy, networks.critic, ppo.temperature),
        reference_logprobs(networks.policy, networks.frozen, temperature=ppo.temperature),
        Scorer({name: Term(ppo.reward[name], give, scales[name]) for name, give in terms.items()}),
        sampler,
        ppo,
        seed,
        {judge_name(judge): by_judge(judge, config, encoder, ppo.micro_batch_size) for judge in ppo.watch},
    )


def _first_carry(config: PpoConfig) -> dict[str, float]:
    """Return what the first rollout starts from: the coefficient of the KL penalty, and the tokens of a budget."""
    carry = {"kl_coef": config.kl_coef if config.kl_penalty != "none" else 0.0}
    return carry | ({"sampled_tokens": 0} if config.max_sampled_tokens else {})


def _scales(step: Step, terms: Mapping[str, Give], reference: Callable[[], Sequence[Responses]]) -> Scales:
    """Return the scale of each term, fitted once on responses of the untrained policy and saved for a resumed run."""
    file = step.path / "reward_scales.json"
    scales = {REWARD_MODEL: AS_IT_IS}  # step 2 has normalised it
    if not terms.keys() - scales.keys():
        return scales
    if step.restore() is None:
        save_scales(find_scales(terms, reference()), file)
    return scales | load_scales(file)


def _stop_rule(config: PpoConfig) -> StopRule:
    return StopRule({judge_name(judge): amount for judge, amount in config.stop_on.items()}, config.stop_after)


def _results(trained: Trained, checked: Mapping[str, float], scales: Scales, config: PpoConfig) -> dict[str, Any]:
    """Return what results.json says of the step. Any: JSON."""
    fitted = {name: asdict(scale) for name, scale in scales.items() if name != REWARD_MODEL}
    results = {"best_checkpoint": trained.best_checkpoint, "self_check": checked, "reward_scale": fitted}
    return results | (_stopped(trained.stopped, config) if trained.stopped else {})


def _stopped(stopped: Stopped, config: PpoConfig) -> dict[str, Any]:  # Any: JSON
    """Say why training stopped, and return it for results.json."""
    falls = " and ".join(f"{name} by {fall:.3g}" for name, fall in stopped.falls.items())
    say(f"ppo: stopped after update {stopped.update} of {config.num_updates} by ppo.stop_on: {falls} below update 0")
    return {"stopped": {"update": stopped.update, "falls": dict(stopped.falls)}}


def _start_paths(folder: RunFolder, config: PpoConfig, number: int) -> tuple[str, str]:
    """Return the paths of the SFT policy and of the round's reward model ('' if ppo.reward does not use it)."""
    policy = sft_model(folder, config.policy)
    if not policy:
        missing = folder.path / "sft" / "model"
        raise InputError(
            f"ppo: {missing} does not exist yet; run `tercet lm sft` with the same --out, or set ppo.policy"
        )
    if REWARD_MODEL not in config.reward:
        return policy, ""
    reward = model_of(folder, in_round("reward", number))
    if not folder.is_done(in_round("reward", number)):
        raise InputError(
            f"ppo: {reward} does not exist yet; run `tercet lm reward` with the same --out, or set ppo.reward"
        )
    return policy, reward
