"""What a config accepts, and what it says about everything that it does not."""

import os
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tercet.config.allowed import all_keys
from tercet.config.lm import LmConfig
from tercet.config.load import load_lm_config
from tercet.errors import InputError


def problems(*overrides: str, preset: str | Path = "tiny") -> list[str]:
    with pytest.raises(InputError) as caught:
        load_lm_config(preset, overrides)
    first, *rest = str(caught.value).splitlines()
    return [line.strip() for line in rest] or [first]


def preset_file(folder: Path, text: str) -> Path:
    file = folder / "mine.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def test_overrides_change_the_preset():
    config = load_lm_config(
        "tiny", ["ppo.lr=1e-5", "ppo.epochs=3", "seed=7", "ppo.epochs=4", "ppo.whiten_advantages=false"]
    )
    assert (config.ppo.lr, config.ppo.epochs, config.seed, config.ppo.whiten_advantages) == (1e-5, 4, 7, False)
    assert config.ppo.num_updates == load_lm_config("tiny", []).ppo.num_updates


def test_a_section_override_keeps_its_other_keys():
    config = load_lm_config("tiny", ["ppo={lr: 1e-5, reward: {reward_model: 2.0}}", "eval={}"])
    assert (config.ppo.lr, config.ppo.reward) == (1e-5, {"reward_model": 2.0})
    assert (config.ppo.num_updates, config.eval.num_prompts) == (8, 32)  # the preset's, not the defaults
    with pytest.raises(InputError, match=r"ppo.clip_rage = 1 \(command line\): no such key; did you mean"):
        load_lm_config("tiny", ["ppo={clip_rage: 1}"])


def test_lists_and_weights_in_the_format_of_the_readme():
    config = load_lm_config(
        "tiny", ["data.split=2,4,4", "data.train=[a.jsonl, b.csv]", "data.eval=[{path: c.json, weight: 2}]"]
    )
    assert config.data.split == [2, 4, 4]
    assert [source.path for source in config.data.train] == ["a.jsonl", "b.csv"]
    assert config.data.eval[0].weight == 2


def test_text_fields_keep_text_that_looks_like_a_number_or_boolean():
    config = load_lm_config(
        "tiny", ["ppo.policy=350", "model.tokenizer=on", "judge=my.module:judge", 'reward.model="a b"']
    )
    assert (config.ppo.policy, config.model.tokenizer) == ("350", "on")
    assert (config.judge, config.reward.model) == ("my.module:judge", "a b")


def test_one_key_of_a_mapping_is_merged_into_the_default():
    config = load_lm_config("tiny", ["ppo.reward.my.module:score=0.5", "model.architecture.hidden_size=32"])
    assert config.ppo.reward == {"reward_model": 1.0, "my.module:score": 0.5}
    assert config.model.architecture["hidden_size"] == 32
    assert config.model.architecture["model_type"] == "opt"
    assert load_lm_config("tiny", ["ppo.reward={mine:score: 2}"]).ppo.reward == {"mine:score": 2.0}


def test_a_preset_file_and_exponents_without_a_dot(tmp_path: Path):
    file = preset_file(tmp_path, "seed: 3\nppo:\n  lr: 1e-5\nmodel:\n  architecture: {layer_norm_eps: 1e-5}\n")
    config = load_lm_config(file, [])
    assert (config.seed, config.ppo.lr) == (3, 1e-5)
    assert config.model.architecture == {"layer_norm_eps": 1e-5}
    assert load_lm_config(preset_file(tmp_path, "# nothing but defaults\n"), []) == LmConfig()


