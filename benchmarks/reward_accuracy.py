"""Train a reward model on preference pairs, and measure its accuracy on held-out pairs; print one JSON line.

    python benchmarks/reward_accuracy.py --pairs pairs.jsonl --seed 0
    python benchmarks/reward_accuracy.py --pairs pairs.jsonl --seeds 3 --peer $PEERS/venv-trl/bin/python

The second command trains with Tercet and with TRL's RewardTrainer in turn, each in its own process, and prints a table.
Both start from the same weights, train the same weights in fp32 with the same learning rate, which falls linearly to 0,
and read the same token ids. Optimizer constants, the new head and the order of the pairs are each library's own.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

import torch
from work import Moment, whole_run

from tercet.config.lm import LmConfig
from tercet.core.intervals import Interval, bootstrap, wilson, win
from tercet.lm.data.batches import lessons
from tercet.lm.data.examples import Example
from tercet.lm.data.splits import flat, step_examples
from tercet.lm.models.gguf import folder_of
from tercet.lm.models.heads import padding_apart
from tercet.lm.models.roles import load_score_model
from tercet.lm.pair_batches import PairBatches, Pairs
from tercet.lm.reward import pair_loss
from tercet.lm.text.encoder import Encoder
from tercet.runs.folder import RunFolder
from tercet.train.device import device_of
from tercet.train.fit import fit

PEER = Path(__file__).resolve().parent / "peers" / "reward_trl.py"
Run = dict[str, object]


@dataclass(frozen=True)
class Work:
    """The config of a run, its encoder, and the pairs to train and to measure on."""

    config: LmConfig
    encoder: Encoder
    train: list[Example]
    held_out: list[Example]

    @classmethod
    def of(cls, settings: argparse.Namespace) -> "Work":
        """Read the pairs and leave out those with a long prompt, as `tercet lm reward` does."""
        data = {
            "train": [{"path": settings.pairs, "name": "pairs"}],
            "style": settings.style,
            "eval_fraction": settings.held_out,
        }
        data |= {"max_prompt_tokens": settings.prompt, "max_response_tokens": settings.response}
        reward = {"lr": settings.lr, "epochs": settings.epochs, "num_layers": settings.layers, "warmup_fraction": 0}
        reward |= {"batch_size": settings.batch, "micro_batch_size": settings.micro, "checkpoint_every": 1_000_000}
        config = LmConfig.model_validate(
            {
                "seed": settings.seed,
                "device": "cpu",
                "model": {"path": settings.model},
                "lora": {"rank": settings.lora, "alpha": 2 * settings.lora or 1},
                "data": data,
                "reward": reward,
            }
        )
        encoder = Encoder.of(config)
        examples = encoder.pairs_that_differ(step_examples(config.data, "reward"))
        train, held_out = (
            flat(encoder.within_limits(sets, what))
            for sets, what in ((examples.train, "training"), (examples.held_out, "held out"))
        )
        return cls(config, encoder, train, held_out)

    def for_peer(self, folder: Path) -> Path:
        """Write what the peer needs: token ids, a tokenizer, and the settings."""
        encoder, reward = self.encoder, self.config.reward
        # else TRL would read the score one token too early: it searches for the last token that is not the pad token
        padding_apart(encoder.tokenizer, encoder.ends.ids).save_pretrained(folder / "tokenizer")

        def ids(examples: Sequence[Example]) -> list[dict[str, list[int]]]:
            return [
                {
                    "chosen_ids": encoder.prompt(one) + encoder.chosen(one),
                    "rejected_ids": encoder.prompt(one) + encoder.rejected(one),
                }
                for one in examples
            ]

        work = {
            "model": folder_of(self.config.model.path),
            "tokenizer": str(folder / "tokenizer"),
            "lora": vars(self.config.lora),
            "reward": vars(reward),
            "train": ids(self.train),
            "held_out": ids(self.held_out),
        }
        path = folder / "work.json"
        path.write_text(json.dumps(work), encoding="utf-8")
        return path


def run(work: Work) -> Run:
    """Train a reward model as `lm/reward.py` does, score the held-out pairs, and return the figures."""
    config = work.config
    start = Moment.now()
    model = load_score_model(config, num_layers=config.reward.num_layers, learns=True)
    todo = lessons({"pairs": work.train}, config.data, config.reward, step="reward", seed=config.seed)
    batches = PairBatches(work.encoder, device_of(config.device), config.reward.micro_batch_size)
    rows_read: list[list[int]] = []

    def read(examples: Sequence[Example]) -> list[Pairs]:
        parts = batches.of(examples)
        rows_read.extend(row for part in parts for row in part.batch.sequences)
        return parts

    with (
        tempfile.TemporaryDirectory() as folder,
        RunFolder.open(Path(folder) / "run", config, preset="bench") as opened,
        opened.step("reward", total=len(todo.plan.rows), shown=["reward/loss", "reward/accuracy"]) as step,
    ):
        fit(
            step,
            modules={"reward_model": model},
            plan=todo.plan.rows,
            micro_batches=lambda rows: read([todo.examples[row] for row in rows]),
            count=lambda pairs: pairs.num,
            loss=lambda pairs: pair_loss(model, pairs, config.reward.loss),
            config=config.reward,
            seed=config.seed,
            metric_prefix="reward",
        )
    trained = Moment.now()
    model.eval()
    margins: list[float] = []
    with torch.no_grad():
        for pairs in read(work.held_out):
            scores = model.scores(pairs.batch)
            margins += (scores[pairs.chosen] - scores[pairs.rejected]).tolist()
    weights = sum(p.numel() for p in model.parameters() if p.requires_grad) - 1  # the bias cancels in a margin
    moments = (start, trained, Moment.now())
    return whole_run("tercet", moments, margins=margins, trained_weights=weights, rows=rows_read)


def print_run(figures: Run) -> None:
    """Print the figures of a run with its accuracy on the held-out pairs."""
    accuracy = wilson([win(margin, 0) for margin in margins_of(figures)])
    print(json.dumps({"accuracy": vars(accuracy)} | figures), flush=True)


def margins_of(figures: Run) -> list[float]:
    """Return the margins of the held-out pairs."""
    margins = figures["margins"]
    assert isinstance(margins, list)
    return margins


def alternately(settings: argparse.Namespace) -> None:
    """Train with Tercet and with the peer, one after the other for each seed, and print a table."""
    runs: dict[str, list[Run]] = {}
    options = [f"--{key.replace('_', '-')}={value}" for key, value in vars(settings).items()]
    ours = [option for option in options if not option.startswith(("--peer=", "--seed", "--seeds="))]
    with tempfile.TemporaryDirectory() as folder:
        peers = ["--threads", str(settings.threads), "--work", str(Work.of(settings).for_peer(Path(folder)))]
        for seed in range(settings.seed, settings.seed + settings.seeds):
            own = [sys.executable, __file__, *ours]
            for command in (own, [settings.peer, str(PEER), *peers]):
                figures = {"seed": seed} | _printed([*command, "--seed", str(seed)])
                runs.setdefault(str(figures["name"]), []).append(figures)
                print_run(figures)
    if len({(figures["trained_weights"], figures["ids"]) for rows in runs.values() for figures in rows}) > 1:
        raise SystemExit("the libraries did not read the same token ids or train the same number of weights")
    print(table(runs))


def _printed(command: Sequence[str]) -> Run:
    """Run a script and return the figures in its last line."""
    found = {"PYTHONPATH": os.pathsep.join([str(PEER.parent.parent), str(PEER.parents[2] / "src")])}
    done = subprocess.run(
        command, env={**os.environ, **found, "HF_HUB_OFFLINE": "1"}, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def table(runs: Mapping[str, Sequence[Run]]) -> str:
    """Return a Markdown table of the runs, and the difference of the accuracies over the same held-out pairs."""
    lines = ["| | accuracy of each seed | mean | margin | seconds | CPU seconds | peak memory, MB |", "|" + "---|" * 7]
    wins = {name: [[win(m, 0) for m in margins_of(figures)] for figures in rows] for name, rows in runs.items()}
    of_pair = {name: [fmean(of_seeds) for of_seeds in zip(*rows, strict=True)] for name, rows in wins.items()}
    for name, rows in runs.items():
        each = ", ".join(_shown(wilson(row)) for row in wins[name])
        margin = fmean(fmean(margins_of(figures)) for figures in rows)
        medians = [f"{median(map(_number(key), rows)):.0f}" for key in ("seconds", "cpu_seconds", "peak_rss_mb")]
        cells = [name, each, _shown(bootstrap(of_pair[name], seed=0)), f"{margin:.2f}", *medians]
        lines.append(f"| {' | '.join(cells)} |")
    ours, theirs = of_pair.values()
    difference = bootstrap([own - peer for own, peer in zip(ours, theirs, strict=True)], seed=0)
    num_seeds = len(next(iter(runs.values())))
    lines.append(f"\n{' - '.join(runs)}: {_shown(difference)}, {len(ours)} held-out pairs, seeds: {num_seeds}")
    return "\n".join(lines)


def _number(key: str) -> Callable[[Run], float]:
    return lambda figures: float(str(figures[key]))


def _shown(interval: Interval) -> str:
    return f"{interval.mean:.3f} ({interval.low:.3f} to {interval.high:.3f})"


def parser() -> argparse.ArgumentParser:
    """Return the settings."""
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--pairs", required=True, help="file of prompt, chosen and rejected")
    command.add_argument("--model", default="smollm2", help="as model.path")
    command.add_argument("--layers", type=int, default=6, help="layers to keep, from the first; 0 keeps all")
    command.add_argument("--lora", type=int, default=16, help="rank of the adapters; 0 trains all weights")
    command.add_argument("--style", default="chat", help="as data.style")
    command.add_argument("--prompt", type=int, default=128, help="longer prompts are left out, in tokens")
    command.add_argument("--response", type=int, default=64, help="longer responses are cut, in tokens")
    command.add_argument("--held-out", type=float, default=0.3, help="fraction of the prompts to measure on")
    command.add_argument("--lr", type=float, default=1e-3)
    command.add_argument("--epochs", type=int, default=1)
    command.add_argument("--batch", type=int, default=16, help="pairs in an optimizer step")
    command.add_argument("--micro", type=int, default=8, help="pairs in a forward and backward pass")
    command.add_argument("--threads", type=int, default=1)
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--seeds", type=int, default=1, help="with --peer: number of seeds, from --seed on")
    command.add_argument("--peer", help="Python of the environment that has TRL")
    return command


def main() -> None:
    """Train once, or with the peer in turn."""
    settings = parser().parse_args()
    torch.set_num_threads(settings.threads)
    if settings.peer:
        alternately(settings)
    else:
        print_run(run(Work.of(settings)))


if __name__ == "__main__":
    main()
