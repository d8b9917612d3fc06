"""Whatever is wrong is said in one message with its place and remedy, and nothing that existed is lost."""

import errno
import gc
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from click.testing import Result
from safetensors.torch import load_file, save_file

from tercet.config.load import load_lm_config
from tercet.lm.models.weights import load_causal
from tercet.lm.text.tokenizers import byte_tokenizer
from tercet.runs.integrity import SEAL, sealed

Tercet = Callable[..., Result]
Take = Callable[..., Path]

PAIR = {"prompt": "Is it?", "chosen": "Yes.", "rejected": "No."}


def refused(result: Result, *said: str, code: int = 2) -> None:
    """One message on stderr that says all this, and no traceback."""
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    assert result.stderr.startswith("tercet: ")
    assert result.stderr.count("tercet: ") == 1
    for text in said:
        assert text in result.stderr


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def jsonl(path: Path, *rows: object) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def save_model(folder: Path, small: list[str]) -> Path:
    """A model of the small settings with its tokenizer, as a user's folder."""
    load_causal(load_lm_config("tiny", small).model, seed=0).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def taught(take: Take, small: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose first two steps are done; to be copied."""
    path = tmp_path_factory.mktemp("runs") / "taught"
    for step in ("sft", "reward"):
        take(step, path, *small)
    return path


@pytest.fixture(scope="module")
def whole(tiny: Tercet, small: list[str], taught: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, gone on to its end."""
    path = shutil.copytree(taught, tmp_path_factory.mktemp("runs") / "whole")
    assert tiny("run", path, *small).exit_code == 0
    return path


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("ppo.clip_rage=0.1", ["ppo.clip_rage", "command line", "did you mean ppo.clip_range?"]),
        ("ppo.lam=1.5", ["ppo.lam = 1.5", "at least 0 and at most 1"]),
        ("sft.epochs=0", ["sft.epochs = 0", "at least 1"]),
        ("data.split=1,2", ["data.split", "three weights", "2,4,4"]),
        ("data.style=poem", ["data.style", "hh, chat, plain"]),
        ("data.order=random", ["data.order", "mixed, sequential"]),
        ("model.architecture={model_type: opt", ["model.architecture", "not YAML"]),
        ("data.train=[{name: x}]", ["data.train[0].path", "missing"]),
    ],
)
def test_a_config_that_cannot_be(tiny: Tercet, tmp_path: Path, override: str, said: list[str]) -> None:
    refused(tiny("run", tmp_path / "run", override), *said)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "rows", "said"),
    [
        ("broken.jsonl", [PAIR, '{"prompt": "a", "chosen"'], ["broken.jsonl:2", "invalid JSON"]),
        ("list.jsonl", ["[1, 2]"], ["list.jsonl:1", "list"]),
        ("empty.jsonl", [], ["empty.jsonl", "the set is empty"]),
        (
            "column.jsonl",
            [{"asked": "a", "good": "b"}],
            ["column.jsonl:1", "asked, good", "data.columns={prompt:"],
        ),
        ("equal.jsonl", [PAIR, PAIR | {"rejected": "Yes."}], ["chosen == rejected in 1 of 2 rows", "equal.jsonl:2"]),
        ("blank.jsonl", [PAIR, PAIR | {"chosen": ""}], ["1 of 2 rows", "blank.jsonl:2"]),
        (
            "alone.jsonl",
            [{"prompt": "a", "response": "b"}],
            ["alone.jsonl:1", "no rejected", "reward.num_sampled_pairs"],
        ),
        (
            "long.jsonl",
            [PAIR | {"prompt": f"{i} why" * 99} for i in range(20)],
            ["long.jsonl:", "data.max_prompt_tokens"],
        ),
    ],
)
@pytest.mark.parametrize("step", ["reward"])
def test_data_that_no_one_can_learn_from(
    tiny: Tercet, small: list[str], tmp_path: Path, step: str, name: str, rows: list[object], said: list[str]
) -> None:
    file = jsonl(tmp_path / name, *rows)
    out = tmp_path / "run"
    refused(tiny(step, out, *small, f"data.train=[{file}]", "data.eval_fraction=0"), *said)
    assert not (out / step / "model").exists()
    # mended, the same command goes through: the folder of the failed attempt is in nobody's way
    held_out = jsonl(tmp_path / "eval.jsonl", *[PAIR | {"prompt": f"{i}?"} for i in range(8)])
    jsonl(file, *[PAIR | {"prompt": f"Is it {i}?"} for i in range(8)])
    mended = [*small, f"data.train=[{file}]", f"data.eval=[{held_out}]"]
    assert tiny(step, tmp_path / "mended", *mended).exit_code == 0