def test_all_problems_are_listed_with_place_key_value_and_remedy(tmp_path: Path):
    file = preset_file(tmp_path, "ppo:\n  lr: 0\n  clip_rnge: 0.1\ndata:\n  train:\n    - {path: a, wieght: 2}\n")
    assert problems("lora.dropout=1", "precision=fp8", preset=file) == [
        "precision = 'fp8' (command line): must be one of fp32, bf16, fp16",
        "lora.dropout = 1 (command line): must be a number, at least 0 and below 1",
        f"data.train[0].wieght = 2 ({file}, line 6): no such key; did you mean data.train[0].weight?",
        f"ppo.lr = 0 ({file}, line 2): must be a number, above 0 and at most 100",
        f"ppo.clip_rnge = 0.1 ({file}, line 3): no such key; did you mean ppo.clip_range?",
    ]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("ppo.clip_rage=0.2", "ppo.clip_rage = '0.2' (command line): no such key; did you mean ppo.clip_range?"),
        ("lr=1", "lr = '1' (command line): no such key; did you mean sft.lr or reward.lr or ppo.lr or dpo.lr?"),
        ("ppo.lr.x=1", "no such key"),
        ("zzz=1", "no such key; there are seed, device"),
        ("ppo.lr", "not an override; write key=value, such as ppo.lr=1e-5"),
        ("ppo.lr=abc", "ppo.lr = 'abc' (command line): must be a number, above 0 and at most 100"),
        ("data.train=[{path: ''}]", "data.train[0].path = '' (command line): must be text, not empty"),
        ("ppo.lr=.nan", "must be a number, above 0 and at most 100"),
        ("sft.epochs=1.5", "must be a whole number, at least 1"),
        ("ppo=3", "ppo = 3 (command line): must be a section of"),
        ("data.train=a.jsonl", "write data.train=[a.jsonl]"),
        ("data.train=[{name: x}]", "data.train[0].path (command line): missing"),
        ("data.split=2,4", "give three weights for sft, reward, ppo"),
        (
            "trackers=[wandb, excel]",
            "trackers[1] = 'excel' (command line): trackers must be a list of any of tensorboard",
        ),
        ("ppo.reward.mine:score=high", "ppo.reward must be a mapping from text to a number"),
        ("reward.model=[a", "not YAML"),
        ("=5", "'=5' (command line): not an override; write key=value"),
        ("ppo.=1", "ppo. = '1' (command line): no such key"),
        ("ppo.lr.=1", "ppo.lr. = '1' (command line): no such key"),
        ("ppo.reward.\udcff=1", "(command line): not an override"),
        ("ppo.reward={a: 1, a: 2}", "ppo.reward = '{a: 1, a: 2}' (command line): a is given twice; keep one"),
        ("seed=2024-13-45", "seed = '2024-13-45' (command line): must be a whole number"),
        ("seed=!!timestamp x", "the tag '!!timestamp' is not read"),
        ("seed=0b_", "seed = '0b_' (command line): must be a whole number"),
        ("seed=true", "seed = True (command line): must be a whole number"),
        ("seed=" + "9" * 5000, "a number of 5000 digits"),
        ("trackers=" + "[" * 2000, "nested more than 40 deep"),
        (
            "threads=999999999",
            "threads = 999999999 (command line): must be a whole number, at least 0 and at most 1024",
        ),
        (
            "data.train=[{path: a, weight: 1e-320}]",
            "data.train[0].weight = 1e-320 (command line): numbers other than 0",
        ),
    ],
)
def test_one_problem_is_one_line(override: str, said: str):
    lines = problems(override)
    assert len(lines) == 1
    assert said in lines[0]


def test_an_invalid_entry_of_a_union_is_one_problem():
    assert len(problems("model.architecture.x=[1]")) == 1


def test_a_key_given_twice_in_a_file(tmp_path: Path):
    file = preset_file(tmp_path, "ppo:\n  lr: 1\n  lr: 2\n")
    assert problems(preset=file) == [f"ppo.lr ({file}, line 3): given twice in this file; keep one"]


def test_presets_that_cannot_be_read(tmp_path: Path):
    names = "count, hacked, opt-1.3b, opt-350m, smollm2, tiny"
    assert f"did you mean tiny? there are {names}" in problems(preset="tinny")[0]
    assert "cannot be read: No such file" in problems(preset=tmp_path / "absent.yaml")[0]
    assert "line 2: not YAML" in problems(preset=preset_file(tmp_path, "ppo: [\n"))[0]
    assert "must be sections of keys" in problems(preset=preset_file(tmp_path, "hello"))[0]
    broken = tmp_path / "broken.yaml"
    broken.write_bytes(b"judge: \xff\xfe")
    assert "not UTF-8" in problems(preset=broken)[0]


def test_invalid_preset_paths_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    for preset, said in {
        "a" * 300: "no preset 'aaa",
        "a\0b": "no preset 'a\\x00b'",
        "a\nb": "no preset 'a\\nb'; there are",
        "\udcff": "no preset '\\udcff'",
        "": "no preset ''",
        str(tmp_path): "no preset",
        str(tmp_path / "pipe.yaml"): "is not a regular file",
        "a" * 300 + ".yaml": "File name too long",
    }.items():
        (line,) = problems(preset=preset)
        assert said in line


def test_a_value_in_place_of_a_section_is_named(tmp_path: Path) -> None:
    (problem,) = problems("ppo.lr=1", preset=preset_file(tmp_path, "ppo: 3\n"))
    assert problem.startswith("ppo = 3") and "must be a section" in problem


def test_the_number_of_listed_problems_is_limited(tmp_path: Path) -> None:
    file = preset_file(tmp_path, "".join(f"k{i}: 1\n" for i in range(1000)))
    assert len(problems(preset=file)) == 20


@given(st.sampled_from(sorted(all_keys(LmConfig))), st.text(max_size=12))
def test_any_override_loads_or_raises_an_input_error(key: str, value: str):
    try:
        config = load_lm_config("tiny", [f"{key}={value}"])
    except InputError as error:
        assert str(error).startswith(key) or "problems in the config" in str(error)
    else:
        assert LmConfig.model_validate(yaml.safe_load(yaml.safe_dump(config.model_dump()))) == config
