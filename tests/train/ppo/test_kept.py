"""Kept rollouts hold what the optimizer steps saw, and keeping them changes nothing."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.train.ppo.bandit import FAST, Bandit, changed, play

from tercet.errors import FailedError
from tercet.train.chance import generator
from tercet.train.ppo.kept import FILE, NOT_USED, KeptRollout, Seen, kept_updates, outputs
from tercet.train.ppo.update import update

SEVERAL = changed(FAST, epochs=3, num_minibatches=4, micro_batch_size=3)


def kept(bandit: Bandit, config=SEVERAL, *, independent: bool = False, train_actor: bool = True) -> KeptRollout:
    """A rollout with what an update saw of it."""
    rollout = replace(play(bandit, 0), independent_steps=independent)
    seen = Seen.nothing(rollout, config.epochs)
    update(bandit.learner(config), rollout, config, generator=generator(0), seen=seen, train_actor=train_actor)
    return KeptRollout(rollout, seen, outputs(bandit, rollout, 5, has_critic=True), {"scores": torch.arange(32)})


@pytest.mark.parametrize(
    ("num_updates", "num", "expected"),
    [(20, 5, {1, 6, 11, 15, 20}), (3, 5, {1, 2, 3}), (10, 1, {10}), (10, 0, set()), (1, 3, {1}), (9, 2, {1, 9})],
)
def test_kept_updates_are_evenly_spaced_from_the_first_to_the_last(
    num_updates: int, num: int, expected: set[int]
) -> None:
    assert kept_updates(num_updates, num) == expected


@pytest.mark.parametrize("independent", [False, True])
def test_every_action_is_seen_once_an_epoch_and_nothing_else(independent: bool) -> None:
    found = kept(Bandit(), independent=independent)
    mask = found.rollout.mask
    for epoch, steps in enumerate(found.seen.steps):
        assert set(steps[mask].tolist()) == {4 * epoch + number for number in (1, 2, 3, 4)}
        assert (steps[~mask] == NOT_USED).all()
        assert (found.seen.logprobs[epoch][mask] < 0).all() and (found.seen.logprobs[epoch][~mask] == 0).all()
    first = found.seen.steps[0] == 1  # before any step, actor and critic are those of the rollout
    assert torch.equal(found.seen.logprobs[0][first], found.rollout.logprobs[first])
    assert torch.equal(found.seen.values[0][first], found.rollout.values[first])
    later = found.seen.steps[2] == 12
    assert (found.seen.logprobs[2][later] - found.rollout.logprobs[later]).abs().min() > 1e-4


def test_the_outputs_after_the_update_are_those_of_the_networks() -> None:
    bandit = Bandit()
    found = kept(bandit)
    mask, actor = found.rollout.mask, bandit.actor(found.rollout.inputs)
    assert torch.equal(found.after.logprobs[mask], actor.logprobs[mask])
    assert torch.equal(found.after.values[mask], bandit.critic(found.rollout.inputs)[mask])
    assert not found.after.logprobs.requires_grad


def test_recording_changes_neither_metrics_nor_weights() -> None:
    plain, recorded = Bandit(), Bandit()
    seen = Seen.nothing(play(Bandit(), 0), 3)
    both = [
        update(bandit.learner(SEVERAL), play(Bandit(), 0), SEVERAL, generator=generator(0), seen=record)
        for bandit, record in ((plain, None), (recorded, seen))
    ]
    assert both[0] == both[1]
    assert torch.equal(plain.policy.weight, recorded.policy.weight)


def test_a_saved_rollout_is_read_back_to_the_bit(tmp_path: Path) -> None:
    found = kept(Bandit())
    found.save(tmp_path)
    again = KeptRollout.load(tmp_path)
    for name in ("logprobs", "values", "next_values", "discounts", "rewards", "terminated", "truncated", "mask"):
        assert torch.equal(getattr(again.rollout, name), getattr(found.rollout, name))
    assert again.rollout.weights is None
    for part in ("seen", "after"):
        for name, value in vars(getattr(found, part)).items():
            again_value = getattr(getattr(again, part), name)
            assert again_value is None if value is None else torch.equal(again_value, value)
    assert torch.equal(again.own["scores"], found.own["scores"])


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    kept(Bandit()).save(tmp_path)
    data = (tmp_path / FILE).read_bytes()
    for damaged in (data[:100], b"", data.replace(b"rollout.logprobs", b"rollout.logprobx")):
        (tmp_path / FILE).write_bytes(damaged)
        with pytest.raises(FailedError, match=r"rollout.safetensors: damaged .* restore it, or remove"):
            KeptRollout.load(tmp_path)
