"""The presets for real models, end to end, with small random weights of those architectures and local files."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import yaml
from click.testing import Result
from transformers import AutoConfig, OPTConfig, OPTForCausalLM

from tercet.config.load import load_lm_config
from tercet.lm.data.splits import STEPS, step_examples
from tercet.lm.text.tokenizers import byte_tokenizer
from tercet.train.chance import seed_everything

Tercet = Callable[..., Result]
Row = dict[str, Any]  # Any: JSON

VOCABULARY = 50272  # of the real OPT


def opt_folder(path: Path, vocab_size: int, **shape: object) -> Path:
    """A random OPT with a byte tokenizer, as a download would lie there."""
    config = OPTConfig(
        vocab_size=vocab_size,
        num_hidden_layers=2,
        num_attention_heads=2,
        ffn_dim=32,
        max_position_embeddings=2048,
        **shape,
    )
    seed_everything(0, "weights")
    OPTForCausalLM(config).save_pretrained(path)
    byte_tokenizer().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def opt_350m(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Layer norm behind the sums, the word embedding narrower than the layers, all 50272 words."""
    path = tmp_path_factory.mktemp("models") / "opt-350m"
    return opt_folder(path, VOCABULARY, hidden_size=32, word_embed_proj_dim=16, do_layer_norm_before=False)


