"""The digest of a step changes if and only if the data of the step changes."""

import json
from pathlib import Path

from tercet.config.load import load_lm_config
from tercet.lm.data.digests import digests

ROWS = [{"prompt": f"Is it {i}?", "chosen": f"Yes, {i}.", "rejected": f"No, {i}."} for i in range(20)]


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_every_text_counts_and_their_order_and_nothing_else(tmp_path: Path) -> None:
    file = write(tmp_path / "toy.jsonl", ROWS)
    config = load_lm_config("tiny", [f"data.train=[{file}]", "data.eval_fraction=0.3"])

    def all_digests() -> list[str]:
        return [digests(config, step)["toy"] for step in ("sft", "reward", "ppo")]

    before = all_digests()
    assert all_digests() == before
    for number in (0, 7, 19):  # learned from or held out
        for column in ("prompt", "chosen", "rejected"):
            changed = [*ROWS]
            changed[number] = changed[number] | {column: "Another."}
            write(file, changed)
            assert digests(config, "reward")["toy"] != before[1]
    write(file, ROWS[::-1])
    assert digests(config, "reward")["toy"] != before[1]
    write(file, [row | {"remark": "not read"} for row in ROWS])
    assert all_digests() == before


def test_each_set_has_a_digest_and_what_ppo_mixes_in_counts(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{name}.jsonl", ROWS) for name in ("one", "two")]
    texts = write(tmp_path / "texts.jsonl", [{"prompt": "a", "good": "b", "bad": "c"}])
    settings = [f"data.train=[{files[0]}]", f"data.sft=[{files[1]}]", f"eval.reward_texts={texts}"]
    config = load_lm_config("tiny", settings)
    assert [set(digests(config, step)) for step in ("sft", "ppo", "eval")] == [
        {"two"},
        {"one"},
        {"one", "reward_texts"},
    ]
    assert set(digests(load_lm_config("tiny", [*settings, "ppo.ptx_coef=0.1"]), "ppo")) == {"one", "two"}
