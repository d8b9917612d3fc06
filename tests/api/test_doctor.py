"""A run that is sick on purpose: the line while it trains, the end that the config asks for, and the report."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import tercet
from tercet.cli import app

PAYS_NOTHING = "def nothing(prompts, responses):\n    return [0.0] * len(responses)\n"
SICK = {
    "ppo.reward": {"sick_reward:nothing": 1.0},
    "ppo.num_updates": 8,
    "ppo.batch_size": 4,
    "ppo.micro_batch_size": 4,
    "ppo.max_response_tokens": 6,
    "ppo.critic_warmup_updates": 0,
    "ppo.num_eval_prompts": 2,
    "ppo.eval_every": 8,
    "ppo.checkpoint_every": 100,
    "reward.num_reference_samples": 4,
    "data.max_response_tokens": 8,
}
LINE = "doctor: All scores are equal: The standard deviation of the scores is 0 in the last updates"


def indices(run: Path) -> list[int]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["index"] for row in rows if row["step"] == "ppo"]


@pytest.mark.slow
def test_a_sick_run_is_told_so_stops_and_continues(
    tuned: tercet.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sick_reward.py").write_text(PAYS_NOTHING)
    monkeypatch.chdir(tmp_path)
    policy = {"ppo.policy": str(tuned.path / "sft" / "model")}
    config = tercet.load_lm_config("tiny", SICK | policy | {"on_alarm": "stop"})
    with pytest.raises(tercet.FailedError, match=r"ppo: stopped by on_alarm=stop\. All scores are equal"):
        tercet.run(config, "run", step="ppo")
    assert capsys.readouterr().out.count(LINE) == 1
    assert indices(tmp_path / "run") == [0, 1, 2, 3, 4, 5]
    done = tercet.run(config, "run", step="ppo")  # the checkpoint of the end
    assert done.finished == ("ppo",) and indices(tmp_path / "run") == [0, 1, 2, 3, 4, 5, 6, 7, 8]
    assert LINE not in capsys.readouterr().out

    whole = tercet.run(tercet.load_lm_config("tiny", SICK | policy), "whole", step="ppo")
    assert capsys.readouterr().out.count(LINE) == 1
    assert whole.metrics("ppo") == done.metrics("ppo")  # neither the doctor nor the end changed a number

    said = CliRunner().invoke(app, ["doctor", "whole"])
    assert (said.exit_code, "ALARM  All scores are equal" in said.output) == (0, True)
    found = json.loads(CliRunner().invoke(app, ["doctor", "whole", "--json"]).output)["findings"]
    assert [one["name"] for one in found if one["level"] == "alarm"] == ["no_advantages"]
    assert "All scores are equal" in (tmp_path / "whole" / "report.md").read_text()
    assert all(row["reward_seconds"] >= 0 for row in _timings(tmp_path / "whole") if row["index"] > 0)


def _timings(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "timings.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_all_processes_of_a_sick_run_stop_with_the_same_message(
    tuned: tercet.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sick_reward.py").write_text(PAYS_NOTHING)
    monkeypatch.chdir(tmp_path)
    more = {"ppo.policy": str(tuned.path / "sft" / "model"), "on_alarm": "stop", "processes": 2}
    config = tercet.load_lm_config("tiny", SICK | more)
    with pytest.raises(tercet.FailedError, match=r"ppo: stopped by on_alarm=stop\. All scores are equal"):
        tercet.run(config, "run", step="ppo", quiet=True)
    assert tercet.run(config, "run", step="ppo", quiet=True).finished == ("ppo",)
