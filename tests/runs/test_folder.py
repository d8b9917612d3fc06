"""A run folder explains itself, goes on with the same config, and refuses everything else."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tercet.config.lm import LmConfig
from tercet.errors import InputError
from tercet.runs.folder import RunFolder


def _config(**values: object) -> LmConfig:
    return LmConfig.model_validate(values)


def _begun(run: Path, config: LmConfig) -> None:
    """Make a run whose first step has begun."""
    RunFolder.open(run, config, preset="tiny").close()
    (run / "sft").mkdir()


def test_a_new_folder_contains_config_and_versions(tmp_path: Path) -> None:
    config = _config(seed=3, eval={"prompts": ["你好", "a: b\n"]}, ppo={"lr": 1e-5})
    with RunFolder.open(tmp_path / "deep" / "run", config, preset="tiny") as folder:
        saved = yaml.safe_load((folder.path / "config.yaml").read_text(encoding="utf-8"))
        assert LmConfig.model_validate(saved) == config
        info = folder.info()
    assert info["preset"] == "tiny"
    assert info["packages"]["torch"]
    assert info["machine"]["num_cores"] >= 1
    assert info["python"] == ".".join(map(str, sys.version_info[:3]))


def test_the_same_config_continues_and_changes_no_file(tmp_path: Path) -> None:
    config = _config(ppo={"kl_coef": 0.05})
    _begun(tmp_path / "run", config)
    before = [(tmp_path / "run" / name).read_bytes() for name in ("config.yaml", "run.json")]
    RunFolder.open(tmp_path / "run", config, preset="other").close()
    assert before == [(tmp_path / "run" / name).read_bytes() for name in ("config.yaml", "run.json")]


def test_a_run_without_a_started_step_accepts_another_config(tmp_path: Path) -> None:
    RunFolder.open(tmp_path / "run", _config(), preset="tiny").close()
    with RunFolder.open(tmp_path / "run", _config(seed=1), preset="other") as folder:
        assert (folder.config_dict["seed"], folder.info()["preset"]) == (1, "other")
    assert RunFolder.read(tmp_path / "run").config_dict["seed"] == 1


def test_another_config_is_refused_and_all_differences_are_listed(tmp_path: Path) -> None:
    _begun(tmp_path / "run", _config(ppo={"reward": {"a:b": 2.0}}))
    with pytest.raises(InputError) as caught:
        RunFolder.open(tmp_path / "run", _config(seed=1, ppo={"lr": 3e-4}), preset="tiny")
    lines = str(caught.value).splitlines()
    assert "  seed: 0 in the run, 1 now" in lines
    assert "  ppo.lr: 1e-05 in the run, 0.0003 now" in lines
    assert "  ppo.reward.a:b: 2.0 in the run, (absent) now" in lines
    assert "  ppo.reward.reward_model: (absent) in the run, 1.0 now" in lines
    assert len(lines) == 6
    assert "--out" in lines[-1]


def _forget(run: Path, *keys: str) -> None:
    """Make a run one of an earlier version, which did not know these keys; neither did it note digests."""
    tree = yaml.safe_load((run / "config.yaml").read_text())
    for key in keys:
        section, _, name = key.rpartition(".")
        del (tree[section] if section else tree)[name]
    (run / "config.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    (run / "run.json").unlink()


def test_a_key_missing_in_an_earlier_version_has_its_default(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _begun(tmp_path / "run", _config())
    _forget(tmp_path / "run", "model.trust_remote_code", "lora", "seed")
    RunFolder.open(tmp_path / "run", _config(), preset="tiny").close()
    assert "earlier version without seed, model.trust_remote_code, lora; continuing with" in capsys.readouterr().out
    with pytest.raises(InputError) as caught:
        RunFolder.open(tmp_path / "run", _config(model={"trust_remote_code": True}, lora={"rank": 4}), preset="tiny")
    assert "  model.trust_remote_code: (absent) in the run, true now" in str(caught.value).splitlines()
    assert "  lora.rank: (absent) in the run, 4 now" in str(caught.value).splitlines()
    assert len(str(caught.value).splitlines()) == 4


def test_a_refused_folder_can_be_opened_with_its_own_config(tmp_path: Path) -> None:
    _begun(tmp_path / "run", _config())
    with pytest.raises(InputError):
        RunFolder.open(tmp_path / "run", _config(seed=1), preset="tiny")
    RunFolder.open(tmp_path / "run", _config(), preset="tiny").close()


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"contains thesis\.tex but no config\.yaml"):
        RunFolder.open(tmp_path, _config(), preset="tiny")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_in_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    for path in (tmp_path / "run", tmp_path / "run" / "deeper"):
        with pytest.raises(InputError, match="--out"):
            RunFolder.open(path, _config(), preset="tiny")


def test_an_empty_folder_becomes_a_run(tmp_path: Path) -> None:
    RunFolder.open(tmp_path, _config(), preset="tiny").close()
    assert (tmp_path / "config.yaml").exists()


def test_two_processes_cannot_use_one_folder(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path\n"
        "from tercet.config.lm import LmConfig; from tercet.runs.folder import RunFolder\n"
        "folder = RunFolder.open(Path(sys.argv[1]), LmConfig(), preset='tiny'); print('in', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "run")],
        stdout=subprocess.PIPE,
        env={"PYTHONPATH": str(Path(__file__).parents[2] / "src")},
    )
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == b"in\n"
        with pytest.raises(InputError, match=f"process {other.pid} is using this folder"):
            RunFolder.open(tmp_path / "run", _config(), preset="tiny")
        assert RunFolder.read(tmp_path / "run").results() == {}  # looking is free
    finally:
        other.kill()
        other.wait()
    RunFolder.open(tmp_path / "run", _config(), preset="tiny").close()


def test_a_surviving_child_process_does_not_keep_the_lock(tmp_path: Path) -> None:
    folder = RunFolder.open(tmp_path, _config(), preset="tiny")
    waits, ends = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ends)
        os.read(waits, 1)
        os._exit(0)
    folder.close()  # as the end of its process would
    RunFolder.open(tmp_path, _config(), preset="tiny").close()
    os.close(ends)
    os.waitpid(child, 0)
    os.close(waits)


def test_reading_a_missing_run_names_the_runs_beside_it(tmp_path: Path) -> None:
    RunFolder.open(tmp_path / "tiny", _config(), preset="tiny").close()
    with pytest.raises(InputError, match=rf"not a run folder.*runs there: {tmp_path}/tiny"):
        RunFolder.read(tmp_path / "tinny")


_BOMB = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))


@pytest.mark.parametrize("text", ["a: [", "just text", "\x00", _BOMB, "a: &a [*a]", "a: 2024-01-01\nb: !!set {x}"])
def test_a_broken_config_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(InputError, match=r"config\.yaml"):
        RunFolder.read(tmp_path)


def test_a_run_folder_needs_no_torch() -> None:
    script = "import sys, tercet.runs.folder, tercet.config.lm; sys.exit('torch' in sys.modules)"
    environment = {"PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    assert subprocess.run([sys.executable, "-c", script], env=environment, check=False).returncode == 0


def _rounds(num: int) -> LmConfig:
    return _config(judge="person", reward={"num_rounds": num})


def test_a_number_that_may_grow_is_recorded_and_cannot_shrink(tmp_path: Path) -> None:
    run, grows = tmp_path / "run", ["reward.num_rounds"]
    _begun(run, _rounds(0))
    with pytest.raises(InputError, match=r"reward\.num_rounds: 0 in the run, 2 now"):
        RunFolder.open(run, _rounds(2), preset="tiny")
    RunFolder.open(run, _rounds(2), preset="tiny", may_grow=grows).close()
    assert RunFolder.read(run).config_dict["reward"]["num_rounds"] == 2
    assert RunFolder.read(run).info()["preset"] == "tiny"
    with pytest.raises(InputError, match=r"reward\.num_rounds: 2 in the run, 1 now"):
        RunFolder.open(run, _rounds(1), preset="tiny", may_grow=grows)
    with pytest.raises(InputError, match="seed: 0 in the run, 1 now"):
        other = _config(judge="person", seed=1, reward={"num_rounds": 3})
        RunFolder.open(run, other, preset="tiny", may_grow=grows)
    assert RunFolder.read(run).config_dict["reward"]["num_rounds"] == 2


@pytest.mark.parametrize("is_new", [False, True])
def test_a_kill_while_a_larger_number_is_recorded_leaves_a_run(is_new: bool, tmp_path: Path) -> None:
    run, grows = tmp_path / "run", ["reward.num_rounds"]
    _begun(run, _rounds(0))
    (run / "run.json").write_text(json.dumps({"preset": "tiny"}))  # written first, without any digest
    if is_new:
        config = (run / "config.yaml").read_text()
        (run / "config.yaml").write_text(config.replace("num_rounds: 0", "num_rounds: 2"))
    RunFolder.open(run, _rounds(2), preset="tiny", may_grow=grows).close()
    assert RunFolder.read(run).config_dict["reward"]["num_rounds"] == 2
