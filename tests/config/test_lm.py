"""The checks of the language config across several keys."""

import re
from pathlib import Path

import pytest

from tercet.config.lm import LmConfig, PpoConfig
from tercet.config.load import load_lm_config
from tercet.config.plain_yaml import dump
from tercet.config.ppo import SETTINGS
from tercet.errors import InputError


def problems(*overrides: str, preset: str | Path = "tiny") -> list[str]:
    with pytest.raises(InputError) as caught:
        load_lm_config(preset, overrides)
    first, *rest = str(caught.value).splitlines()
    return [line.strip() for line in rest] or [first]


def test_inconsistent_values_are_named_together() -> None:
    for overrides, wanted in (
        (["ppo.num_minibatches=17"], r"ppo \(.*\): num_minibatches=17 of batch_size=16 would be empty"),
        (["lora.shared_backbone=true"], r"lora.shared_backbone = True \(command line\): .*set lora.rank"),
        (
            ["lora.rank=4", "lora.shared_backbone=true", "reward.model=other"],
            r"reward \(.*\): model='other' cannot share the SFT policy's weights",
        ),
        (["ppo.algorithm=grpo", "ppo.group_size=1"], r"ppo \(.*\): algorithm=grpo compares the responses of a group"),
        (["ppo.algorithm=rloo", "ppo.group_size=5"], r"batch_size=16 responses are not groups of group_size=5"),
        (["ppo.max_redraws=2"], r"max_redraws=2 is for groups, but algorithm=ppo has none"),
        (
            ["ppo.algorithm=dapo", "ppo.kl_target=4", "ppo.kl_horizon=99"],
            r"kl_target=4 adapts kl_coef, .* kl_penalty=none",
        ),
        (["shard=true", "lora.rank=4", "lora.shared_backbone=true"], r"shard=true .*; set lora.shared_backbone=false"),
        (["shard=true", "ppo.sampler=vllm"], r"shard=true: ppo.sampler=vllm reads whole weights; set ppo.sampler=own"),
        (["ppo.kl_target=4", "ppo.kl_horizon=3"], r"ppo \(.*\): kl_horizon=3 must be above 0.2 \* batch_size=3.2"),
    ):
        with pytest.raises(InputError, match=wanted):
            load_lm_config("tiny", overrides)


def test_a_chat_template_is_text_or_a_file(tmp_path: Path) -> None:
    text = "{% for m in messages %}{{ m.content }}!{% endfor %}"
    file = tmp_path / "template.jinja"
    for given_as, encoding in ((text, "utf-8"), (str(file), "utf-8"), (str(file), "utf-8-sig")):  # with a BOM too
        file.write_text(text, encoding=encoding)
        config = load_lm_config("tiny", [f"model.chat_template={given_as!r}"])
        assert config.model.chat_template == text
    file.unlink()
    assert LmConfig.model_validate(config.model_dump()).model.chat_template == text  # a run needs the file no more


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("nowhere.jinja", None, "not Jinja text .*, and no readable file: .*No such file"),
        ("empty.jinja", "", "the file is not a Jinja template"),
        ("tokenizer_config.json", '{"chat_template": "{{ messages }}"}', "contains only the template"),
        ("latin.jinja", b"\xe9 {{ messages }}", "and no readable file: not UTF-8 text"),
    ],
)
def test_an_invalid_chat_template_is_refused(name: str, content: str | bytes | None, what: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    (problem,) = problems(f"model.chat_template={tmp_path / name}")
    assert problem.startswith("model.chat_template = ") and re.search(what, problem)


def test_another_model_uses_its_own_tokenizer() -> None:
    assert load_lm_config("tiny", ["model.path=X"]).model.tokenizer == ""


@pytest.mark.parametrize(
    ("overrides", "what"),
    [
        (["ppo.watch=[base_model]"], "'base_model' cannot be watched; give module:function, or the folder"),
        (["ppo.watch=[gold]", "ppo.reward={./gold: 1}"], "ppo.watch: 'gold' takes part in training"),
        (["eval.unseen_judges=[gold]", "reward.model=gold"], "eval.unseen_judges: 'gold' takes part in training"),
        (["ppo.watch=['mine:asks', 'theirs:asks']"], "two judges have the name 'asks' in metrics"),
        (["ppo.watch=['mine:paid']", "ppo.reward={'mine:paid': 1}"], "ppo.watch: 'mine:paid' takes part in training"),
        (["ppo.watch=['mine:asks']", "judge=mine:asks"], "ppo.watch: 'mine:asks' takes part in training"),
        (["ppo.stop_on={'mine:asks': 0.1}"], "'mine:asks' is not measured; add it to ppo.watch"),
        (["ppo.watch=['mine:asks']", "ppo.stop_on={'mine:asks': 0}"], "a fall must be above 0"),
        (
            ["ppo.watch=['mine:asks']", "ppo.stop_on={'mine:asks': 0.1}", "eval.unseen_judges=['mine:asks']"],
            "eval.unseen_judges: 'mine:asks' takes part in training, by judge, reward.model, ppo.reward or ppo.stop_on",
        ),
    ],
)
def test_a_watched_judge_teaches_nothing_and_one_that_stops_training_is_not_unseen(
    overrides: list[str], what: str
) -> None:
    with pytest.raises(InputError, match=what):
        load_lm_config("tiny", overrides)


def test_a_judge_may_be_watched_and_unseen() -> None:
    config = load_lm_config("tiny", ["ppo.watch=['mine:asks', gold]", "eval.unseen_judges=['mine:asks', gold]"])
    assert config.ppo.stop_on == {}


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"judge": ""}, "reward.num_rounds=1 needs a judge of new pairs"),
        ({"ppo": {"reward": {"mine:calm": 1.0}}}, "ppo.reward does not use reward_model"),
        ({"lora": {"rank": 4, "shared_backbone": True}}, "set lora.shared_backbone=false"),
    ],
)
def test_rounds_without_what_they_need_are_refused(changed: dict[str, object], what: str) -> None:
    tree = {"judge": "person", "reward": {"num_rounds": 1}}
    assert LmConfig.model_validate(tree).reward.num_rounds == 1
    with pytest.raises(ValueError, match=what):
        LmConfig.model_validate(tree | changed)


