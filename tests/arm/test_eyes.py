"""A run from pictures: the policy sees with its cameras, and the reward model with the encoders of the clone."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium.vector import VectorEnv
from tests.arm.conftest import drawable, run_of
from tests.arm.test_kill_and_resume import Moment, killed

from tercet.arm import bc, eval, ppo, reward
from tercet.arm.networks.eye import NUM_FEATURES
from tercet.arm.networks.reward_ensemble import RewardEnsemble
from tercet.arm.play.agent import set_witness, sight_of
from tercet.arm.play.environments import sizes_of
from tercet.arm.play.episodes import Episodes, play
from tercet.arm.policies.kinds import load_policy, new_policy
from tercet.arm.policies.policy import Policy
from tercet.arm.preferences.pairs import load_pairs
from tercet.arm.preferences.segments import Segments
from tercet.arm.scoring import scorer
from tercet.arm.sim.cameras import Camera
from tercet.arm.sim.env import ArmEnv
from tercet.config.load import load_arm_config
from tercet.errors import InputError

EYES = ["policy.kind=conv", "policy.cameras=[wrist]", "policy.image_size=[32,32]", "policy.sees=itself"]
SEEN = [*EYES, "policy.chunk_size=2", "reward.sees=pictures", "eval.num_states=4"]


@pytest.fixture
def env() -> Iterator[ArmEnv]:
    yield from drawable("lift", 2, horizon=6)


def policy_of(env: ArmEnv) -> Policy:
    return new_policy(sizes_of(env), load_arm_config("lift", EYES).policy, seed=0)


def high(segments: Segments) -> torch.Tensor:
    """A mark that does not depend on success: the progress is above the median."""
    return (segments.progress.mean(1) > segments.progress.median()).float()


def still(env: ArmEnv) -> Episodes:
    moves = torch.full((env.num_envs, 5), 0.5)
    return play(env, lambda step, states, fresh: moves, horizon=6, seed=0)


def test_a_witness_sees_the_picture_after_each_step(env: ArmEnv) -> None:
    policy = policy_of(env)
    assert still(env).seen is None
    set_witness(env, policy)
    episodes = still(env)
    assert episodes.seen is not None and episodes.seen.shape == (2, 6, NUM_FEATURES)
    assert episodes.outcomes is episodes.seen
    with torch.no_grad():
        last = torch.cat(sight_of(env, policy)(torch.ones(2, dtype=torch.bool)), -1)
    torch.testing.assert_close(episodes.seen[:, -1], last)
    assert (episodes.seen[:, -1] - episodes.seen[:, 0]).abs().max() > 1e-4
    halves = Episodes.joined([episodes.rows(torch.tensor([1])), episodes.rows(torch.tensor([0]))])
    assert halves.seen is not None and torch.equal(halves.seen, episodes.seen.flip(0))


def test_a_picture_that_a_witness_saw_is_not_drawn_again(env: ArmEnv) -> None:
    env.witness = lambda: np.zeros((2, NUM_FEATURES), np.float32)
    cameras, everywhere = (Camera("wrist", 32, 32),), np.ones(2, bool)
    num_drawn = 0
    draw = env._picture

    def counted(*args: object, **kwargs: object) -> np.ndarray:
        nonlocal num_drawn
        num_drawn += 1
        return draw(*args, **kwargs)  # type: ignore[arg-type]

    env._picture = counted  # type: ignore[method-assign, assignment]
    first = env.pictures(cameras, everywhere)[0].copy()
    np.testing.assert_array_equal(env.pictures(cameras, np.array([False, True]))[0][0], first[1])
    assert num_drawn == 2
    snapshot = env.snapshot()
    changes = (
        lambda: env.step(np.ones((2, 5), np.float32)),
        lambda: env.reset(seed=5),
        lambda: env.servo(env.joints() + 0.1),
        lambda: env.restore(snapshot),
    )
    for index, change in enumerate(changes):
        change()
        env.pictures(cameras, everywhere)
        assert num_drawn == 4 + 2 * index, index
    np.testing.assert_array_equal(env.pictures(cameras, everywhere)[0], first)
    env.witness = None
    env.pictures(cameras, everywhere)
    assert num_drawn == 12 and len(env._drawn) == 2  # nobody else looks twice, so it keeps no pictures


@pytest.mark.slow
def test_a_reward_from_pictures_is_audited_and_not_used_alone_before_that(small: list[str], tmp_path: Path) -> None:
    marks = ["reward.feedback=success", f"reward.judge={__name__}:high"]
    folder, config = run_of(tmp_path, "lift", [*small, *SEEN, *marks])
    with folder:
        bc.run(folder, config)
        reward.run(folder, config)
        found = folder.results()["reward_model"]["audit"]
        assert found["num_success"] == 0 and found["recall"] is None and found["num_episodes"] == 1
        assert load_pairs(folder.path / "reward" / "pairs" / "learned.safetensors").better.shape[1:] == (
            1,
            NUM_FEATURES,
        )
        # no held-out episode succeeds in so few steps, so nobody knows how often the classifier is wrong
        with pytest.raises(
            InputError, match=r"a reward from pictures is used alone only after its audit, but it called"
        ):
            ppo.run(folder, config)
        mixed = config.model_copy(
            update={"ppo": config.ppo.model_copy(update={"reward": {"reward_model": 1.0, "dense": 0.1}})}
        )
        ppo.run(folder, mixed)
        eval.run(folder, mixed)
    hacked = folder.results()["hacked"]
    assert set(hacked) == {"bc", "bc_noise", "ppo"} and all(0 <= one["mean"] <= 1 for one in hacked.values())
    assert hacked["ppo"]["num_states"] == 4
    # PPO learned from what the frozen encoders saw
    clone, after = (load_policy(folder.path / name / "model", sizes_of(ArmEnv("lift", 1))) for name in ("bc", "ppo"))
    same = [
        torch.equal(value, after.state_dict()[name]) for name, value in clone.state_dict().items() if "eyes" in name
    ]
    assert len(same) == 6 and all(same)


@pytest.mark.slow
def test_preferences_on_videos_are_about_features_and_rounds_ask_again(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rounds = ["reward.num_rounds=1", "reward.round_every=2", "reward.pairs_per_round=8", "ppo.reward.dense=0.1"]
    folder, config = run_of(tmp_path, "lift", [*small, *SEEN, *rounds])
    with folder:
        bc.run(folder, config)
        reward.run(folder, config)
        ppo.run(folder, config)
        eval.run(folder, config)
    # no episode succeeds in so few steps, so no reward stands for success, and none of 4 hacked would be wrong
    assert "hacked" not in folder.results() and "how many episodes are hacked is not known" in capsys.readouterr().out
    assert load_pairs(folder.path / "ppo" / "round-1" / "pairs.safetensors").better.shape[1:] == (4, NUM_FEATURES)
    assert folder.results()["rounds"] == {"num": 1, "num_pairs": 8}


def test_pictures_need_encoders_and_cameras(env: ArmEnv) -> None:
    with pytest.raises(InputError, match="takes the encoders of policy"):
        load_arm_config("lift", ["reward.sees=pictures"])
    with pytest.raises(InputError, match="only the tasks of the built-in arm have cameras"):
        set_witness(VectorEnv(), policy_of(env))


def test_a_broken_simulation_is_scored_by_what_was_seen_before(env: ArmEnv) -> None:
    set_witness(env, policy_of(env))
    episodes = still(env)
    assert episodes.seen is not None
    episodes.infos["blown_up"][0, 3] = 1.0
    episodes.terminated[0, 3] = True
    model = RewardEnsemble(NUM_FEATURES, num_models=1, hidden_size=4).requires_grad_(False)
    rewards = scorer({"reward_model": 1.0}, model)(episodes)
    assert rewards.steps[0, 3] == 0
    torch.testing.assert_close(rewards.absorbing[0, 3], model(episodes.seen[0, 2]))


@pytest.mark.slow
def test_a_killed_run_from_pictures_goes_on_to_the_same_bits(env: ArmEnv, small: list[str], tmp_path: Path) -> None:
    more = ["ppo.eval_every=2", "ppo.checkpoint_every=2", "reward.epochs=1", "bc.epochs=1"]
    chain: list[Moment] = [("row", "ppo", 2)]
    paid = "ppo.reward={reward_model: 1.0, dense: 0.1}"
    looks = ["randomisation.camera=0.01", "randomisation.light=0.5", "randomisation.texture=0.5"]
    assert killed(tmp_path, "lift", [chain], [*small, *SEEN, *more, *looks, paid]) == 1
