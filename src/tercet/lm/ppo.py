"""Step 3, improve: PPO with actor, critic, reference and reward model over tokens (Ouyang et al. 2022, section 3.5)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from tercet.config.lm import LmConfig
from tercet.core.kl import adapted_kl_coef
from tercet.core.statistics import AS_IT_IS
from tercet.errors import InputError
from tercet.lm.data.batches import mixed_pass
from tercet.lm.data.digests import digests
from tercet.lm.data.examples import Example
from tercet.lm.data.splits import Sets, flat, step_examples, weights_of
from tercet.lm.imitation import AnswerBatches, answer_loss
from tercet.lm.models.backbone import Backbone, load_reward_model
from tercet.lm.models.roles import Policy, ScoreModel, load_policy, load_score_model
from tercet.lm.rollout import (
    Assessed,
    LmActorCritic,
    RefLogprobs,
    assess,
    build,
    describe,
    kl_per_answer,
    paid_scores,
    reference_logprobs,
)
from tercet.lm.sampling.model_check import check_policy
from tercet.lm.sampling.responses import Answers, answer, answer_all
from tercet.lm.scales import Scales, find_scales, load_scales, reference_answers, save_scales
from tercet.lm.scoring import OWN, Score, Scorer, load_terms, scaled
from tercet.lm.self_check import check
from tercet.lm.stages import sft_model
from tercet.lm.text.encoder import Encoder
from tercet.runs.folder import RunFolder
from tercet.runs.step import Step
from tercet.train.chance import generator
from tercet.train.ppo import Collected, Learner, Validation, takes_one_step, train

NO_VALIDATION = "ppo: no validation prompts are held out to choose the best checkpoint; raise data.eval_fraction"
SAMPLES_KEPT = 4  # answers of a rollout that go to samples.jsonl
SHOWN = ["ppo/score", "ppo/kl", "ppo/response_length", "ppo/explained_variance", "ppo/clip_fraction"]


def run(folder: RunFolder, config: LmConfig) -> None:
    """Improve the SFT policy by what the reward says of its answers; the best actor is kept in DIR/ppo/model."""
    policy_path, reward_path = _needed(folder, config)
    encoder = Encoder.of(config)
    examples = step_examples(config.data, "ppo")
    prompts = encoder.within_limits(examples.train, "ppo")
    held_out = flat(encoder.within_limits(examples.validation, "validation"))
    order = torch.randperm(len(held_out), generator=generator(config.seed, "validation prompts")).tolist()
    held_out = [held_out[i] for i in order[: config.ppo.num_eval_prompts]]
    if not held_out:
        raise InputError(NO_VALIDATION)
    backbone = Backbone.load(config, policy_path) if config.lora.shared_backbone else None
    policy = backbone.policy() if backbone else load_policy(config, path=policy_path, learns=True)
    encoder.check_window(policy.model)
    check_policy(policy)
    frozen = None if config.lora.rank else load_policy(config, path=policy_path)
    critic = load_critic(config, reward_path, backbone)
    encoder.check_window(critic.model)
    terms = load_terms(config, reward_path, backbone)
    data = digests(config, "ppo")
    with folder.step("ppo", total=config.ppo.num_updates, num_before=1, shown=SHOWN, data=data) as step:
        scales = _scales(step, terms, policy, encoder, flat(prompts), config)
        roles = Roles(
            LmActorCritic(policy, critic, config.ppo.temperature),
            reference_logprobs(policy, frozen, temperature=config.ppo.temperature),
            Scorer([(config.ppo.reward[name], scaled(score, scales[name])) for name, score in terms.items()]),
            encoder,
            config,
        )
        collect = Collect(roles, prompts, weights_of(config.data, "ppo"))
        checked = collect.self_check()
        best = train(
            step,
            Learner.of(roles.actor_critic, policy, critic, config.ppo),
            collect=collect,
            validate=lambda: validate(roles, held_out),
            carry={"kl_coef": config.ppo.kl_coef},
            config=config.ppo,
            samples_every=config.ppo.samples_every,
            seed=config.seed,
            extra_actor_loss=_pretraining_mix(policy, encoder, config) if config.ppo.ptx_coef else None,
        )
        step.save_folder("model", lambda path: policy.save(path, encoder.tokenizer, encoder.ends.ids))
        taken = {name: asdict(scale) for name, scale in scales.items() if name != OWN}
        step.finish({"best_checkpoint": vars(best), "self_check": checked, "reward_scale": taken})


@dataclass(frozen=True)
class Roles:
    """Actor and critic, reference, reward, and how texts become tokens."""

    actor_critic: LmActorCritic
    reference: RefLogprobs
    scorer: Scorer
    encoder: Encoder
    config: LmConfig

    def assess(self, answers: Answers, *, values_learn: bool = False) -> Assessed:
        """What reference, critic and reward say of the answers; with `values_learn` the values keep their graph."""
        return assess(
            answers,
            self.actor_critic,
            self.reference,
            self.scorer,
            micro_batch_size=self.config.ppo.micro_batch_size,
            values_learn=values_learn,
        )


@dataclass(frozen=True)
class Collect:
    """Rollouts on the training prompts; which prompts and draws a rollout has follows from its index alone."""

    roles: Roles
    prompts: Sets
    weights: Mapping[str, float]  # how often a pass asks each set's prompts

    def __call__(self, index: int, carry: Mapping[str, float]) -> Collected:
        """Answer a batch of prompts and learn what each token earned; `carry` holds the present kl_coef."""
        roles, ppo, kl_coef = self.roles, self.roles.config.ppo, carry["kl_coef"]
        asked = self._batch(index)
        answers = self._answers(asked, generator(roles.config.seed, "rollout", index))
        seen = roles.assess(answers, values_learn=takes_one_step(ppo, len(asked)))
        rollout = build(answers, seen, ppo, kl_coef=kl_coef)
        metrics = describe(answers, seen, rollout, ppo, kl_coef=kl_coef)
        if ppo.kl_target:
            kl_coef = adapted_kl_coef(
                kl_coef, metrics["kl"], target=ppo.kl_target, num_samples=len(answers.texts), horizon=ppo.kl_horizon
            )
        samples = [
            {"prompt": prompt, "response": text, "score": float(score)}
            for prompt, text, score in zip(answers.prompts, answers.texts, seen.scores, strict=True)
        ]
        return Collected(rollout, metrics, samples[:SAMPLES_KEPT], {"kl_coef": kl_coef})

    def self_check(self) -> dict[str, float]:
        """Refuse to train where the untrained actor's first rollout shows that something is wrong."""
        roles, ppo = self.roles, self.roles.config.ppo
        few = self._batch(0)[: max(2, ppo.micro_batch_size)]
        answers = self._answers(few, generator(roles.config.seed, "self-check"))
        return check(answers, roles.assess(answers), roles.actor_critic, roles.reference, ppo)

    def _answers(self, examples: Sequence[Example], chance: torch.Generator) -> Answers:
        """The present actor's."""
        roles = self.roles
        return answer(
            roles.actor_critic.policy,
            roles.encoder,
            examples,
            generator=chance,
            temperature=roles.config.ppo.temperature,
            max_tokens=roles.encoder.max_sampled_tokens,
        )

    def _batch(self, index: int) -> list[Example]:
        """The index-th batch of an endless stream in which every pass over the prompts has its own order."""
        config, examples = self.roles.config, flat(self.prompts)

        def pass_over(number: int) -> list[int]:
            return mixed_pass(self.prompts, self.weights, generator(config.seed, "prompts", number))

        num = len(pass_over(0))  # no pass has more or fewer
        places = range(index * config.ppo.batch_size, (index + 1) * config.ppo.batch_size)
        orders = {number: pass_over(number) for number in {place // num for place in places}}
        return [examples[orders[place // num][place % num]] for place in places]


def validate(roles: Roles, examples: Sequence[Example]) -> Validation:
    """Mean pay and KL of one sampled answer to each example; every call draws the same random numbers."""
    config = roles.config
    batches = answer_all(
        roles.actor_critic.policy,
        roles.encoder,
        examples,
        generator=generator(config.seed, "validation"),
        temperature=config.ppo.temperature,
        max_tokens=roles.encoder.max_sampled_tokens,
        batch_size=config.eval.batch_size,
        title="validation",
    )
    scores, kls = [], []
    for answers in batches:
        seen = roles.assess(answers)
        scores.append(paid_scores(answers, seen, config.ppo))
        kls.append(kl_per_answer(seen, answers))
    return Validation(float(torch.cat(scores).mean()), float(torch.cat(kls).mean()))


def load_critic(config: LmConfig, reward_path: str, backbone: Backbone | None) -> ScoreModel:
    """The critic: the reward model's weights where there is one, else a fresh head."""
    if reward_path:
        return load_reward_model(config, reward_path, backbone, learns=True)
    num_layers = config.reward.num_layers
    if backbone:
        return backbone.score_model(num_layers=num_layers, learns=True)
    return load_score_model(config, num_layers=num_layers, learns=True)


def _scales(
    step: Step,
    terms: Mapping[str, Score],
    policy: Policy,
    encoder: Encoder,
    prompts: Sequence[Example],
    config: LmConfig,
) -> Scales:
    """The scale of each term: taken once, by answers of the policy that has not learned yet, and kept for good."""
    file = step.path / "reward_scales.json"
    scales = {OWN: AS_IT_IS}  # step 2 has brought it to its scale
    if not terms.keys() - scales.keys():
        return scales
    if step.restore() is None:
        save_scales(find_scales(terms, reference_answers(policy, encoder, prompts, config)), file)
    return scales | load_scales(file)


def _needed(folder: RunFolder, config: LmConfig) -> tuple[str, str]:
    """Where the policy and this run's reward model lie ('' if the reward needs none)."""
    policy = sft_model(folder, config)
    if not policy:
        missing = folder.path / "sft" / "model"
        raise InputError(f"ppo: {missing} is not there yet; run `tercet lm sft` with the same --out, or set ppo.policy")
    if OWN not in config.ppo.reward:
        return policy, ""
    reward = folder.path / "reward" / "model"
    if not folder.is_done("reward"):
        raise InputError(
            f"ppo: {reward} is not there yet; run `tercet lm reward` with the same --out, or set ppo.reward"
        )
    return policy, str(reward)


def _pretraining_mix(policy: Policy, encoder: Encoder, config: LmConfig) -> Callable[[int, int], Tensor]:
    """ptx_coef times the mean loss of a few SFT examples (Ouyang et al. 2022, eq. 2)."""
    examples = flat(encoder.within_limits(step_examples(config.data, "sft").train, "pretraining mix"))
    batches = AnswerBatches(encoder, config)

    def loss(index: int, minibatch: int) -> Tensor:
        chance = generator(config.seed, "ptx", index, minibatch)
        rows = torch.randperm(len(examples), generator=chance)[: config.sft.micro_batch_size]
        (batch,) = batches.of([examples[row] for row in rows])
        return config.ppo.ptx_coef * answer_loss(policy, batch) / batch.response_mask.sum()

    return loss
