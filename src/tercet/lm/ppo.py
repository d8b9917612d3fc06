"""Step 3, improve: PPO with actor, critic, reference and reward model over tokens (Ouyang et al. 2022, section 3.5).

With an algorithm that compares groups of responses there is no critic.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tercet.config.lm import LmConfig, NetworkConfig, PpoConfig, RewardConfig, judge_name
from tercet.core.kl import adapted_kl_coef
from tercet.core.statistics import AS_IT_IS
from tercet.errors import InputError
from tercet.lm.data.batches import mixed_pass
from tercet.lm.data.columns import columns_of_run
from tercet.lm.data.digests import digests
from tercet.lm.data.examples import Example
from tercet.lm.data.splits import Sets, flat, overlap, step_examples, weights_of
from tercet.lm.engines.choose import engine_of
from tercet.lm.imitation import SftBatches, response_loss
from tercet.lm.models.backbone import Backbone, load_reward_model
from tercet.lm.models.division import to_save
from tercet.lm.models.roles import Policy, ScoreModel, load_policy, load_score_model
from tercet.lm.prompts import validation_prompts
from tercet.lm.redraws import draw_groups
from tercet.lm.rollout import (
    Assessment,
    LmActorCritic,
    RefLogprobs,
    assess,
    build,
    final_scores,
    kl_per_response,
    reference_logprobs,
    rewarded,
    rollout_metrics,
    text_metrics,
)
from tercet.lm.sampling.model_check import check_policy
from tercet.lm.sampling.responses import Responses
from tercet.lm.sampling.sampler import Sampler
from tercet.lm.scales import Scales, find_scales, load_scales, reference_responses, save_scales
from tercet.lm.scoring import REWARD_MODEL, Give, Score, Scorer, Tally, Term, by_judge, load_terms
from tercet.lm.self_check import check, check_engine
from tercet.lm.stages import model_of, sft_model
from tercet.lm.text.encoder import Encoder
from tercet.runs.clock import Stopwatch
from tercet.runs.folder import RunFolder
from tercet.runs.progress import say
from tercet.runs.ranks import shards, share
from tercet.runs.rounds import in_round, results_in_round
from tercet.runs.step import Step
from tercet.train.chance import generator, round_seed
from tercet.train.device import device_of
from tercet.train.parallel import own, summed
from tercet.train.ppo.kept import kept_updates
from tercet.train.ppo.learner import Learner
from tercet.train.ppo.loop import Collected, train
from tercet.train.ppo.selection import Validation
from tercet.train.ppo.update import takes_one_step
from tercet.train.ppo.watch import Stopped, StopRule, Watched

NO_VALIDATION = "ppo: no validation prompts are held out to choose the best checkpoint; raise data.eval_fraction"
NUM_SAMPLES = 4  # responses of a rollout that are written to samples.jsonl
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
    networks = _networks(config, encoder, start, policy_path, reward_path, number)
    policy, temperature = networks.policy, config.ppo.temperature
    terms = load_terms(config, encoder, reward_path, networks.backbone)
    data = digests(config, "ppo")
    with (
        folder.step(name, total=config.ppo.num_updates, num_before=1, shown=SHOWN, data=data) as step,
        engine_of(config, policy, encoder, folder.path) as engine,
    ):
        if step.restore() is None:
            folder.add_results(name, results_in_round({"prompt_overlap": {"ppo": overlap(examples)}}, number))
        sampler = Sampler(policy, encoder, temperature, config.eval.batch_size, engine)
        # in round 0 the policy has not moved yet
        untrained = replace(sampler, policy=networks.frozen, engine=None) if number and networks.frozen else sampler
        num = config.reward.num_reference_samples
        scales = _scales(step, terms, partial(reference_responses, untrained, flat(prompts), num, seed=config.seed))
        roles = Roles(
            LmActorCritic(policy, networks.critic, temperature),
            reference_logprobs(policy, networks.frozen, temperature=temperature),
            Scorer({name: Term(config.ppo.reward[name], give, scales[name]) for name, give in terms.items()}),
            sampler,
            config.ppo,
            seed,
            {
                judge_name(judge): by_judge(judge, config, encoder, config.ppo.micro_batch_size)
                for judge in config.ppo.watch
            },
        )
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
            extra_actor_loss=_pretraining_mix(policy, encoder, config, seed) if config.ppo.ptx_coef else None,
            stop=_stop_rule(config.ppo),
            keep=kept_updates(config.ppo.num_updates, config.ppo.keep_rollouts),
            budget=config.ppo.max_sampled_tokens,
        )
        saved = to_save(policy)
        step.save_folder("model", lambda path: saved.save(path, encoder.tokenizer, encoder.ends.ids))
        fitted = {name: asdict(scale) for name, scale in scales.items() if name != REWARD_MODEL}
        results = {"best_checkpoint": trained.best_checkpoint, "self_check": checked, "reward_scale": fitted}
        results |= _stopped(trained.stopped, config.ppo) if trained.stopped else {}
        say(f"{name}: {trained.kept('prompts')}")
        step.finish(results_in_round(results, number))


@dataclass(frozen=True)
class Networks:
    """The networks of PPO beside those of the reward."""

    policy: Policy
    frozen: Policy | None  # the SFT policy; None where it is the policy without its adapters
    critic: ScoreModel | None
    backbone: Backbone | None  # that all of them share

    def learner(self, actor_critic: LmActorCritic, config: LmConfig) -> Learner:
        """Create the optimizers of policy and critic."""
        eight_bit = config.optimizer == "adamw8bit"
        scales_losses = config.scales_losses
        return Learner.of(
            actor_critic, self.policy, self.critic, config.ppo, scales_losses=scales_losses, eight_bit=eight_bit
        )


def _networks(
    config: LmConfig, encoder: Encoder, start: str, policy_path: str, reward_path: str, number: int
) -> Networks:
    """Load the networks of a round: the policy from `start`, the reference from `policy_path`."""
    backbone = Backbone.load(config, policy_path) if config.lora.shared_backbone else None
    policy = backbone.policy() if backbone else load_policy(config, path=start, learns=True)
    encoder.check_window(policy.model)
    check_policy(policy)
    # in round 0 the policy without its adapters is the SFT policy
    frozen = None if config.lora.rank and not number else load_policy(config, path=policy_path)
    critic = load_critic(config, config.reward, reward_path, backbone) if config.ppo.has_critic else None
    if critic:
        encoder.check_window(critic.model)
    return Networks(policy, frozen, critic, backbone)


def _first_carry(config: PpoConfig) -> dict[str, float]:
    """Return what the first rollout starts from: the coefficient of the KL penalty, and the tokens of a budget."""
    carry = {"kl_coef": config.kl_coef if config.kl_penalty != "none" else 0.0}
    return carry | ({"sampled_tokens": 0} if config.max_sampled_tokens else {})


@dataclass(frozen=True)
class Roles:
    """All roles of PPO, with the sampler of the actor's responses."""

    actor_critic: LmActorCritic
    reference: RefLogprobs
    scorer: Scorer
    sampler: Sampler
    config: PpoConfig
    seed: int
    watched: Mapping[str, Score] = field(default_factory=dict)  # judges of ppo.watch by their names in metrics

    def assess(self, responses: Responses, *, scores: Tensor | None = None, values_learn: bool = False) -> Assessment:
        """Run all roles on the responses; with `values_learn` the values keep their graph, `scores` are known ones."""
        return assess(
            responses,
            self.actor_critic,
            self.reference,
            self.scorer if scores is None else lambda _: scores,
            micro_batch_size=self.config.micro_batch_size,
            values_learn=values_learn,
        )