def test_a_file_that_is_not_there_names_its_neighbours(tiny: Tercet, small: list[str], tmp_path: Path) -> None:
    jsonl(tmp_path / "pairs.jsonl", PAIR)
    result = tiny("sft", tmp_path / "run", *small, f"data.train=[{tmp_path}/pair.jsonl]")
    refused(result, f"{tmp_path}/pair.jsonl", "no such file", "pairs.jsonl")


def test_a_column_map_to_a_column_that_is_not_there(tiny: Tercet, small: list[str], tmp_path: Path) -> None:
    result = tiny("sft", tmp_path / "run", *small, "data.columns={prompt: ask}")
    refused(result, "toy.jsonl:1", "no column 'ask'", "prompt, chosen, rejected")


def test_prompt_and_answer_longer_than_the_window(tiny: Tercet, small: list[str], tmp_path: Path) -> None:
    limits = ["data.max_prompt_tokens=124", "data.max_response_tokens=5"]
    for step in ("sft", "reward"):
        result = tiny(step, tmp_path / step, *small, *limits)
        refused(result, "data.max_prompt_tokens=124", "129 tokens", "the model reads 128")


def test_a_tokenizer_without_eos(tiny: Tercet, small: list[str], tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    result = tiny("sft", tmp_path / "run", *small, f"model.tokenizer={tmp_path}/tokenizer")
    refused(result, "model.tokenizer", f"{tmp_path}/tokenizer", "no EOS", "eos_token")


@pytest.mark.slow
def test_a_tokenizer_without_pad_needs_none(tiny: Tercet, small: list[str], tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    settings = [*small, f"model.tokenizer={tmp_path}/tokenizer", "ppo.num_updates=1"]
    result = tiny("run", tmp_path / "run", *settings)
    assert result.exit_code == 0, result.output


def test_a_conversation_that_the_template_refuses_is_said_before_anything_is_trained(
    tiny: Tercet, small: list[str], toy_pairs: Path, tmp_path: Path
) -> None:
    template = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    turns = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
    rows = [{"prompt": f"Is it {i}?"} for i in range(30)] + [{"prompt": turns}]
    data = ["data.style=chat", f"data.ppo=[{jsonl(tmp_path / 'asked.jsonl', *rows)}]"]
    (tmp_path / "mine.jinja").write_text(template + "{{ m.content }}</s>{% endfor %}")
    result = tiny("run", tmp_path / "run", *small, *data, f"model.chat_template={tmp_path / 'mine.jinja'}")
    refused(result, "asked.jsonl:31: the chat template refuses a conversation of system, user: no system")
    assert not (tmp_path / "run" / "sft").exists()


def test_a_tokenizer_with_more_tokens_than_the_model(tiny: Tercet, small: list[str], tmp_path: Path) -> None:
    fewer = "model.architecture.vocab_size=200"
    result = tiny("sft", tmp_path / "run", *small, fewer)
    refused(result, "model.tokenizer", "259 tokens", "embeds 200")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("model.path=./nowhere", ["model.path", "./nowhere", "no such folder"]),
        ("model.path=no-such-model", ["model.path", "no-such-model", "hub id"]),
        ("model.path=weights.gguf", ["model.path", "weights.gguf"]),
        ("model.architecture={hidden_size: 8}", ["model.architecture", "model_type"]),
        ("model.architecture={model_type: optt}", ["model.architecture", "no model_type 'optt'; did you mean opt?"]),
        ("model.architecture={model_type: opt, num_attention_heads: 3, hidden_size: 16}", ["model.architecture", "3"]),
        ("model.tokenizer=./nowhere", ["model.tokenizer", "./nowhere"]),
        ("data.style=chat", ["chat template", "data.style=hh", "model.chat_template"]),
        ("lora={rank: 2, target_modules: [q_prj]}", ["lora.target_modules", "q_prj", "q_proj"]),
        ("device=cuda", ["device", "no GPU", "device=cpu"]),
    ],
)
def test_a_model_that_cannot_be_had(
    tiny: Tercet, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, override: str, said: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    name = [] if "tokenizer" in override or not override.startswith("model.path") else ["model.tokenizer=bytes"]
    refused(tiny("sft", tmp_path / "run", *small, *name, override), *said)


@pytest.mark.parametrize("damage", ["no weights", "cut off", "no config", "not JSON", "another shape"])
def test_a_model_folder_that_is_damaged(tiny: Tercet, small: list[str], tmp_path: Path, damage: str) -> None:
    folder = save_model(tmp_path / "model", small)
    weights, config = folder / "model.safetensors", folder / "config.json"
    if damage == "no weights":
        weights.unlink()
    elif damage == "cut off":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "no config":
        config.unlink()
    elif damage == "not JSON":
        config.write_text("{")
    else:
        config.write_text(config.read_text().replace('"ffn_dim": 32', '"ffn_dim": 48'))
    result = tiny("sft", tmp_path / "run", *small, f"model.path={folder}", "model.tokenizer=")
    refused(result, str(folder), "model")


@pytest.mark.parametrize(
    ("body", "said", "code"),
    [
        ("raise ZeroDivisionError('no words')", ["raised ZeroDivisionError: no words"], 1),
        ("return [float('nan')] * len(responses)", ["gave nan for answer 0"], 1),
        ("return [1.0]", ["gave 1 scores for"], 1),
        ("return 'abc'", ["gave 'abc' for"], 1),
    ],
)
def test_a_reward_function_that_misbehaves_leaves_the_run_as_it_was(
    tiny: Tercet,
    small: list[str],
    taught: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    body: str,
    said: list[str],
    code: int,
) -> None:
    monkeypatch.chdir(tmp_path)
    name = f"bad_reward_{abs(hash(body))}"
    (tmp_path / f"{name}.py").write_text(f"def score(prompts, responses):\n    {body}\n")
    with_function = [*small, f"ppo.reward={{'{name}:score': 1.0}}", f"ppo.policy={taught}/sft/model"]
    result = tiny("ppo", tmp_path / "run", *with_function)
    refused(result, f"{name}:score", *said, code=code)
    assert "--debug" in result.stderr


@pytest.mark.slow
def test_a_reward_that_fails_in_the_midst_can_be_mended_and_goes_on(
    tiny: Tercet, small: list[str], taught: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    good = "def score(prompts, responses):\n    return [len(r) / 8 for r in responses]\n"
    (tmp_path / "fickle_reward.py").write_text(
        "import pathlib\ncalls = []\n"
        + good.replace(
            "    return",
            "    calls.append(1)\n    if len(calls) == 6 and not "
            "pathlib.Path('mended').exists(): raise OSError('the judge is away')\n    return",
        )
    )
    settings = [
        *small,
        "ppo.reward={'fickle_reward:score': 1.0}",
        f"ppo.policy={taught}/sft/model",
        "ppo.checkpoint_every=1",
    ]
    refused(tiny("ppo", tmp_path / "run", *settings), "the judge is away", code=1)
    assert (tmp_path / "run" / "ppo" / "checkpoint" / "state.json").exists()
    (tmp_path / "mended").touch()
    weights = tmp_path / "run" / "ppo" / "checkpoint" / "parameters.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-9])  # a damaged disk, say: no message of a library, and nothing thrown away
    refused(tiny("ppo", tmp_path / "run", *settings), str(weights), "damaged", "remove", code=1)
    weights.write_bytes(whole)
    assert tiny("ppo", tmp_path / "run", *settings).exit_code == 0
    assert tiny("ppo", tmp_path / "whole", *settings).exit_code == 0
    for file in ("metrics.jsonl", "ppo/model/model.safetensors"):
        assert (tmp_path / "run" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("ppo.reward={}", ["ppo.reward", "module:function"]),
        ("ppo.reward={'nowhere_at_all:f': 1.0}", ["nowhere_at_all", "no module"]),
        ("ppo.reward={'tercet.lm.preferences.judge:polite': 1.0}", ["no function polite", "polite"]),
        ("ppo.reward={./no/model: 1.0}", ["./no/model", "ppo.reward"]),
        ("ppo.policy=./no/policy", ["./no/policy", "ppo.policy"]),
    ],
)
def test_a_reward_or_policy_that_cannot_be_had(
    tiny: Tercet,
    small: list[str],
    taught: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    override: str,
    said: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    judge = "ppo.reward={'tercet.lm.preferences.judge:polite_and_to_the_point': 1}"
    ready = [judge] if "policy" in override else [f"ppo.policy={taught}/sft/model"]
    result = tiny("ppo", tmp_path / "run", *small, *ready, override)
    refused(result, *said)


def test_data_that_changed_under_a_run_is_refused_before_anything_is_trained(
    tiny: Tercet, small: list[str], taught: Path, tmp_path: Path, toy_pairs: Path
) -> None:
    run, whole = shutil.copytree(taught, tmp_path / "run"), toy_pairs.read_text()
    before = contents(run)
    try:
        toy_pairs.write_text(whole.replace("Yes, red.", "Yes, rose."))
        for command in ("ppo", "run"):
            result = tiny(command, run, *small)
            refused(result, "data has changed", f"{run}/sft: toy", f"{run}/reward: toy", "remove these folders")
    finally:
        toy_pairs.write_text(whole)
    assert contents(run) == before
    assert tiny("ppo", run, *small).exit_code == 0


def test_ppo_before_its_parents_names_the_command(tiny: Tercet, small: list[str], tmp_path: Path) -> None:
    refused(tiny("ppo", tmp_path / "run", *small), "sft", "tercet lm sft", "ppo.policy")
    ready = f"ppo.policy={save_model(tmp_path / 'model', small)}"
    result = tiny("ppo", tmp_path / "run-2", *small, ready)
    refused(result, "reward", "tercet lm reward", "ppo.reward")


def test_sampled_pairs_need_a_judge_and_a_policy(
    tiny: Tercet, small: list[str], toy_questions: Path, tmp_path: Path
) -> None:
    asked = [*small, f"data.train=[{toy_questions}]", "reward.num_sampled_pairs=4"]
    refused(tiny("reward", tmp_path / "a", *asked, "judge="), "judge=module:function")
    refused(tiny("reward", tmp_path / "b", *asked), "tercet lm sft")


def test_nothing_held_out_is_said_before_anything_is_trained(
    tiny: Tercet, small: list[str], taught: Path, tmp_path: Path
) -> None:
    reward = "ppo.reward={'tercet.lm.preferences.judge:polite_and_to_the_point': 1}"
    ready = [*small, f"ppo.policy={taught}/sft/model", reward]
    result = tiny("ppo", tmp_path / "run", *ready, "data.eval_fraction=0")
    refused(result, "validation", "data.eval_fraction")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("judge=nowhere_at_all:f", ["nowhere_at_all", "no module"]),
        ("ppo.reward={}", ["ppo.reward", "needs a reward whose weight"]),
        ("ppo.reward={reward_model: 0}", ["ppo.reward", "needs a reward whose weight is not 0"]),
        ("ppo.reward={./no/model: 1, reward_model: 1}", ["ppo.reward", "./no/model", "no such folder"]),
        ("ppo.reward={'shlex:quote': 1}", ["shlex:quote", "quote(s) cannot be called with two lists"]),
        ("reward.model=./no/model", ["reward.model", "./no/model"]),
        ("reward.num_layers=5", ["reward.num_layers", "5"]),
        ("ppo.reward={'nowhere_at_all:f': 1, reward_model: 1}", ["nowhere_at_all", "no module"]),
        ("data.eval_fraction=0", ["validation", "data.eval_fraction"]),
        ("eval.reward_texts=nowhere.jsonl", ["eval.reward_texts", "nowhere.jsonl"]),
        ("eval.max_response_tokens=120", ["eval.prompts", "How are you?", "133 tokens", "the model reads 128"]),
    ],
)
def test_what_the_last_step_would_stop_at_is_said_before_the_first(
    tiny: Tercet, small: list[str], tmp_path: Path, override: str, said: list[str]
) -> None:
    refused(tiny("run", tmp_path / "run", *small, override), *said)
    assert not (tmp_path / "run" / "sft").exists()


