import json
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tercet.errors import FailedError, InputError
from tercet.report import page

# stands in two texts of the synthetic run; here as a page shows it
HOSTILE = '<script>alert("x")</script> & | `code` **bold** ␀␛\nsecond line'
VOID = {"meta", "path", "rect", "use", "br"}
Change = Callable[[Callable[[dict[str, Any]], None]], Path]  # Any: JSON


class Parsed(HTMLParser):
    """Tags, ids, attributes and texts of a page; a wrongly nested tag is an assertion error."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.links += [value or "" for name, value in attrs if name in ("href", "src", "xlink:href")]

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture(scope="module")
def html(written: Path) -> str:
    return (written / "report.html").read_text()


@pytest.fixture(scope="module")
def markdown(written: Path) -> str:
    return (written / "report.md").read_text()


def test_the_first_sentence_says_what_happened(html: str, markdown: str) -> None:
    says = "PPO beat SFT on 87% of 128 held-out prompts (95% interval 81% to 93%), at a KL of 6.13 nats per answer."
    assert says in html
    assert f"**{says}**" in markdown


def test_every_curve_and_table_of_a_finished_run_is_there(html: str, markdown: str) -> None:
    wanted = [
        "Clipped scores",
        "Actor loss", "Critic loss", "Reward", "KL to the reference", "Entropy", "Clip fraction", "Explained variance",
        "Answer length", "SFT loss", "Reward-model loss", "Calibration", "Who wins", "Stage by stage",
        "Good and bad answers to the same prompt", "Self-check before the first update", "As training went on",
        "Where PPO lost most", "git_commit", "max_response_tokens", "−12.40", "12.88",
    ]  # fmt: skip
    for one in wanted:
        assert one in html
        assert one.replace("_", r"\_") in markdown or one in markdown


def test_html_is_well_nested_and_its_ids_are_unique(html: str) -> None:
    parsed = Parsed(html)
    assert len(parsed.ids) == len(set(parsed.ids))
    assert parsed.tags.count("svg") > 12


def test_html_needs_nothing_from_anywhere(html: str) -> None:
    parsed = Parsed(html)
    assert not {"script", "link", "img", "iframe"} & set(parsed.tags)
    assert all(link.startswith("#") for link in parsed.links)
    assert {link[1:] for link in parsed.links} <= set(parsed.ids)
    assert "@import" not in html
    assert "url(http" not in html


def test_hostile_texts_stay_texts_in_html(html: str) -> None:
    parsed = Parsed(html)
    assert "script" not in parsed.tags
    assert HOSTILE in parsed.texts
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", html)


def test_hostile_texts_stay_texts_in_markdown(markdown: str) -> None:
    assert "<script" not in markdown
    assert r"&lt;script&gt;" in markdown
    for table in re.findall(r"(?:^\|.*\n)+", markdown, flags=re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


def test_the_page_follows_light_and_dark(html: str) -> None:
    assert "prefers-color-scheme: dark" in html
    plots = re.findall(r"<svg xmlns:xlink.*?</svg>", html, flags=re.DOTALL)
    assert plots
    assert not any(re.search(r"#[0-9a-f]{6}\b", plot) for plot in plots)  # every colour is a variable of the page


def test_the_same_run_gives_the_same_page(written: Path, html: str) -> None:
    assert page.write(written).read_text() == html


def test_a_run_that_has_only_begun_is_reported(finished: Path) -> None:
    for name in ("metrics.jsonl", "samples.jsonl", "results.json"):
        (finished / name).unlink()
    for file in (finished / "eval").iterdir():
        file.unlink()
    html = page.write(finished).read_text()
    assert "No step has been run yet" in html
    assert html.count("not run yet") == 3


def test_a_run_under_way_is_reported_up_to_its_torn_last_line(finished: Path) -> None:
    metrics = (finished / "metrics.jsonl").read_text().splitlines(keepends=True)
    (finished / "metrics.jsonl").write_text("".join(metrics[:30]) + metrics[30][:25])
    (finished / "results.json").unlink()
    html = page.write(finished).read_text()
    assert "In progress: sft so far" in html
    assert "in 30 steps" in html
    assert "Critic loss" not in html


def test_a_reward_model_alone_is_reported(change: Change) -> None:
    def only_reward(tree: dict[str, Any]) -> None:
        for key in set(tree) - {"reward_model"}:
            del tree[key]

    run = change(only_reward)
    rows = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(row for row in rows if json.loads(row)["step"] == "reward"))
    html = page.write(run).read_text()
    outcome = re.search(r'class="outcome">(.*?)</p>', html)
    assert outcome
    assert outcome[1].startswith("The reward model picks the preferred answer in 81% of 240 held-out pairs")
    assert html.count("not run yet") == 2


def test_a_single_update_is_enough_for_a_page(finished: Path) -> None:
    rows = [json.loads(row) for row in (finished / "metrics.jsonl").read_text().splitlines()]
    (finished / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows if row["index"] == 0))
    assert "Critic loss" in page.write(finished).read_text()


def test_several_sets_learned_one_after_another_show_what_was_forgotten(change: Change) -> None:
    def sequential(tree: dict[str, Any]) -> None:
        tree["reward_model"]["forgetting"] = [
            {"after": name, "accuracy": {"webgpt": a, "SHP": b}}
            for name, a, b in (("webgpt", 0.71, 0.52), ("SHP", 0.64, 0.69))
        ]

    markdown = (page.write(change(sequential)).parent / "report.md").read_text()
    assert "| after webgpt | 52% | 71% |" in markdown
    assert "| after SHP | 69% | 64% |" in markdown


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config\.yaml"):
        page.write(tmp_path)


def test_broken_evaluation_files_are_named(finished: Path) -> None:
    (finished / "eval" / "held_out.json").write_text('[{"prompt": "a",\n]')
    with pytest.raises(FailedError, match=r"held_out\.json: damaged.*line 2.*tercet lm eval"):
        page.write(finished)


def test_the_report_needs_no_torch(finished: Path) -> None:
    code = "import sys; from pathlib import Path; from tercet.report import page; page.write(Path(sys.argv[1])); "
    done = subprocess.run(
        [sys.executable, "-c", code + "sys.exit('torch' in sys.modules)", str(finished)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
