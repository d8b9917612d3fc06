"""Time a step of TRL's GRPOTrainer by its public interface; print JSON.

The same work as `benchmarks/ppo_step.py --group 8`: a reward model scores the answers, and k3 from a reference is
added to the loss. The reward model is called on the sampled ids, so no text is tokenized again.

    PYTHONPATH=benchmarks PEERS/venv-trl/bin/python benchmarks/peers/grpo_trl.py --lengths real --batch 32 --group 8
"""

import argparse
import contextlib
import sys
import tempfile

import torch
import transformers
import trl
from datasets import Dataset
from random_opt import PAD, causal, scorer, tokenizer
from torch import nn
from transformers import OPTForCausalLM, OPTForSequenceClassification, TrainerCallback
from trl import GRPOConfig, GRPOTrainer
from work import EOS, Moment, most_tokens, parser, phases, prompts, report

KL_COEF = 0.1  # Tercet's default


class Clock(TrainerCallback):
    """Record the ends of sampling, of scoring, and of the step."""

    def __init__(self, settings: argparse.Namespace, policy: OPTForCausalLM) -> None:
        self.settings = settings
        self.rows: list[dict[str, float]] = []
        self.moments: list[Moment] = []
        self.counts: dict[str, int] = {}
        self.draw = policy.generate
        policy.generate = self.generate
        policy.register_forward_pre_hook(self.training_starts)

    def generate(self, *args: object, **named: object) -> torch.Tensor:
        """Sample, and count the tokens of prompts and of answers up to EOS."""
        drawn = self.draw(*args, **named)
        self.moments.append(Moment.now())
        asked = named["attention_mask"]
        answers = drawn[:, asked.shape[1] :]
        ends = (answers == EOS).long() if self.settings.lengths == "real" else torch.zeros_like(answers)
        num_drawn = int((ends.cumsum(1) - ends == 0).sum())
        self.counts = {"num_drawn": num_drawn, "num_prompt_tokens": int(asked.sum())}
        return drawn

    def training_starts(self, *_: object) -> None:
        """Record the first forward pass with a gradient."""
        if torch.is_grad_enabled() and len(self.moments) == 2:
            self.moments.append(Moment.now())

    def on_train_begin(self, *_: object, **__: object) -> None:
        """Record the start of the first step."""
        self.moments = [Moment.now()]

    def on_step_end(self, *_: object, **__: object) -> None:
        """Record the end of the step and the start of the next."""
        end = Moment.now()
        self.rows.append(phases((*self.moments, end), **self.counts))
        self.moments = [end]


class Reward:
    """Score prompts and answers with a reward model, on the ids themselves."""

    __name__ = "reward"

    def __init__(self, model: OPTForSequenceClassification) -> None:
        self.model = model

    def __call__(self, *, ids: list[list[int]], completion_ids: list[list[int]], **_: object) -> list[float]:
        """Return one score per answer."""
        rows = [torch.tensor(prompt + answer) for prompt, answer in zip(ids, completion_ids, strict=True)]
        padded = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD).to(self.model.device)
        with torch.inference_mode():
            return self.model(input_ids=padded, attention_mask=padded != PAD).logits[:, 0].tolist()


def asked(settings: argparse.Namespace) -> Dataset:
    """Return the distinct prompts of all steps, as words and as ids."""
    steps = range(settings.warmup + settings.iters)
    rows = [prompt for index in steps for prompt in prompts(settings, index)[:: settings.group]]
    return Dataset.from_dict({"prompt": [" ".join(f"word{number}" for number in row) for row in rows], "ids": rows})


def config_of(settings: argparse.Namespace, folder: str) -> GRPOConfig:
    """Return the settings of the same work: one epoch, one minibatch, micro-batches, sampling in one batch."""
    micro = min(settings.batch, settings.micro)
    most = most_tokens(settings)
    return GRPOConfig(
        output_dir=folder,
        use_cpu=settings.device == "cpu",
        bf16=settings.precision == "bf16",
        gradient_checkpointing=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        max_steps=settings.warmup + settings.iters,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=settings.batch // micro,
        num_generations=settings.group,
        max_completion_length=most,
        generation_kwargs={} if settings.lengths == "real" else {"min_new_tokens": most},
        shuffle_dataset=False,
        loss_type="grpo",
        beta=KL_COEF,
        temperature=1.0,
        learning_rate=1e-5,
    )


def main() -> None:
    """Run `--warmup` steps, then measure `--iters` steps."""
    settings = parser(__doc__ or "").parse_args()
    torch.set_num_threads(settings.threads)
    transformers.utils.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):  # it prints its metrics
        causal(settings).save_pretrained(folder)  # the trainer loads the reference from there
        policy = OPTForCausalLM.from_pretrained(folder)
        clock = Clock(settings, policy)
        trainer = GRPOTrainer(
            model=policy,
            reward_funcs=Reward(scorer(settings).eval()),
            args=config_of(settings, folder),
            train_dataset=asked(settings),
            processing_class=tokenizer(settings),
            callbacks=[clock],
        )
        trainer.train()
    report(f"trl {trl.__version__}", settings, clock.rows[settings.warmup :])


if __name__ == "__main__":
    main()
