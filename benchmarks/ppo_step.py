"""One PPO step by the pipeline's own code, on the shape of OPT-125M with random weights; one JSON line.

Four roles of one size (actor, reference, critic, reward model), all weights learning, fp32, one epoch, one minibatch:

    python benchmarks/ppo_step.py --lengths fixed --batch 8 --prompt 64 --response 64 --threads 2 --iters 3
    python benchmarks/ppo_step.py --lengths real --batch 32
"""

import argparse

import torch
from work import (
    EOS,
    Moment,
    Shape,
    critic_shape,
    eos_of,
    make_eos_likely,
    most_tokens,
    parser,
    phases,
    prompts,
    report,
    shape,
)

from tercet.config.lm import LmConfig
from tercet.lm.answers import Answers
from tercet.lm.generate import Responses, generate
from tercet.lm.models import load_policy, load_score_model
from tercet.lm.rollout import LmActorCritic, assess, build, reference_logprobs
from tercet.lm.scoring import Scorer, by_model
from tercet.lm.tokens import pad
from tercet.train.chance import generator
from tercet.train.ppo import Learner, update
from tercet.types import Rollout


def config_of(settings: argparse.Namespace, architecture: Shape) -> LmConfig:
    """The work as a config, for the roles of one architecture."""
    return LmConfig.model_validate(
        {
            "device": settings.device,
            "precision": settings.precision,
            "model": {"path": "random", "architecture": architecture},
            "lora": {"rank": settings.lora},
            "ppo": {
                "batch_size": settings.batch,
                "micro_batch_size": min(settings.batch, settings.micro),
                "epochs": 1,
                "num_minibatches": 1,
                "missing_eos_penalty": 0.0,
            },
        }
    )


class Step:
    """The four roles, and what one step does with them."""

    def __init__(self, settings: argparse.Namespace) -> None:
        self.settings, self.config = settings, config_of(settings, shape(settings))
        critics = config_of(settings, critic_shape(settings))
        self.policy = load_policy(self.config, learns=True)
        frozen = None if settings.lora else load_policy(self.config)
        if settings.lengths == "real":
            for policy in filter(None, (self.policy, frozen)):
                make_eos_likely(policy.model, settings.response)
        self.critic = load_score_model(critics, learns=True)
        self.actor_critic = LmActorCritic(self.policy, self.critic, 1.0)
        self.reference = reference_logprobs(self.policy, frozen, temperature=1.0)
        self.scorer = Scorer([(1.0, by_model(load_score_model(critics), self.config.ppo.micro_batch_size))])
        self.learner = Learner.of(self.actor_critic, self.policy, self.critic, self.config.ppo)

    def __call__(self, index: int) -> dict[str, float]:
        """Generate, score, train; the seconds of each."""
        asked = prompts(self.settings, index)
        start = Moment.now()
        drawn = self.sample(asked, index, most=most_tokens(self.settings))
        generated = Moment.now()
        rollout = self.score(asked, drawn)
        scored = Moment.now()
        update(self.learner, rollout, self.config.ppo, generator=generator(1, index))
        moments = (start, generated, scored, Moment.now())
        return phases(moments, num_drawn=int(drawn.mask.sum()), num_prompt_tokens=sum(map(len, asked)))

    def sample(self, asked: list[list[int]], index: int, *, most: int) -> Responses:
        """The answers."""
        self.policy.eval()
        with self.policy.autocast():
            return generate(
                self.policy.model,
                asked,
                eos_id=eos_of(self.settings),
                max_tokens=most,
                temperature=1.0,
                generator=generator(0, index),
            )

    def score(self, asked: list[list[int]], drawn: Responses) -> Rollout:
        """What all four roles say of the answers."""
        ppo, batch = self.config.ppo, pad(asked, drawn.tolist(), pad_id=EOS)
        answers = Answers([], [""] * len(asked), batch.to(drawn.ids.device), drawn.logprobs, drawn.ended)
        seen = assess(answers, self.actor_critic, self.reference, self.scorer, micro_batch_size=ppo.micro_batch_size)
        return build(answers, seen, ppo, kl_coef=ppo.kl_coef)


def main() -> None:
    """`--warmup` steps, then `--iters` measured ones."""
    command = parser(__doc__ or "")
    command.add_argument("--gpu-gib", type=float, default=0.0, help="so much of the GPU's memory and no more; 0: all")
    settings = command.parse_args()
    torch.set_num_threads(settings.threads)
    if settings.gpu_gib and settings.device == "cuda":
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, settings.gpu_gib * 2**30 / total))
    step = Step(settings)
    rows = [step(index) for index in range(settings.warmup + settings.iters)][settings.warmup :]
    report("tercet", settings, rows)


if __name__ == "__main__":
    main()
