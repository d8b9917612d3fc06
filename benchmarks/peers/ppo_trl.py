"""Time a PPO step of TRL's PPOTrainer (TRL 1.12, the last release with it) by its public interface; print JSON.

The same work as `benchmarks/ppo_step.py`. TRL scores with three forward passes; like Tercet it uses the
log-probabilities of sampling.

    PYTHONPATH=benchmarks:$PEERS/trl-ppo $PEERS/venv-trl/bin/python benchmarks/peers/ppo_trl.py --lengths fixed
"""

import argparse
import contextlib
import os
import sys
import tempfile

import torch
from random_opt import causal, scorer, tokenizer
from work import EOS, Moment, most_tokens, parser, phases, prompts, report

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"  # PPO is marked experimental
import transformers
import trl
from datasets import Dataset
from transformers import TrainerCallback
from trl.experimental.ppo import PPOConfig, PPOTrainer


class Clock(TrainerCallback):
    """Record when sampling starts and ends, when the first training forward pass starts, and when the step ends."""

    def __init__(self, settings: argparse.Namespace) -> None:
        self.settings = settings
        self.rows: list[dict[str, float]] = []
        self.moments: list[Moment] = []
        self.counts: dict[str, int] = {}

    def watch(self, trainer: PPOTrainer, policy: transformers.PreTrainedModel) -> None:
        """Wrap the functions that the trainer calls."""
        draw = policy.generate

        def generate(*args: object, **named: object) -> object:
            drawn = draw(*args, **named)
            self.moments.append(Moment.now())
            asked = named["attention_mask"]
            answers = drawn.sequences[:, asked.shape[1] :]
            ends = (answers == EOS).long() if self.settings.lengths == "real" else torch.zeros_like(answers)
            num_drawn = int((ends.cumsum(1) - ends == 0).sum())
            self.counts = {"num_drawn": num_drawn, "num_prompt_tokens": int(asked.sum())}
            return drawn

        def training_starts(*_: object) -> None:
            if len(self.moments) == 2:
                self.moments.append(Moment.now())

        policy.generate = generate
        trainer.model.register_forward_pre_hook(training_starts)
        self.moments = [Moment.now()]

    def on_step_end(self, *_: object, **__: object) -> None:
        """Record the end of the step and the start of the next."""
        end = Moment.now()
        self.rows.append(phases((*self.moments, end), **self.counts))
        self.moments = [end]


def asked(settings: argparse.Namespace) -> Dataset:
    """Return the prompts of all steps; the trainer shuffles and pads them itself."""
    steps = range(settings.warmup + settings.iters)
    return Dataset.from_dict({"input_ids": [prompt for index in steps for prompt in prompts(settings, index)]})


def config_of(settings: argparse.Namespace, folder: str) -> PPOConfig:
    """Return the settings of the same work: one epoch, one minibatch, micro-batches, sampling in one batch."""
    micro = min(settings.batch, settings.micro)
    return PPOConfig(
        output_dir=folder,
        use_cpu=settings.device == "cpu",
        bf16=settings.precision == "bf16",
        gradient_checkpointing=False,
        report_to="none",
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
        total_episodes=settings.batch * (settings.warmup + settings.iters),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=settings.batch // micro,
        local_rollout_forward_batch_size=settings.batch,
        num_mini_batches=1,
        num_ppo_epochs=1,
        num_sample_generations=0,
        response_length=most_tokens(settings),
        stop_token="eos" if settings.lengths == "real" else None,
        temperature=1.0,
        kl_coef=0.1,
        learning_rate=1e-5,
    )


def main() -> None:
    """Run `--warmup` steps, then measure `--iters` steps."""
    settings = parser(__doc__ or "").parse_args()
    torch.set_num_threads(settings.threads)
    transformers.utils.logging.set_verbosity_error()
    policy, reference, value, reward = causal(settings), causal(settings), scorer(settings), scorer(settings)
    for frozen in (reference, reward):
        frozen.eval().requires_grad_(False)
    clock, data = Clock(settings), asked(settings)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):  # it prints its metrics
        trainer = PPOTrainer(
            args=config_of(settings, folder),
            processing_class=tokenizer(settings),
            model=policy,
            ref_model=reference,
            reward_model=reward,
            value_model=value,
            train_dataset=data,
            eval_dataset=data,
            callbacks=[clock],
        )
        clock.watch(trainer, policy)
        trainer.train()
    report(f"trl {trl.__version__}", settings, clock.rows[settings.warmup :])


if __name__ == "__main__":
    main()
