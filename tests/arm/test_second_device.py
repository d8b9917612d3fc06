"""Every tensor of the arm that meets another is made on its device: all steps on a second device."""

from contextlib import nullcontext
from pathlib import Path

import pytest
from tests.second_device import DEVICES, SecondDevice, same_metrics

from tercet.arm.pipeline import STEPS
from tercet.config.load import load_arm_config
from tercet.runs.folder import RunFolder

ARM = [
    *("horizon=10", "bc.epochs=1", "bc.num_eval=4", "reward.num_pairs=8", "reward.num_eval=4", "reward.epochs=1"),
    *(
        "reward.num_episodes=4",
        "reward.segment_length=4",
        "ppo.num_envs=4",
        "ppo.num_updates=2",
        "ppo.num_eval_states=4",
    ),
    *("ppo.micro_batch_size=2", "ppo.num_minibatches=2", "ppo.epochs=1", "ppo.critic_warmup_updates=1"),
    *("ppo.eval_every=1", "ppo.checkpoint_every=1", "eval.num_states=4", "eval.num_videos=0", "policy.hidden_size=8"),
]


@pytest.mark.parametrize("device", DEVICES)
def test_the_steps_of_an_arm_compute_on_the_device_what_they_do_on_the_cpu(device: str, tmp_path: Path) -> None:
    config = load_arm_config("lift", ARM)
    for name in ("cpu", device):
        with RunFolder.open(tmp_path / name, config, preset="lift") as folder:
            for run in STEPS.values():
                with nullcontext() if device == "cuda" else SecondDevice():
                    run(folder, config.model_copy(update={"device": name}))
    same_metrics(tmp_path / "cpu", tmp_path / device)
