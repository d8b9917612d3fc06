"""The page of an arm's update shows what training computed, and the episodes that were played."""

import base64
import io
from math import prod
from pathlib import Path

import pytest
import torch
from PIL import Image
from tests.arm.conftest import run_of

from tercet.arm import ppo
from tercet.arm.explain import Inspection
from tercet.errors import InputError
from tercet.runs.folder import RunFolder

SMALL = """
    horizon=12 threads=1 reward.segment_length=4 policy.hidden_size=16 bc.demonstrations=none ppo.num_envs=8
    ppo.num_minibatches=2 ppo.num_updates=4 ppo.num_eval_states=4 ppo.lr=3e-3 ppo.critic_warmup_updates=1
    ppo.keep_rollouts=3 ppo.kl_anneal_updates=3 ppo.kl_coef=0.1
"""
GROUPS = ["ppo.algorithm=rloo", "ppo.group_size=4"]
STEPS = ["policy.kind=diffusion", "policy.chunk_size=5", "ppo.clip_of=step", "ppo.clip_range_high=0.3"]
CHUNKS = ["policy.kind=act", "policy.num_layers=1", "policy.chunk_size=5", "ppo.gamma=0.9"]


def inspected(path: Path, *more: str) -> Inspection:
    folder, config = run_of(path, "reach", [*SMALL.split(), *more])
    with folder:
        ppo.run(folder, config)
    return Inspection(RunFolder.read(folder.path))


@pytest.fixture(scope="module")
def inspection(tmp_path_factory: pytest.TempPathFactory) -> Inspection:
    return inspected(tmp_path_factory.mktemp("arm") / "run")


def all_equal_the_log(inspection: Inspection) -> set[str]:
    seen = set[str]()
    for name in inspection.about()["updates"]:
        metrics = inspection.update(name, 0, {})["metrics"]
        for metric, (recomputed, logged) in metrics.items():
            assert logged == pytest.approx(recomputed, rel=1e-4, abs=1e-5), (name, metric)
        seen |= metrics.keys()
    return seen


def test_every_recomputed_number_is_what_training_logged(inspection: Inspection) -> None:
    about = inspection.about()
    assert (about["kind"], about["updates"]) == ("arm", ["ppo 1", "ppo 3", "ppo 4"])
    seen = all_equal_the_log(inspection)
    rows = inspection.updates.folder.metrics()
    logged = {key.removeprefix("ppo/") for row in rows for key in row if key.startswith("ppo/")}
    others = {"actor_grad_norm", "critic_grad_norm", "lr", "validation_score", "validation_kl"}
    assert logged - seen == others  # what depends on more than one rollout
    coefficients = [inspection.update(name, 0, {})["kl_coef"] for name in about["updates"]]
    assert coefficients == pytest.approx([0.1, 0.1 / 3, 0.0])


@pytest.mark.parametrize("more", [GROUPS, CHUNKS])
def test_groups_and_chunks_of_actions_are_recomputed_too(tmp_path: Path, more: list[str]) -> None:
    inspection = inspected(tmp_path / "run", *more)
    assert {"score", "kl", "actor_loss"} <= all_equal_the_log(inspection)
    rows = inspection.update("ppo 4", None, {})["rows"]
    if more is GROUPS:
        assert [row["prompt"] for row in rows] == ["1"] * 4 + ["2"] * 4
        assert "value" not in rows[0]
    else:
        assert rows[0]["tokens"] == ["1-5", "6-10", "11-12"]
        assert (rows[0]["length"], rows[0]["frames"]) == ([5, 5, 2], [4, 9, 11])
        for t, following in ((0, 1), (1, 2)):
            expected = rows[0]["reward"][t] + 0.9**5 * rows[0]["value"][following] - rows[0]["value"][t]
            assert rows[0]["delta"][t] == pytest.approx(expected, abs=1e-4)


