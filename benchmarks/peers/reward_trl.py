"""Train a reward model with TRL's RewardTrainer by its public interface, and score held-out pairs; print one JSON line.

`benchmarks/reward_accuracy.py` writes the file of the work and runs this script.
"""

import argparse
import contextlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
import trl
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoTokenizer
from work import Moment, whole_run

Work = dict[str, Any]  # Any: as JSON holds it


def trainer_of(work: Work, seed: int, folder: str) -> trl.RewardTrainer:
    """Return the trainer with the settings of the work; all others are TRL's defaults."""
    reward, lora = work["reward"], work["lora"]
    layers = {"num_hidden_layers": reward["num_layers"]} if reward["num_layers"] else {}
    args = trl.RewardConfig(
        output_dir=folder,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,  # slower
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        seed=seed,
        model_init_kwargs=layers,
        num_train_epochs=reward["epochs"],
        per_device_train_batch_size=reward["micro_batch_size"],
        per_device_eval_batch_size=reward["micro_batch_size"],
        gradient_accumulation_steps=reward["batch_size"] // reward["micro_batch_size"],
        learning_rate=reward["lr"],
        max_grad_norm=reward["max_grad_norm"],
    )
    adapters = LoraConfig(
        r=lora["rank"],
        lora_alpha=lora["alpha"],
        target_modules="all-linear",
        modules_to_save=["score"],
        task_type="SEQ_CLS",
    )
    return trl.RewardTrainer(
        model=work["model"],
        args=args,
        processing_class=AutoTokenizer.from_pretrained(work["tokenizer"]),
        train_dataset=Dataset.from_list(work["train"]),
        eval_dataset=Dataset.from_list(work["held_out"]),
        peft_config=adapters if lora["rank"] else None,
    )


def run(work: Work, seed: int) -> dict[str, object]:
    """Train, score the held-out pairs, and return the figures."""
    rows_read: list[list[int]] = []

    def read(_: object, __: object, named: dict[str, torch.Tensor]) -> None:
        rows = zip(named["input_ids"], named["attention_mask"].bool(), strict=True)
        rows_read.extend(ids[real].tolist() for ids, real in rows)

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):  # it prints its metrics
        start = Moment.now()
        trainer = trainer_of(work, seed, folder)
        trainer.model.register_forward_pre_hook(read, with_kwargs=True)
        trainer.train()
        trained = Moment.now()
        trainer.model.eval()
        margins: list[float] = []
        with torch.no_grad():
            for batch in trainer.get_eval_dataloader():
                chosen, rejected = trainer.model(**batch).logits[:, 0].chunk(2)
                margins += (chosen - rejected).tolist()
    weights = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    moments = (start, trained, Moment.now())
    return whole_run(f"trl {trl.__version__}", moments, margins=margins, trained_weights=weights, rows=rows_read)


def main() -> None:
    """Read the work, run it, and print the figures."""
    command = argparse.ArgumentParser(description=__doc__)
    command.add_argument("--work", type=Path, required=True)
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--threads", type=int, default=1)
    settings = command.parse_args()
    torch.set_num_threads(settings.threads)
    transformers.utils.logging.set_verbosity_error()
    print(json.dumps(run(json.loads(settings.work.read_text(encoding="utf-8")), settings.seed)))


if __name__ == "__main__":
    main()