@pytest.fixture(scope="module")
def opt_1_3b(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Layer norm in front, embedding as wide as the layers."""
    return opt_folder(tmp_path_factory.mktemp("models") / "opt-1.3b", 260, hidden_size=32, word_embed_proj_dim=32)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Local files with the columns of the presets' sets, under their names and in several formats."""
    folder = tmp_path_factory.mktemp("sets")
    return {
        "Dahoas/rm-static": _jsonl(folder / "rm-static.jsonl", [_dahoas(f"sea {i}") for i in range(60)]),
        "Dahoas/full-hh-rlhf": _parquet(folder / "full-hh-rlhf.parquet", [_dahoas(f"hill {i}") for i in range(40)]),
        "Dahoas/synthetic-instruct-gptj-pairwise": _csv(
            folder / "synthetic-instruct-gptj-pairwise.csv",
            [{"prompt": f"Name river {i}.", "chosen": f"River {i}.", "rejected": "Dunno"} for i in range(40)],
        ),
        "yitingxie/rlhf-reward-datasets": _jsonl(
            folder / "rlhf-reward-datasets.jsonl",
            [
                {
                    "prompt": f"\n\nHuman: Is lake {i} deep?\n\nAssistant: ",
                    "chosen": f"Assistant: Lake {i} is.",
                    "rejected": "Assistant: Who cares",
                }
                for i in range(40)
            ],
        ),
    }


def _dahoas(thing: str) -> Row:
    """A row with the columns of rm-static and full-hh-rlhf."""
    answers = {"chosen": f" The {thing} is blue.", "rejected": " Leave me alone"}
    return {"prompt": f"\n\nHuman: Tell me of {thing}.\n\nAssistant:", "response": answers["chosen"], **answers}


def _jsonl(path: Path, rows: list[Row]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _csv(path: Path, rows: list[Row]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def _parquet(path: Path, rows: list[Row]) -> Path:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def local(preset: str, sets: dict[str, Path]) -> list[str]:
    """Overrides that put the local file in place of each set that the preset names."""
    file = Path(__file__).parents[2] / "src" / "tercet" / "presets" / "lm" / f"{preset}.yaml"
    data = yaml.safe_load(file.read_text())["data"]
    return [
        f"data.{step}={json.dumps([str(sets[name]) for name in data[step]])}"
        for step in ("train", "sft", "reward", "ppo")
        if step in data
    ]


FEW_STEPS = [
    *("data.max_prompt_tokens=64", "data.max_response_tokens=16", "data.eval_fraction=0.3"),
    "ppo.max_response_tokens=16",
    *("sft.batch_size=4", "sft.micro_batch_size=2", "sft.max_steps=2", "sft.num_eval=8"),
    *("reward.batch_size=4", "reward.micro_batch_size=2", "reward.max_steps=6", "reward.num_eval=8"),
    *("reward.num_reference_samples=4", "ppo.batch_size=4", "ppo.micro_batch_size=2", "ppo.num_updates=2"),
    "ppo.max_response_tokens=16",
    *("ppo.critic_warmup_updates=1", "ppo.num_eval_prompts=2", "ppo.eval_every=1"),
    *("eval.num_prompts=4", "eval.max_response_tokens=4"),
]


def run(tercet: Tercet, preset: str, out: Path, *overrides: str) -> Row:
    """What the whole run leaves in results.json."""
    result = tercet("lm", "run", "--preset", preset, "--out", out, *FEW_STEPS, *overrides)
    assert result.exit_code == 0, result.output
    return json.loads((out / "results.json").read_text())


@pytest.mark.slow
def test_opt_350m_learns_three_sets_one_after_another_and_shows_what_it_forgot(
    tercet: Tercet, opt_350m: Path, sets: dict[str, Path], tmp_path: Path
) -> None:
    # on a CPU, a product with 50272 words takes many times longer in bf16
    settings = [f"model.path={opt_350m}", "precision=fp32", *local("opt-350m", sets)]
    results = run(tercet, "opt-350m", tmp_path / "run", *settings)
    names = ["rm-static", "full-hh-rlhf", "synthetic-instruct-gptj-pairwise"]
    matrix = results["reward_model"]["forgetting"]
    assert [stage["after"] for stage in matrix] == names
    assert all(set(stage["accuracy"]) == set(names) for stage in matrix)
    assert set(results["reward_model"]["accuracy"]) == set(names)
    last = {name: interval["mean"] for name, interval in results["reward_model"]["accuracy"].items()}
    assert matrix[-1]["accuracy"] == last
    assert results["win_rate"]["ppo_vs_sft"].keys() == {"reward_model"}  # no judge is named
    config = AutoConfig.from_pretrained(tmp_path / "run" / "ppo" / "model")
    assert (config.vocab_size, config.word_embed_proj_dim, config.do_layer_norm_before) == (VOCABULARY, 16, False)
    assert AutoConfig.from_pretrained(tmp_path / "run" / "reward" / "model").word_embed_proj_dim == 16


@pytest.mark.slow
def test_opt_1_3b_learns_four_sets_mixed_with_a_reward_model_of_another_shape(
    tercet: Tercet, opt_350m: Path, opt_1_3b: Path, sets: dict[str, Path], tmp_path: Path
) -> None:
    models = [f"model.path={opt_1_3b}", f"reward.model={opt_350m}", "lora.rank=8"]
    results = run(tercet, "opt-1.3b", tmp_path / "run", *models, *local("opt-1.3b", sets))
    assert [stage["after"] for stage in results["reward_model"]["forgetting"]] == ["mixed"]
    assert set(results["reward_model"]["forgetting"][0]["accuracy"]) == {path.stem for path in sets.values()}
    actor, judge = (AutoConfig.from_pretrained(tmp_path / "run" / step / "model") for step in ("ppo", "reward"))
    assert (actor.do_layer_norm_before, judge.do_layer_norm_before) == (True, False)
    assert (actor.vocab_size, judge.vocab_size) == (260, VOCABULARY)


@pytest.mark.parametrize("preset", ["opt-350m", "opt-1.3b"])
def test_each_step_of_a_preset_gets_prompts_of_its_own(preset: str, sets: dict[str, Path]) -> None:
    data = load_lm_config(preset, [*local(preset, sets), "data.eval_fraction=0.3"]).data
    assert data.split == [2, 4, 4]
    dealt = [step_examples(data, step) for step in STEPS]
    learned = [{e.key for rows in part.train.values() for e in rows} for part in dealt]
    measured = {e.key for part in dealt for rows in [*part.test.values(), *part.validation.values()] for e in rows}
    assert all(learned)
    assert sum(map(len, learned)) == len(set.union(*learned))
    assert not measured & set.union(*learned)
