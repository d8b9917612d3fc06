"""One PPO step by the pipeline's own code, on the shape of OPT-125M with random weights; one JSON line.

Four roles of one size (actor, reference, critic, reward model), all weights learning, fp32, one epoch, one minibatch:

    python benchmarks/ppo_step.py --lengths fixed --batch 8 --prompt 64 --response 64 --threads 2 --iters 3
    python benchmarks/ppo_step.py --lengths real --batch 32
"""

import argparse

import torch
from work import EOS, Moment, eos_of, make_eos_likely, most_tokens, parser, phases, prompts, report, shape

from tercet.config.lm import LmConfig
from tercet.lm.answers import Answers
from tercet.lm.generate import generate
from tercet.lm.models import load_policy, load_score_model
from tercet.lm.rollout import LmActorCritic, assess, build, reference_logprobs
from tercet.lm.scoring import Scorer, by_model
from tercet.lm.tokens import pad
from tercet.train.chance import generator
from tercet.train.ppo import Learner, update


def config_of(settings: argparse.Namespace) -> LmConfig:
    """The work as a config."""
    return LmConfig.model_validate(
        {
            "model": {"path": "random", "architecture": shape(settings)},
            "ppo": {
                "batch_size": settings.batch,
                "micro_batch_size": min(settings.batch, 8),
                "epochs": 1,
                "num_minibatches": 1,
                "missing_eos_penalty": 0.0,
            },
        }
    )


class Step:
    """The four roles, and what one step does with them."""

    def __init__(self, settings: argparse.Namespace) -> None:
        self.settings, self.config = settings, config_of(settings)
        self.policy = load_policy(self.config, learns=True)
        frozen = load_policy(self.config)
        if settings.lengths == "real":
            for policy in (self.policy, frozen):
                make_eos_likely(policy.model, settings.response)
        critic = load_score_model(self.config, learns=True)
        self.actor_critic = LmActorCritic(self.policy, critic, 1.0)
        self.reference = reference_logprobs(self.policy, frozen, temperature=1.0)
        self.scorer = Scorer([(1.0, by_model(load_score_model(self.config), self.config.ppo.micro_batch_size))])
        self.learner = Learner.of(self.actor_critic, self.policy, critic, self.config.ppo)

    def __call__(self, index: int) -> dict[str, float]:
        """Generate, score, train; the seconds of each."""
        ppo, settings = self.config.ppo, self.settings
        asked = prompts(settings, index)
        start = Moment.now()
        self.policy.eval()
        drawn = generate(
            self.policy.model,
            asked,
            eos_id=eos_of(settings),
            max_tokens=most_tokens(settings),
            temperature=1.0,
            generator=generator(0, index),
        )
        generated = Moment.now()
        batch = pad(asked, drawn.tolist(), pad_id=EOS)
        answers = Answers([], [""] * len(asked), batch, drawn.logprobs, drawn.ended)
        seen = assess(answers, self.actor_critic, self.reference, self.scorer, micro_batch_size=ppo.micro_batch_size)
        rollout = build(answers, seen, ppo, kl_coef=ppo.kl_coef)
        scored = Moment.now()
        update(self.learner, rollout, ppo, generator=generator(1, index))
        end = Moment.now()
        moments = (start, generated, scored, end)
        return phases(moments, num_drawn=int(drawn.mask.sum()), num_prompt_tokens=sum(map(len, asked)))


def main() -> None:
    """`--warmup` steps, then `--iters` measured ones."""
    settings = parser(__doc__ or "").parse_args()
    torch.set_num_threads(settings.threads)
    step = Step(settings)
    rows = [step(index) for index in range(settings.warmup + settings.iters)][settings.warmup :]
    report("tercet", settings, rows)


if __name__ == "__main__":
    main()