def test_an_algorithm_sets_its_combination_and_other_overrides_come_after_it(tmp_path: Path) -> None:
    ppo = load_lm_config("tiny", ["ppo.clip_range=0.1", "ppo.algorithm=gspo", "ppo.group_size=4"]).ppo
    assert (ppo.algorithm, ppo.group_size, ppo.clip_range, ppo.clip_range_high) == ("gspo", 4, 0.1, 4e-4)
    assert (ppo.ratio_of, ppo.mean_over, ppo.kl_penalty) == ("response_mean", "responses", "none")
    again = load_lm_config("tiny", ["ppo={algorithm: dapo, max_redraws: 1}"]).ppo
    assert (again.algorithm, again.group_size, again.max_redraws, again.clip_range_high) == ("dapo", 8, 1, 0.28)


def test_an_algorithm_on_the_command_line_replaces_the_combination_of_a_recorded_config(tmp_path: Path) -> None:
    """A recorded config holds every key: those of its algorithm must not be left for another one."""
    file = tmp_path / "config.yaml"
    file.write_text(dump(load_lm_config("tiny", ["ppo.kl_coef=0.3"]).model_dump(mode="json")))
    assert load_lm_config(file, []) == load_lm_config("tiny", ["ppo.kl_coef=0.3"])
    assert load_lm_config(file, ["ppo.algorithm=grpo"]) == load_lm_config(
        "tiny", ["ppo.kl_coef=0.3", "ppo.algorithm=grpo"]
    )
    assert load_lm_config(file, ["ppo.algorithm=grpo"]).ppo.group_size == 8


@pytest.mark.parametrize("name", ["ppo", "grpo"])
def test_naming_the_algorithm_that_a_preset_has_keeps_the_settings_of_the_preset(name: str, tmp_path: Path) -> None:
    """As a comparison does for each algorithm."""
    file, algorithm = tmp_path / "mine.yaml", "" if name == "ppo" else f"  algorithm: {name}\n"
    file.write_text(f"ppo:\n{algorithm}  clip_range: 0.1\n")
    assert load_lm_config(file, [f"ppo.algorithm={name}"]) == load_lm_config(file, [])
    assert load_lm_config(file, [f"ppo.algorithm={name}"]).ppo.clip_range == 0.1
    assert load_lm_config(file, ["ppo.algorithm=rloo"]).ppo.clip_range == 0.2


def test_a_file_that_names_an_algorithm_gets_its_combination(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("ppo:\n  algorithm: grpo\n  group_size: 2\n")
    ppo = load_lm_config(file, []).ppo
    assert (ppo.group_size, ppo.kl_penalty, ppo.mean_over, ppo.has_critic) == (2, "k3", "responses", False)


def test_the_defaults_are_those_of_ppo() -> None:
    assert PpoConfig() == PpoConfig(algorithm="ppo") and PpoConfig().has_critic
    assert all(settings.keys() == SETTINGS["ppo"].keys() for settings in SETTINGS.values())
    assert all(getattr(PpoConfig(), name) == value for name, value in SETTINGS["ppo"].items())


def test_an_unknown_algorithm_is_refused_with_those_there_are() -> None:
    (problem,) = problems("ppo.algorithm=grp")
    assert problem == (
        "ppo.algorithm = 'grp' (command line): must be one of ppo, rloo, grpo, dr_grpo, dapo, gspo, reinforce++"
    )