@dataclass(frozen=True)
class Collect:
    """Collect rollouts on the training prompts; the index alone determines prompts and random numbers."""

    roles: Roles
    prompts: Sets
    weights: Mapping[str, float]  # how often a pass over the prompts repeats each set

    def __call__(self, index: int, carry: Mapping[str, float]) -> Collected:
        """Sample responses to a batch of prompts and build the rollout; `carry` holds the current kl_coef."""
        roles, ppo, kl_coef = self.roles, self.roles.config, carry["kl_coef"]
        tally, stopwatch = Tally(roles.scorer), Stopwatch()
        score, num_tokens = stopwatch.timed(tally), list[int]()

        def sample(attempt: int = 0) -> Responses:
            responses = self._sample(index, attempt)
            num_tokens.append(int(responses.batch.response_mask.sum()))
            return responses

        if ppo.compares_groups:
            drawn = draw_groups(
                sample,
                score,
                lambda responses, scores: rewarded(scores, responses.ended, ppo),
                group_size=ppo.group_size,
                max_redraws=ppo.max_redraws,
            )
            responses, assessment = drawn.responses, roles.assess(drawn.responses, scores=drawn.scores)
        else:
            drawn, responses = None, sample()
            learns = takes_one_step(ppo, len(responses.texts))
            assessment = roles.assess(responses, scores=score(responses), values_learn=learns)
        rollout = build(responses, assessment, ppo, kl_coef=kl_coef)
        metrics = rollout_metrics(responses, assessment, rollout, ppo, kl_coef=kl_coef)
        if responses.by_engine:
            check_engine(metrics["sampler_mismatch"], roles.actor_critic)
        metrics |= text_metrics(responses) | tally.metrics | (drawn.metrics if drawn else {})
        if ppo.kl_target:
            kl_coef = adapted_kl_coef(
                kl_coef, metrics["kl"], target=ppo.kl_target, num_samples=len(responses.texts), horizon=ppo.kl_horizon
            )
        now = {"kl_coef": kl_coef}
        if ppo.max_sampled_tokens:
            now["sampled_tokens"] = metrics["sampled_tokens"] = carry["sampled_tokens"] + sum(num_tokens)
        samples = [
            {"prompt": prompt, "response": text, "score": float(score)}
            for prompt, text, score in zip(responses.prompts, responses.texts, assessment.scores, strict=True)
        ]
        tensors = {
            "ids": responses.batch.ids,
            "prompt_lengths": responses.batch.prompt_lengths,
            "ended": responses.ended,
            "scores": assessment.scores,
            "kl_coef": torch.tensor(carry["kl_coef"], dtype=torch.float64),
        }
        seconds = {"reward_seconds": stopwatch.seconds}
        return Collected(rollout, metrics, samples[:NUM_SAMPLES], now, tensors, seconds)

    def self_check(self, *, at_reference: bool = True) -> dict[str, float]:
        """Check a small rollout of the untrained actor, which may be the reference; FailedError if a check fails."""
        roles, ppo = self.roles, self.roles.config
        few = self._batch(0)[: max(2, ppo.micro_batch_size)]
        responses = roles.sampler.sample(few, generator(roles.seed, "self-check"))
        assessment = roles.assess(responses)
        return check(responses, assessment, roles.actor_critic, roles.reference, ppo, at_reference=at_reference)

    def _sample(self, index: int, attempt: int = 0) -> Responses:
        """Sample the responses of a rollout; another attempt has other prompts and random numbers."""
        names = ("redraw", attempt) if attempt else ()
        chance = generator(self.roles.seed, "rollout", index, *names)
        return self.roles.sampler.sample(self._batch(index, *names), chance)

    def _batch(self, index: int, *names: str | int) -> list[Example]:
        """Return the index-th batch of an endless stream; every pass over the prompts has its own order.

        Each prompt is repeated for its group. Other names give another stream.
        """
        examples, group_size = flat(self.prompts), self.roles.config.group_size
        batch_size = self.roles.config.batch_size // group_size

        def order_of(pass_number: int) -> list[int]:
            return mixed_pass(self.prompts, self.weights, generator(self.roles.seed, "prompts", pass_number, *names))

        num = len(order_of(0))  # the same in every pass
        positions = range(index * batch_size, (index + 1) * batch_size)
        orders = {number: order_of(number) for number in {position // num for position in positions}}
        chosen = [examples[orders[position // num][position % num]] for position in positions]
        return [example for example in chosen for _ in range(group_size)]


def validate(roles: Roles, examples: Sequence[Example]) -> Validation:
    """Measure responses to the examples; every call draws the same random numbers.

    The score of an example is the mean over its `ppo.samples_per_eval_prompt` responses.
    """
    scores, kls = [], []
    watched: dict[str, list[Tensor]] = {name: [] for name in roles.watched}
    num = roles.config.samples_per_eval_prompt
    repeated = [example for example in examples for _ in range(num)]

    def by_prompt(parts: list[Tensor]) -> Tensor:
        return torch.cat(parts).view(len(examples), num).mean(1)

    def scored(name: str) -> Tensor:
        return torch.cat(watched[name]).view(len(examples), num).nanmean(1)  # nan is no score

    for responses in roles.sampler.sample_all(repeated, generator(roles.seed, "validation"), title="validation"):
        assessment = roles.assess(responses)
        scores.append(final_scores(responses, assessment, roles.config))
        kls.append(kl_per_response(assessment, responses))
        for name, score in roles.watched.items():
            watched[name].append(score(responses))
    of_prompts = by_prompt(scores)
    return Validation(
        float(of_prompts.mean()),
        of_prompts,
        float(torch.cat(kls).mean()),
        {name: Watched.of(scored(name)) for name in watched},
    )


def load_critic(
    networks: NetworkConfig, reward: RewardConfig, reward_path: str, backbone: Backbone | None
) -> ScoreModel:
    """Load the critic: the weights of the reward model, or of reward.model if there is none, with a head of zeros.

    The reward model's own head has learned the score of a whole response. Before the end of a response it predicts the
    return worse than a constant does, and such values add noise to every advantage.
    """
    num_layers = reward.num_layers
    if reward_path:
        critic = load_reward_model(networks, reward_path, backbone, num_layers=num_layers, learns=True)
    elif backbone:
        critic = backbone.score_model(num_layers=num_layers, learns=True)
    else:
        critic = load_score_model(networks, path=reward.model, num_layers=num_layers, learns=True)
    with torch.no_grad():
        critic.head.weight.zero_()
        critic.bias.zero_()
    return critic


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


def _pretraining_mix(policy: Policy, encoder: Encoder, config: LmConfig, seed: int) -> Callable[[int, int], Tensor]:
    """Return ptx_coef times the mean SFT loss of a few examples (Ouyang et al. 2022, eq. 2), or this rank's part."""
    sets = step_examples(config.data, "sft", columns_of_run(config)).train
    examples = flat(encoder.within_limits(sets, "pretraining mix"))
    batches = SftBatches(encoder, device_of(config.device), config.sft)

    def loss(index: int, minibatch: int) -> Tensor:
        chance = generator(seed, "ptx", index, minibatch)
        rows = torch.randperm(len(examples), generator=chance)[: config.sft.micro_batch_size]
        some = [examples[row] for row in rows]
        mine = batches.of(own(some, lambda example: len(example.prompt) + len(example.chosen)))
        count = summed({"tokens": sum(int(batch.response_mask.sum()) for batch in mine)})["tokens"]
        losses = [response_loss(policy, batch) for batch in mine]  # one batch, or none
        return config.ppo.ptx_coef * sum(losses, torch.zeros((), device=batches.device)) / count

    return loss
