"""Time steps of TRL's SFTTrainer and RewardTrainer by their public interface; print one JSON line.

The same work as `benchmarks/sft_step.py` and `benchmarks/reward_step.py`: the loss of SFT is on the answers.

    PYTHONPATH=benchmarks $PEERS/venv-trl/bin/python benchmarks/peers/sft_rm_trl.py --what sft --batch 16
"""

import argparse
import contextlib
import sys
import tempfile

import torch
import transformers
import trl
from datasets import Dataset
from random_opt import causal, scorer, tokenizer
from transformers import TrainerCallback
from work import FIRST_WORD, Moment, lessons, parser, report, step_row


class Clock(TrainerCallback):
    """Record the end of each step; count the tokens in the model's input, without padding."""

    def __init__(self) -> None:
        self.moments: list[Moment] = []
        self.num_tokens = [0]

    def count(self, _: object, __: object, named: dict[str, torch.Tensor]) -> None:
        """Count tokens before every forward pass of the model."""
        self.num_tokens[-1] += int(named["attention_mask"].sum())

    def on_step_end(self, *_: object, **__: object) -> None:
        """Record the end of an optimizer step."""
        self.moments.append(Moment.now())
        self.num_tokens.append(0)

    def rows(self) -> list[dict[str, float]]:
        """Return a row of figures for every step."""
        return [
            step_row(start, end, num)
            for start, end, num in zip(self.moments[:-1], self.moments[1:], self.num_tokens, strict=False)
        ]


def data(settings: argparse.Namespace) -> Dataset:
    """Return examples as token ids."""
    chance, of_sft, of_pairs = torch.Generator().manual_seed(0), [], []
    for lesson in lessons(settings):
        prompt, chosen, rejected = (
            torch.randint(FIRST_WORD, settings.vocab, (num,), generator=chance).tolist()
            for num in (lesson.prompt, lesson.chosen, lesson.rejected)
        )
        of_sft.append({"input_ids": prompt + chosen, "labels": [-100] * len(prompt) + chosen})
        of_pairs.append({"chosen_ids": prompt + chosen, "rejected_ids": prompt + rejected})
    return Dataset.from_list(of_sft if settings.what == "sft" else of_pairs)


def trainer_of(settings: argparse.Namespace, clock: Clock, folder: str) -> transformers.Trainer:
    """Return the trainer, with micro-batches of 8."""
    is_sft, micro = settings.what == "sft", min(settings.batch, settings.micro)
    args = (trl.SFTConfig if is_sft else trl.RewardConfig)(
        output_dir=folder,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
        max_steps=settings.warmup + settings.iters,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=settings.batch // micro,
        learning_rate=1e-5,
    )
    return (trl.SFTTrainer if is_sft else trl.RewardTrainer)(
        model=causal(settings) if is_sft else scorer(settings),
        args=args,
        processing_class=tokenizer(settings),
        train_dataset=data(settings),
        callbacks=[clock],
    )


def main() -> None:
    """Run `--warmup` steps, then measure `--iters` steps."""
    command = parser(__doc__ or "")
    command.add_argument("--what", choices=["sft", "reward"], required=True)
    command.set_defaults(lengths="real", batch=16)
    settings = command.parse_args()
    torch.set_num_threads(settings.threads)
    transformers.utils.logging.set_verbosity_error()
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):  # it prints its metrics
        trainer = trainer_of(settings, clock, folder)
        trainer.model.register_forward_pre_hook(clock.count, with_kwargs=True)
        clock.moments.append(Moment.now())
        trainer.train()
    report(f"trl {trl.__version__}", settings, clock.rows()[settings.warmup :])


if __name__ == "__main__":
    main()
