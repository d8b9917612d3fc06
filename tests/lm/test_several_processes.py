"""All steps on several processes: the numbers are those of one process, whatever the number of processes."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.on_ranks import on_ranks

from tercet.config.lm import LmConfig
from tercet.config.load import load_lm_config
from tercet.lm.models.roles import load_policy
from tercet.lm.pipeline import needed, steps_of
from tercet.lm.quiet import hush
from tercet.lm.sampling.generate import generate
from tercet.runs.folder import RunFolder
from tercet.runs.progress import silent
from tercet.runs.ranks import rank
from tercet.train.parallel import own_rows

# batches that no number of processes divides, pairs that are sampled, an average, an adaptive price, a mix of SFT
UNEVEN = [
    *("sft.batch_size=7", "reward.batch_size=5", "reward.num_sampled_pairs=24", "reward.group_pairs=true"),
    *("ppo.batch_size=7", "ppo.num_minibatches=3", "ppo.epochs=2", "ppo.samples_per_eval_prompt=2"),
    *("ppo.ema_decay=0.5", "ppo.kl_target=0.5", "ppo.kl_horizon=50", "ppo.ptx_coef=0.5", "ppo.eval_every=1"),
    "ppo.reward={reward_model: 1.0, 'tercet.lm.preferences.judge:polite_and_to_the_point': 0.5}",
    "eval.unseen_judges=[base_model]",
]


def shared_letters(prompts: list[str], completions: list[str], chosen: list[str]) -> dict[str, list[float | None]]:
    """A reward that takes a column, fails for that of another prompt, and leaves some responses out."""
    assert rank() == 0
    assert all(answer.split()[1] in prompt.replace("?", ".") for prompt, answer in zip(prompts, chosen, strict=True))
    pairs = zip(completions, chosen, strict=True)
    scores = [float(len(set(text) & set(answer))) if len(text) % 5 else None for text, answer in pairs]
    return {"shared": scores, "short": [-0.01 * len(text) for text in completions]}


SHARED_LETTERS = f"ppo.reward={{reward_model: 1.0, '{__name__}:shared_letters': 1.0}}"


def _run(
    folder: Path,
    overrides: list[str],
    kills: tuple[int, str, int] | None = None,
    steps: Sequence[str] = (),
) -> None:
    """Run these steps, or all that are needed; `kills` are the rank that is killed, its step and its row of metrics."""
    hush()
    if kills and rank() == kills[0]:
        threading.Thread(target=_dies_at, args=(folder, *kills[1:]), daemon=True).start()
    config = load_lm_config("tiny", overrides)
    with silent(), RunFolder.open(folder, config, preset="tiny") as run:
        for name in steps or needed(config):
            if not run.is_done(name):
                steps_of(config.reward.num_rounds)[name](run, config)


def _dies_at(folder: Path, step: str, num: int) -> None:
    metrics = folder / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_text().count(f'{{"step": "{step}"') >= num):
        time.sleep(0.0005)
    os.kill(os.getpid(), signal.SIGKILL)


def _rows(folder: Path, name: str = "metrics") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


def _check_alike(folder: Path, other: Path) -> None:
    """The same rows and results but for rounding, and the same texts."""
    for rows, others in ((_rows(folder), _rows(other)), (_rows(folder, "samples"), _rows(other, "samples"))):
        assert len(rows) == len(others)
        for row, theirs in zip(rows, others, strict=True):
            assert _alike(row, theirs), (row, theirs)
    results, of_other = (json.loads((path / "results.json").read_text()) for path in (folder, other))
    for name in ("win_rate", "mean_score", "best_checkpoint", "accuracy", "normalised", "kl_to_reference"):
        found = [tree.get(name, tree.get("reward_model", {}).get(name)) for tree in (results, of_other)]
        assert found[0] is not None, name
        assert _alike(*found), (name, *found)


def _alike(one: Any, other: Any) -> bool:  # Any: JSON
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_alike(value, other[key]) for key, value in one.items())
    if isinstance(one, float):
        return one == pytest.approx(other, rel=1e-5, abs=1e-5)
    return one == other


@pytest.fixture(scope="module")
def uneven(small: list[str], toy_questions: Path) -> list[str]:
    """The settings above, on prompts for which pairs are sampled."""
    return [*small, *UNEVEN, f"data.train=[{toy_questions}]", "reward.checkpoint_every=1", "ppo.checkpoint_every=1"]


@pytest.fixture(scope="module")
def one(uneven: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process."""
    folder = tmp_path_factory.mktemp("runs") / "one"
    _run(folder, uneven)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("total", "shard"), [(2, False), (4, False), (2, True), (4, True)])