def test_functions_are_tried_on_two_answers_before_the_first_step(
    tiny: Tercet, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "by_key.py").write_text("def score(prompts, responses):\n    return {'a': {'score': [1.0, 2.0]}}\n")
    refused(tiny("run", tmp_path / "run", *small, "ppo.reward={'by_key:score': 1}"), "gave a dict", "2 answers", code=1)
    assert not (tmp_path / "run" / "sft").exists()


def test_a_language_model_is_no_reward_model(tiny: Tercet, small: list[str], tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model", small)
    result = tiny("run", tmp_path / "run", *small, f"ppo.reward={{{folder}: 1}}")
    refused(result, "ppo.reward", str(folder), "reward model")
    assert not (tmp_path / "run" / "sft").exists()


def test_reward_texts_that_are_no_json(tiny: Tercet, small: list[str], taught: Path, tmp_path: Path) -> None:
    texts = jsonl(tmp_path / "texts.jsonl", {"prompt": "a", "good": "b", "bad": "c"}, {"prompt": "a", "good": "b"})
    result = tiny("eval", tmp_path / "run", *small, f"eval.reward_texts={texts}")
    refused(result, "texts.jsonl:2", "prompt, good and bad")


def test_a_run_of_another_config_is_refused_and_untouched(
    tiny: Tercet, small: list[str], taught: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(taught, tmp_path / "run")
    before = contents(run)
    result = tiny("run", run, *small, "ppo.kl_coef=0.5", "seed=7")
    refused(
        result, str(run), "another config", "ppo.kl_coef: 0.1 in the run, 0.5 now", "seed: 0 in the run, 7 now", "--out"
    )
    assert contents(run) == before | {".lock": contents(run)[".lock"]}


def test_a_damaged_checkpoint_says_what_to_remove(tiny: Tercet, small: list[str], tmp_path: Path, taught: Path) -> None:
    run = shutil.copytree(taught, tmp_path / "run")
    (run / "ppo" / "checkpoint").mkdir(parents=True)
    (run / "ppo" / "checkpoint" / "state.json").write_text("{")
    refused(tiny("run", run, *small), "ppo/checkpoint", "restart the step", code=1)


def _note_again(run: Path, step: str, name: str) -> None:
    """Make a changed file one that the step itself wrote."""
    done = run / step / "done.json"
    tree = {key: value for key, value in json.loads(done.read_text()).items() if key != SEAL}
    tree["files"][f"{step}/{name}"] = hashlib.sha256((run / step / name).read_bytes()).hexdigest()
    done.write_text(sealed(tree))


def test_weights_that_are_not_finite_are_found_before_training(
    tiny: Tercet, small: list[str], taught: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(taught, tmp_path / "run")
    file = run / "reward" / "model" / "model.safetensors"
    weights = load_file(file)
    save_file({name: torch.full_like(w, float("nan")) if "score" in name else w for name, w in weights.items()}, file)
    _note_again(run, "reward", "model/model.safetensors")
    result = tiny("ppo", run, *small)
    refused(result, "self-check", "not finite", "Nothing was trained", code=1)
    assert not (run / "ppo" / "model").exists()


def test_a_loss_that_explodes_says_which_rate_to_lower(tiny: Tercet, small: list[str], tmp_path: Path) -> None:
    result = tiny("sft", tmp_path / "run", *small, "sft.lr=100", "sft.warmup_fraction=0")
    refused(result, "sft", "lower", code=1)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MB of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("only root can mount a small disk")
    yield disk
    gc.collect()  # models are mapped from their files until the cycles that hold them are collected
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("room", [4, 120])
def test_a_full_disk_ends_the_run_with_all_that_it_had(
    tiny: Tercet, small: list[str], taught: Path, whole: Path, small_disk: Path, room: int
) -> None:
    run = shutil.copytree(taught, small_disk / "run")
    before = contents(run)
    filler = small_disk / "filler"
    free = os.statvfs(small_disk)
    filler.write_bytes(b"x" * (free.f_bavail * free.f_bsize - room * 1024))
    result = tiny("run", run, *small)
    refused(result, str(run), "disk is full", "same command", code=1)
    after = contents(run)
    for name in before.keys() - {".lock", "timings.jsonl", "report.html", "report.md", "results.json"}:
        assert after[name].startswith(before[name]) if name.endswith(".jsonl") else after[name] == before[name], name
    figures = json.loads(before["results.json"])  # PPO adds what it knows of its data
    assert json.loads(after["results.json"]) | {"prompt_overlap": figures["prompt_overlap"]} == figures
    filler.unlink()
    result = tiny("run", run, *small)
    assert result.exit_code == 0, result.output
    for file in ("metrics.jsonl", "samples.jsonl", "ppo/model/model.safetensors"):
        assert (run / file).read_bytes() == (whole / file).read_bytes(), file


def test_a_disk_that_fills_up_while_a_checkpoint_is_written(
    tiny: Tercet, small: list[str], taught: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shutil.copytree(taught, tmp_path / "run")
    before = contents(run)
    sync, calls = os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        refused(tiny("ppo", run, *small), "disk is full", code=1)
    after = contents(run)
    assert all(after[name] == data for name, data in before.items() if "model" in name)
    assert tiny("ppo", run, *small).exit_code == 0
