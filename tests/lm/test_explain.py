"""The page of an update shows what training computed: a proof over a whole run."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tercet.errors import InputError
from tercet.lm.explain import Inspection
from tercet.runs.folder import RunFolder


@pytest.fixture(scope="module")
def inspection(take: Callable[..., Path], small: list[str], tmp_path_factory: pytest.TempPathFactory) -> Inspection:
    """The first steps of a small run with an adaptive kl_coef, a warm-up of the critic, and scores that are clipped."""
    path = tmp_path_factory.mktemp("runs") / "kept"
    settings = ["ppo.kl_target=0.5", "ppo.kl_horizon=20", "ppo.critic_warmup_updates=1", "ppo.reward_clip=0.7"]
    settings += ["ppo.lr=1e-2"]
    for name in ("sft", "reward", "ppo"):
        take(name, path, *small, *settings)
    return Inspection(RunFolder.read(path))


def test_every_recomputed_number_is_what_training_logged(inspection: Inspection) -> None:
    about = inspection.about()
    assert about["updates"] == ["ppo 1", "ppo 2", "ppo 3"]
    seen = set()
    for name in about["updates"]:
        found = inspection.update(name, 0, {})
        for metric, (recomputed, logged) in found["metrics"].items():
            assert logged == pytest.approx(recomputed, rel=1e-4, abs=1e-5), (name, metric)
        seen |= found["metrics"].keys()
    rows = inspection.updates.folder.metrics()
    logged = {key.removeprefix("ppo/") for row in rows for key in row if key.startswith("ppo/")}
    others = {"actor_grad_norm", "critic_grad_norm", "lr", "validation_score", "validation_kl", "kl_coef"}
    others |= {"copied_fraction", "duplicate_fraction"}  # of the texts
    assert logged - seen == others  # what depends on more than one rollout
    coefficients = [inspection.update(name, 0, {})["kl_coef"] for name in about["updates"]]
    rows = [row for row in inspection.updates.folder.metrics() if "ppo/kl_coef" in row]
    assert coefficients == [row["ppo/kl_coef"] for row in rows] and len(set(coefficients)) == 3


def test_the_numbers_of_a_response_belong_together(inspection: Inspection) -> None:
    update = inspection.update("ppo 3", None, {})
    gamma, lam = inspection.config.ppo.gamma, inspection.config.ppo.lam
    assert update["trains_actor"] and len(update["rows"]) == update["num_rows"] == 8
    for row in update["rows"]:
        num = len(row["tokens"])
        assert "Is the" in row["prompt"]
        clipped = max(-0.7, min(0.7, row["score"])) - (0 if row["ended"] else inspection.config.ppo.missing_eos_penalty)
        assert sum(row["reward"]) == pytest.approx(clipped - update["kl_coef"] * sum(row["kl"]), abs=1e-4)
        following = 0.0
        for t in reversed(range(num)):
            assert row["kl"][t] == pytest.approx(row["logprob"][t] - row["ref"][t], abs=1e-4)
            assert row["next"][t] == (row["value"][t + 1] if t + 1 < num else 0)
            delta = row["reward"][t] + gamma * row["next"][t] - row["value"][t]
            assert row["delta"][t] == pytest.approx(delta, abs=1e-4)
            following = delta + gamma * lam * following
            assert row["plain"][t] == pytest.approx(following, abs=1e-4)
            assert row["return"][t] == pytest.approx(following + row["value"][t], abs=1e-4)
            assert (row["gradient"][t] > 0) == (row["advantage"][t] < 0) or row["gradient"][t] == 0


def test_other_settings_change_the_numbers_and_not_the_rollout(inspection: Inspection) -> None:
    plain = inspection.update("ppo 3", 0, {})
    dear = inspection.update("ppo 3", 0, {"kl_coef": 2.0, "gamma": 0.5, "lam": 0.0, "clip_range": 1e-6})
    row, other = plain["rows"][0], dear["rows"][0]
    assert (row["tokens"], row["logprob"], row["kl"]) == (other["tokens"], other["logprob"], other["kl"])
    assert other["penalty"] == pytest.approx([-2.0 * kl for kl in row["kl"]], abs=1e-4)
    assert other["plain"] == other["delta"] and row["plain"] != row["delta"]
    assert dear["metrics"]["clip_fraction"][0] > plain["metrics"]["clip_fraction"][0]
    assert inspection.update("ppo 3", 0, {}) == plain


@pytest.mark.parametrize("algorithm", ["grpo", "gspo", "reinforce++"])
def test_relatives_of_ppo_are_recomputed_too(
    algorithm: str, small_run: Path, take: Callable[..., Path], small: list[str], tmp_path: Path
) -> None:
    settings = [
        f"ppo.policy={small_run / 'sft' / 'model'}",
        "ppo.reward={tercet.lm.preferences.judge:polite_and_to_the_point: 1.0}",
    ]
    group = [] if algorithm == "reinforce++" else ["ppo.group_size=4"]
    path = take(
        "ppo",
        tmp_path / "run",
        *small,
        *settings,
        f"ppo.algorithm={algorithm}",
        *group,
        "ppo.num_updates=2",
        "ppo.lr=1e-2",
    )
    inspection = Inspection(RunFolder.read(path))
    for name in inspection.about()["updates"]:
        found = inspection.update(name, 0, {})
        assert {"actor_loss", "approx_kl"} <= found["metrics"].keys()
        assert ("kl_loss" in found["metrics"]) == (algorithm == "grpo")
        for metric, (recomputed, logged) in found["metrics"].items():
            assert logged == pytest.approx(recomputed, rel=1e-4, abs=1e-5), (name, metric)
        prompts = [row["prompt"] for row in found["rows"]]
        assert len(set(prompts)) == len(prompts) // (4 if group else 1)
        assert "value" not in found["rows"][0] and "delta" not in found["rows"][0]


def test_what_was_not_kept_is_an_input_error(inspection: Inspection, small_run: Path, tmp_path: Path) -> None:
    for name, epoch in (("ppo 9", 0), ("ppo 1", 2), ("ppo 1", -1)):
        with pytest.raises(InputError, match="this run has kept ppo 1, ppo 2, ppo 3"):
            inspection.update(name, epoch, {})
    for file in ("config.yaml", "run.json"):
        (tmp_path / file).write_bytes((small_run / file).read_bytes())
    with pytest.raises(InputError, match=r"no kept rollouts; run PPO with ppo\.keep_rollouts above 0"):
        Inspection(RunFolder.read(tmp_path))