def test_several_processes_give_the_numbers_of_one(
    total: int, shard: bool, one: Path, uneven: list[str], tmp_path: Path
) -> None:
    folders = [tmp_path / name for name in ("first", "again")]
    for folder in folders[: 2 if total == 2 else 1]:
        on_ranks(total, _run, folder, uneven, shard=shard)
        _check_alike(folder, one)
    if total == 2:  # the same number of processes gives the same bits
        assert _rows(folders[0]) == _rows(folders[1])
        assert _models(folders[0]) == _models(folders[1])


def _models(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.glob("*/model/model.safetensors")}


@pytest.mark.slow
@pytest.mark.parametrize("kills", [(0, "sft", 2), (1, "reward", 2), (1, "ppo", 2), (0, "ppo", 3)])
def test_a_killed_rank_ends_all_and_the_same_command_goes_on_to_the_same_bits(
    kills: tuple[int, str, int], uneven: list[str], tmp_path: Path
) -> None:
    on_ranks(2, _run, tmp_path / "whole", uneven)
    with pytest.raises(AssertionError, match="LostRankError"):
        on_ranks(2, _run, tmp_path / "killed", uneven, kills)
    on_ranks(2, _run, tmp_path / "killed", uneven)
    assert _rows(tmp_path / "killed") == _rows(tmp_path / "whole")
    assert _models(tmp_path / "killed") == _models(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("shards", [(False, False), (True, True), (False, True)])
def test_a_checkpoint_continues_with_another_number_of_processes(
    shards: tuple[bool, bool], one: Path, uneven: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    for total, kills, shard in ((2, (1, "reward", 2), shards[0]), (4, (3, "ppo", 2), shards[1])):
        with pytest.raises(AssertionError, match="LostRankError"):
            on_ranks(total, _run, folder, uneven, kills, shard=shard)
    _run(folder, uneven)
    _check_alike(folder, one)


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ["lora.rank=4", "lora.shared_backbone=true", "model.gradient_checkpointing=true"],
        ["lora.rank=4", "reward.num_rounds=1", "reward.pairs_per_round=12"],
        ["reward.num_layers=1", "ppo.num_minibatches=1", "ppo.epochs=1", "ppo.micro_batch_size=8"],
        ["ppo.algorithm=dapo", "ppo.group_size=4", "ppo.kl_penalty=k3", "ppo.max_redraws=1"],
        ["ppo.algorithm=gspo", "ppo.group_size=2", "ppo.num_minibatches=1"],
        ["ppo.algorithm=rloo", "ppo.group_size=4", SHARED_LETTERS],
        ["ppo.max_response_tokens=1"],
    ],
    ids=["shared", "rounds", "one step", "dapo", "gspo", "columns", "one token"],
)
def test_every_kind_of_run_gives_the_numbers_of_one_process(
    overrides: list[str], small: list[str], tmp_path: Path
) -> None:
    _run(tmp_path / "one", [*small, *overrides])
    on_ranks(3, _run, tmp_path / "three", [*small, *overrides])
    _check_alike(tmp_path / "three", tmp_path / "one")


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ["lora.rank=4", "lora.only=false", "model.gradient_checkpointing=true"],
        ["model.gradient_checkpointing=true", "reward.loss=per_token", "ppo.ema_decay=0.5"],
        ["lora.rank=4", "reward.num_rounds=1", "reward.pairs_per_round=12"],
        ["ppo.batch_size=2", "ppo.epochs=1", "ppo.num_minibatches=1", "reward.num_layers=1"],
        ["ppo.algorithm=dapo", "ppo.group_size=4", "ppo.kl_penalty=k3", "ppo.max_redraws=1"],
    ],
    ids=["lora", "checkpointing", "rounds", "more ranks than responses", "dapo"],
)
def test_every_kind_of_run_gives_the_numbers_of_one_process_with_divided_weights(
    overrides: list[str], small: list[str], tmp_path: Path
) -> None:
    _run(tmp_path / "one", [*small, *overrides])
    on_ranks(3, _run, tmp_path / "three", [*small, *overrides], shard=True)
    _check_alike(tmp_path / "three", tmp_path / "one")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "lora"),
    [("bf16", []), ("bf16", ["lora.rank=4"]), ("fp16", [])],
    ids=["all weights", "adapters", "all weights in fp16"],
)
def test_a_policy_in_16_bits_gives_the_same_bits_again_and_alike_ones_with_divided_weights(
    precision: str, lora: list[str], small: list[str], tmp_path: Path
) -> None:
    settings = [*small, f"precision={precision}", *lora]
    for name, shard in (("whole", False), ("again", False), ("divided", True)):
        on_ranks(2, _run, tmp_path / name, settings, shard=shard)
    assert _rows(tmp_path / "whole") == _rows(tmp_path / "again")
    assert _models(tmp_path / "whole") == _models(tmp_path / "again")
    # rounding makes a difference in the last bit of a trained weight a thousand times as large
    whole, divided = (
        [row for row in _rows(tmp_path / name) if row["step"] in ("sft", "reward")] for name in ("whole", "divided")
    )
    for row, theirs in zip(whole, divided, strict=True):
        assert row.pop("step") == theirs.pop("step")
        assert theirs == pytest.approx(row, rel=0.05, abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("shard", [False, True])
def test_kept_rollouts_are_those_of_one_process(shard: bool, small: list[str], tmp_path: Path) -> None:
    settings = [*small, "ppo.keep_rollouts=2", "ppo.epochs=2", "ppo.num_minibatches=2"]
    _run(tmp_path / "one", settings)
    on_ranks(2, _run, tmp_path / "two", settings, shard=shard)
    files = sorted((tmp_path / "one").glob("ppo/rollouts/*/rollout.safetensors"))
    assert len(files) == 2
    for file in files:
        tensors, theirs = load_file(file), load_file(tmp_path / "two" / file.relative_to(tmp_path / "one"))
        assert tensors.keys() == theirs.keys()
        for name, values in tensors.items():
            assert torch.allclose(values.double(), theirs[name].double(), rtol=1e-4, atol=1e-5), name


def test_a_rank_whose_responses_all_end_at_once_changes_no_response(make_config: Callable[..., LmConfig]) -> None:
    policy, prompts = load_policy(make_config("opt")), [[5, 9, 7, 30, 11, 2, 8], [6], [2, 2, 40], [77, 78, 79, 80, 81]]

    def responses(end_ids: list[int]) -> list[list[int]]:
        chance = torch.Generator().manual_seed(0)
        return generate(
            policy.model, prompts, end_ids=end_ids, max_tokens=8, temperature=1.0, generator=chance
        ).tolist()

    of_rank_1 = on_ranks(2, lambda: own_rows([len(prompt) + 8 for prompt in prompts]).tolist())[1]
    endless = responses([299])
    end_ids = [endless[row][0] for row in of_rank_1]
    alone = responses(end_ids)
    assert [len(alone[row]) for row in of_rank_1] == [1] * len(of_rank_1)
    assert max(map(len, alone)) > 1
    assert on_ranks(2, responses, end_ids) == [alone, alone]


@pytest.mark.slow
@pytest.mark.parametrize("lora", [[], ["lora.rank=4"]], ids=["all weights", "adapters"])
def test_dpo_gives_the_numbers_of_one_process_with_divided_weights(
    lora: list[str], small: list[str], tmp_path: Path
) -> None:
    """With adapters, the reference is a second pass of the policy before the backward pass of the first."""
    for name, total in (("one", 1), ("three", 3)):
        on_ranks(total, _run, tmp_path / name, [*small, *lora], None, ["sft", "dpo"], shard=total > 1)
    rows, theirs = _rows(tmp_path / "one"), _rows(tmp_path / "three")
    assert len(rows) == len(theirs) > 0
    assert all(_alike(row, other) for row, other in zip(rows, theirs, strict=True)), (rows, theirs)
