"""Losses in fp16 are scaled as torch.amp.GradScaler does it, and an overflow costs one step on every rank."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.on_ranks import on_ranks
from tests.train.ppo.bandit import FAST, LOOP, Bandit, Killed, play, rows, run  # a bandit and its rollouts
from torch import Tensor, nn

from tercet.config.fit import FitConfig
from tercet.config.ppo import UpdateConfig
from tercet.errors import FailedError
from tercet.runs.folder import RunFolder
from tercet.runs.ranks import num_ranks, rank
from tercet.train import loss_scale
from tercet.train.chance import generator
from tercet.train.fit import LossTerms, fit
from tercet.train.loss_scale import FIRST, LossScale
from tercet.train.optim import adamw, apply_gradients
from tercet.train.ppo.learner import Learner
from tercet.train.ppo.update import update
from tercet.train.sharding import shard, whole

X = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))


def _network(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 1)).to(dtype)


def _loss(network: nn.Module, factor: float = 1.0) -> Tensor:
    with torch.autocast("cpu", torch.float16):
        return factor * 0.01 * (network(X).float() - 3.0).square().mean()


FACTORS = [1.0, 1.0, 1e3, 1.0, 1.0, 1.0, 1e3, 1.0, 1.0, 1.0, 1.0]  # the gradient of the largest overflows in fp16


def _ours(factors: Sequence[float] = FACTORS) -> tuple[list[float], list[float | None], list[Tensor]]:
    network, scale = _network(), LossScale()
    optimizer, scales, norms = adamw(network, lr=0.01), [], []
    for factor in factors:
        scale.up(_loss(network, factor)).backward()
        norms.append(apply_gradients(optimizer, network.parameters(), 0.5, scale))
        scales.append(scale.value)
        optimizer.zero_grad()
    return scales, norms, [p.detach() for p in network.parameters()]


def _torchs() -> tuple[list[float], list[Tensor]]:
    network = _network()
    scaler = torch.amp.GradScaler("cpu", growth_interval=loss_scale.STEPS_TO_DOUBLE)
    optimizer, scales = adamw(network, lr=0.01), []
    for factor in FACTORS:
        scaler.scale(_loss(network, factor)).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(network.parameters(), 0.5)
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
        optimizer.zero_grad()
    return scales, [p.detach() for p in network.parameters()]


def _equal(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_scales_skips_and_weights_are_those_of_torchs_scaler_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_scale, "STEPS_TO_DOUBLE", 3)
    scales, norms, weights = _ours()
    wanted, theirs = _torchs()
    assert scales == wanted and _equal(weights, theirs)
    # the scale falls at both overflows, and rises again after three good steps
    assert [norm is None for norm in norms] == [factor > 1 for factor in FACTORS]
    assert scales[2] < scales[1] < scales[5] * 2 and scales[6] < scales[5] and scales[9] > scales[8]


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("down", lambda self, gradients: None),  # clipped before they are divided
        ("up", lambda self, loss: loss),
        ("takes_step", lambda self, norm: True),
    ],
)
def test_planted_breaks_are_seen(name: str, broken: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = _torchs()[1]
    monkeypatch.setattr(LossScale, name, broken)
    try:
        weights = _ours()[2]
    except FailedError:  # an overflow that is not left out
        return
    assert not _equal(weights, theirs)


def test_gradients_that_fp16_loses_are_kept() -> None:
    def gradient(scale: LossScale | None) -> float:
        network = _network()
        loss = _loss(network, 1e-7)
        (loss if scale is None else scale.up(loss)).backward()
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        if scale is not None:
            scale.down(gradients)
        return float(torch.cat([g.flatten() for g in gradients[:2]]).norm())

    network = _network()
    (1e-9 * (network(X) - 3.0).square().mean()).backward()
    exact = float(torch.cat([p.grad.flatten() for p in list(network.parameters())[:2] if p.grad is not None]).norm())
    assert gradient(LossScale()) == pytest.approx(exact, rel=0.01)
    assert gradient(None) != pytest.approx(exact, rel=0.05)


def test_in_fp32_the_scale_changes_no_bit() -> None:
    def weights(scale: LossScale | None) -> list[Tensor]:
        network = _network()
        optimizer = adamw(network, lr=0.01)
        for _ in range(3):
            loss = (network(X) - 3.0).square().mean()
            (loss if scale is None else scale.up(loss)).backward()
            apply_gradients(optimizer, network.parameters(), 0.5, scale)
            optimizer.zero_grad()
        return [p.detach() for p in network.parameters()]

    assert _equal(weights(LossScale()), weights(None))


def test_gradients_that_overflow_without_a_scale_end_the_run_and_change_nothing() -> None:
    network, scale = _network(), LossScale()
    optimizer, before = adamw(network, lr=0.01), [p.detach().clone() for p in _network().parameters()]
    with pytest.raises(FailedError, match=r"norm is inf in fp16, also without a loss scale.*precision=bf16 or fp32"):
        for _ in range(17):
            for parameter in network.parameters():
                parameter.grad = torch.full_like(parameter, math.inf)
            apply_gradients(optimizer, network.parameters(), 0.5, scale)
    assert scale.num_skipped == 17 and _equal([p.detach() for p in network.parameters()], before)
    assert not optimizer.state


@pytest.mark.parametrize("divided", [False, True])
def test_an_overflow_on_one_rank_leaves_the_step_out_on_all(divided: bool) -> None:
    def skips() -> tuple[list[bool], float, list[Tensor]]:
        network, scale = _network(), LossScale()
        if divided:
            shard(network, [], torch.device("cpu"))
        optimizer, skipped = adamw(network, lr=0.01), []
        for factor in (1.0, 1e6 if rank() == 1 else 1.0, 1.0):
            scale.up(factor * network(X[rank() :: num_ranks()].half().float()).sum() / 8).backward()
            if factor > 1.0:  # what fp16 would give
                for p in network.parameters():
                    assert p.grad is not None
                    grad = p.grad.to_local() if divided else p.grad  # type: ignore[attr-defined]  # DTensor
                    grad.fill_(math.inf)
            skipped.append(apply_gradients(optimizer, network.parameters(), 0.5, scale) is None)
            optimizer.zero_grad()
        return skipped, scale.value, [whole(p).detach().clone() for p in network.parameters()]

    (first, scale, weights), (other, its_scale, its_weights) = on_ranks(2, skips, shard=divided)
    assert first == other == [False, True, False]
    assert scale == its_scale == FIRST / 2 and _equal(weights, its_weights)


# the loops


def _fit(path: Path, *, num_steps: int, overflows_at: Sequence[int], stops_at: int = -1) -> list[dict[str, Any]]:
    """Regress in fp32, with gradients that overflow at some steps; rows of the metrics. Any: JSON."""
    network, index = _network(), -1

    def loss(rows: Sequence[int]) -> LossTerms:
        total = (network(X[rows]) - 3.0).square().sum()
        return LossTerms(total * 1e34 if index in overflows_at else total, {})  # its gradients leave fp32 if scaled

    def micro_batches(rows: Sequence[int]) -> list[Sequence[int]]:
        nonlocal index
        index = rows[0]
        if index == stops_at:
            raise KeyboardInterrupt
        return [rows]

    config = FitConfig(lr=0.01, warmup_fraction=0.5, checkpoint_every=1)
    with RunFolder.open(path, config, preset="tiny") as folder, folder.step("sft", total=num_steps, shown=[]) as step:
        fit(
            step,
            modules={"m": network},
            plan=[[i] for i in range(num_steps)],
            micro_batches=micro_batches,
            count=len,
            loss=loss,
            config=config,
            seed=0,
            metric_prefix="sft",
            scale=LossScale(),
        )
    return folder.metrics()


def test_the_schedule_waits_for_a_step_that_was_left_out(tmp_path: Path) -> None:
    plain = _fit(tmp_path / "plain", num_steps=6, overflows_at=[])
    rows = _fit(tmp_path / "run", num_steps=6, overflows_at=[1, 2])
    assert [row["sft/skipped_steps"] for row in rows] == [0, 1, 1, 0, 0, 0]
    assert [row["sft/loss_scale"] / FIRST for row in rows] == [1, 0.5, 0.25, 0.25, 0.25, 0.25]
    assert ["sft/grad_norm" in row for row in rows] == [True, False, False, True, True, True]
    rates = [row["sft/lr"] for row in plain]
    assert [row["sft/lr"] for row in rows] == [rates[0], rates[1], rates[1], rates[1], rates[2], rates[3]]


def test_a_run_continues_with_the_scale_of_its_checkpoint(tmp_path: Path) -> None:
    whole_run = _fit(tmp_path / "whole", num_steps=6, overflows_at=[1, 4])
    with pytest.raises(KeyboardInterrupt):
        _fit(tmp_path / "cut", num_steps=6, overflows_at=[1, 4], stops_at=3)
    assert _fit(tmp_path / "cut", num_steps=6, overflows_at=[1, 4]) == whole_run


def _update(factor: float) -> tuple[dict[str, float], Learner]:
    """An update in fp32, or with a loss scale that overflows in the critic."""
    bandit = Bandit()
    scales = {"actor": LossScale(), "critic": LossScale(value=factor)} if factor else {}
    learner = Learner.of(bandit, bandit.policy, bandit.baseline, FAST)
    learner.scales.update(scales)
    config = UpdateConfig.model_validate(FAST.model_dump() | {"epochs": 2})
    return update(learner, play(bandit, 0), config, generator=generator(0)), learner


def test_ppo_learns_the_same_with_scales_and_counts_what_it_left_out() -> None:
    plain, theirs = _update(0.0)
    metrics, learner = _update(FIRST)
    assert _equal(list(learner.actor.parameters()), list(theirs.actor.parameters()))
    assert learner.critic is not None and theirs.critic is not None
    assert _equal(list(learner.critic.parameters()), list(theirs.critic.parameters()))
    added = {"actor_loss_scale": FIRST, "critic_loss_scale": FIRST, "skipped_steps": 0.0}
    assert metrics == plain | added
    metrics, learner = _update(2.0**130)  # beyond fp32
    assert learner.critic is not None
    assert _equal(list(learner.critic.parameters()), list(Bandit().baseline.parameters()))
    assert metrics["skipped_steps"] == 2 and metrics["critic_loss_scale"] == 2.0**128
    assert "critic_grad_norm" not in metrics and metrics["actor_grad_norm"] > 0


@pytest.mark.parametrize("broken", ["policy", "baseline"])
def test_a_loss_that_is_not_finite_ends_ppo_instead_of_counting_as_an_overflow(broken: str) -> None:
    bandit = Bandit()
    learner = Learner.of(bandit, bandit.policy, bandit.baseline, FAST)
    learner.scales.update({"actor": LossScale(), "critic": LossScale()})
    rollout = play(bandit, 0)
    with torch.no_grad():
        next(getattr(bandit, broken).parameters()).fill_(math.nan)
    with pytest.raises(FailedError, match="loss is nan; try a lower lr, or precision=fp32: fp16 holds no number"):
        update(learner, rollout, FAST, generator=generator(0))


class _Scaled(Bandit):
    """A bandit whose critic overflows in the first steps."""

    def learner(self, config: UpdateConfig) -> Learner:
        learner = super().learner(config)
        learner.scales.update({"actor": LossScale(), "critic": LossScale(2.0**131)})
        return learner


def test_a_killed_ppo_continues_with_its_scales_to_the_bit(tmp_path: Path) -> None:
    once, again = _Scaled(), _Scaled()
    run(tmp_path / "whole", LOOP, once)
    with pytest.raises(Killed):
        run(tmp_path / "cut", LOOP, _Scaled(), kill_in=5)
    run(tmp_path / "cut", LOOP, again)
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")
    assert sum(row.get("ppo/skipped_steps", 0.0) for row in rows(tmp_path / "whole")) > 1
    assert torch.equal(again.baseline.weight, once.baseline.weight)