def test_the_steps_of_a_denoising_chain_are_recomputed_with_ratios_of_their_own(tmp_path: Path) -> None:
    inspection = inspected(tmp_path / "run", *STEPS)
    assert {"actor_loss", "clip_fraction", "approx_kl"} <= all_equal_the_log(inspection)
    update = inspection.update("ppo 4", 1, {})
    inner, row = update["inner"], update["rows"][0]
    assert (inner["low"][0], inner["low"][-1], inner["high"][-1]) == pytest.approx((0.01, 0.2, 0.3))
    for ratio, steps, advantage, loss in zip(
        row["ratio"], row["inner_ratio"], row["advantage"], row["loss"], strict=True
    ):
        assert prod(steps) == pytest.approx(ratio, rel=1e-4)  # the steps make the chain
        gains = [
            min(step * factor * advantage, max(min(step, 1 + high), 1 - low) * factor * advantage)
            for step, factor, low, high in zip(steps, *inner.values(), strict=True)
        ]
        assert loss == pytest.approx(-sum(gains), abs=1e-4)
    assert any(abs(ratio - 1) > 1e-4 for ratio in row["ratio"])
    narrow = inspection.update("ppo 4", 1, {"clip_range": 1e-6})
    assert narrow["rows"][0]["ratio"] == row["ratio"] and narrow["rows"][0]["loss"] != row["loss"]


def test_the_numbers_of_an_episode_belong_together(inspection: Inspection) -> None:
    update = inspection.update("ppo 3", None, {})
    gamma, lam = inspection.config.ppo.gamma, inspection.config.ppo.lam
    assert update["trains_actor"] and len(update["rows"]) == update["num_rows"] == 8
    assert not inspection.update("ppo 1", None, {})["trains_actor"]
    for row in update["rows"]:
        assert len(row["tokens"]) == 12
        following = 0.0
        for t in reversed(range(12)):
            assert row["penalty"][t] == pytest.approx(-update["kl_coef"] * row["kl"][t], abs=1e-5)
            delta = row["reward"][t] + gamma * row["next"][t] - row["value"][t]
            assert row["delta"][t] == pytest.approx(delta, abs=1e-4)
            following = delta + gamma * lam * following
            assert row["plain"][t] == pytest.approx(following, abs=1e-4)
        earned = sum(row["reward"]) - sum(row["penalty"])
        assert earned == pytest.approx(row["score"], abs=1e-3)  # no episode ends early


def test_other_settings_change_the_numbers_and_not_the_rollout(inspection: Inspection) -> None:
    plain = inspection.update("ppo 3", 0, {})
    other = inspection.update("ppo 3", 0, {"kl_coef": 2.0, "gamma": 0.5, "lam": 0.0, "clip_range": 1e-6})
    row, changed = plain["rows"][0], other["rows"][0]
    assert (row["logprob"], row["kl"], row["score"]) == (changed["logprob"], changed["kl"], changed["score"])
    assert changed["penalty"] == pytest.approx([-2.0 * kl for kl in row["kl"]], abs=1e-4)
    assert changed["plain"] == changed["delta"] and row["plain"] != row["delta"]
    assert inspection.update("ppo 3", 0, {}) == plain


def test_what_was_not_kept_is_an_input_error(inspection: Inspection) -> None:
    for name, epoch in (("ppo 2", 0), ("ppo 1", 99), ("ppo 1", -1)):
        with pytest.raises(InputError, match="this run has kept ppo 1, ppo 3, ppo 4"):
            inspection.update(name, epoch, {})
    for row in (-1, 8):
        with pytest.raises(InputError, match="shows rows 0 to 7"):
            inspection.pictures("ppo 1", row)


def test_the_pictures_of_a_row_are_those_of_its_own_episode(tmp_path: Path) -> None:
    inspection = inspected(tmp_path / "run", "ppo.algorithm=rloo", "ppo.group_size=2", "ppo.keep_rollouts=1")
    films = [inspection.pictures("ppo 4", row) for row in (2, 3, 4)]
    assert [len(film) for film in films] == [12, 12, 12]
    pictures = [Image.open(io.BytesIO(base64.b64decode(film[0].partition(",")[2]))) for film in films]
    assert pictures[0].size == (320, 240)
    values = [torch.tensor(list(picture.convert("L").getdata()), dtype=torch.float32) for picture in pictures]
    # rows 2 and 3 have the same start and other actions, row 4 another start
    same, other = ((values[0] - value).abs().mean() for value in values[1:])
    assert float(same) < float(other)
    assert films[0][-1] != films[1][-1]
