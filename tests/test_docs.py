"""The docs say what is true: every command, key, link, file, function, signature and name in them exists."""

import ast
import re
import shlex
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from tercet.cli import app
from tercet.config.allowed import all_keys
from tercet.config.arm import ArmConfig
from tercet.config.lm import LmConfig
from tercet.config.load import load_arm_config, load_lm_config, load_robot_config, preset_names
from tercet.errors import InputError
from tercet.runs.folder import RunFolder

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "tercet"
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
NOT_BUILT: set[str] = set()  # commands that the docs name as not there yet

# each domain's loader, tree, and a preset to lay overrides over
TREES: dict[str, Any] = {  # Any: of two config classes
    "lm": (load_lm_config, LmConfig, "tiny"),
    "arm": (load_arm_config, ArmConfig, "reach"),
}

_FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def prose(name: str) -> str:
    """A page without its fenced blocks."""
    return _FENCE.sub("", text_of(name))


def spans(name: str) -> list[str]:
    """What stands between single backticks."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(name))]


def blocks(name: str, kind: str) -> list[str]:
    return [body for info, body in _FENCE.findall(text_of(name)) if info == kind]


def commands(name: str) -> Iterator[list[str]]:
    """The words of every command in the page's shell blocks, and of commands in its sentences."""
    lines = [line for block in blocks(name, "sh") for line in block.replace("\\\n", " ").splitlines()]
    lines += [span for span in spans(name) if span.startswith(("tercet ", "make "))]
    for line in lines:
        words = shlex.split(line, comments=True)
        if words:
            yield words


@pytest.mark.parametrize("name", NAMES)
def test_commands_are_ones_that_the_command_line_takes(name: str) -> None:
    targets = set(re.findall(r"^([a-z]+):", text_of("Makefile"), re.MULTILINE))
    for words in commands(name):
        if words[0] == "make":
            assert words[1] in targets, words
        elif words[0] == "tercet":
            assert words[1] in NOT_BUILT or parse(words[1:])
        elif words[0] == "torchrun":
            assert parse(words[words.index("tercet") + 1 :])
        else:
            assert words[0] in {"source", "rm"}, words


def test_the_pages_hold_commands_blocks_and_names_to_check() -> None:
    assert sum(len(list(commands(name))) for name in NAMES) > 60
    assert all(sum(len(blocks(name, kind)) for name in NAMES) > 2 for kind in ("sh", "yaml", "python"))
    assert sum("::" in span for name in NAMES for span in spans(name)) > 100


def parse(words: list[str]) -> bool:
    """True where the command line takes the words, and the config its overrides; nothing is run."""
    domain = words[0] if words and words[0] in TREES else "lm"
    command: Any = get_command(app)  # Any: typer's groups and commands, which have no common type of its own
    while hasattr(command, "commands") and words:
        name, *words = words
        if name not in command.commands:
            return False
        command = command.commands[name]
    if hasattr(command, "commands"):
        return True  # a group on its own, such as `tercet lm`
    given = command.make_context(command.name, words).params  # raises on an unknown option
    if "robot" in given:  # without it, calibrate starts from so101
        load_robot_config(given["robot"] or "so101", given.get("overrides") or [])
    if "preset" in given:
        pairs = given.get("overrides") or [text for text in given.get("arguments") or [] if "=" in text]
        load, _, some = TREES[domain]
        # a preset that is a placeholder or a file of the reader's own cannot be read
        load(given["preset"] if given["preset"] in preset_names(domain) else some, pairs)
    return True


def loads(overrides: list[str]) -> bool:
    """Whether the overrides are ones of either domain, on its own preset or on that of policies from pictures."""
    for load, preset in [*((load, preset) for load, _, preset in TREES.values()), (load_arm_config, "lift-eyes")]:
        try:
            load(preset, overrides)
            return True
        except InputError:
            continue
    return False


@pytest.mark.parametrize("name", NAMES)
def test_keys_and_overrides_in_sentences_exist(name: str) -> None:
    keys = {key for _, tree, _ in TREES.values() for key in all_keys(tree)}
    for span in spans(name):
        found = re.fullmatch(r"((?:model|lora|data|sft|policy|bc|reward|ppo|eval)\.[a-z_]+)(=.*)?", span)
        if found and not span.endswith((".md", ".py", ".json", ".jsonl", ".safetensors", ".yaml")):
            assert found[1] in keys, span
        if found and found[2] and not re.search(r"FILE|FOLDER|\.\.\.", span):
            assert loads(shlex.split(span)), span


@pytest.mark.parametrize("name", NAMES)
def test_yaml_is_a_config(name: str, tmp_path: Path) -> None:
    for block in blocks(name, "yaml"):
        file = tmp_path / "mine.yaml"
        file.write_text(block, encoding="utf-8")
        (load_arm_config if Path(name).name.startswith("arm") else load_lm_config)(file, [])


@pytest.mark.parametrize("name", NAMES)
def test_relative_links_resolve_to_files_and_headings(name: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(name)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, heading = target.partition("#")
        file = (ROOT / name).parent / path if path else ROOT / name
        assert file.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in {anchor(title) for title in titles}, target


def anchor(title: str) -> str:
    """The id that a heading gets: lower case, hyphens for spaces, no marks."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


@pytest.mark.parametrize("name", NAMES)
def test_files_and_functions_named_in_code_exist(name: str) -> None:
    fenced = "\n".join(body for info, body in _FENCE.findall(text_of(name)) if info == "text")
    named = [*spans(name), *re.findall(r"[\w/.]+\.py::[\w.]+", fenced)]
    for span in named:
        found = re.fullmatch(r"((?:[\w-]+/)*[\w-]+\.py)(?:::([\w.]+))?", span)
        if not found or span in {"my_arm.py", "my_rewards.py", "my_tasks.py", "utils.py"}:
            continue
        file = next((base / found[1] for base in (SOURCE, ROOT) if (base / found[1]).is_file()), None)
        assert file is not None, f"{name}: no file {found[1]}"
        if found[2]:
            assert found[2] in definitions(file), f"{name}: no {found[2]} in {found[1]}"


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("ppo.md")])
def test_signatures_are_those_of_the_source(name: str) -> None:
    checked = 0
    for span in spans(name):
        found = re.fullmatch(r"(\w+)\(([\w, *]+)\)", span)
        if found:
            files = [definitions(file) for file in (SOURCE / "core").glob("*.py")]
            there = [known[found[1]] for known in files if found[1] in known]
            assert [part.strip() for part in found[2].split(",")] in there, span
            checked += 1
    assert checked >= 5


@lru_cache
def definitions(file: Path) -> dict[str, list[str]]:
    """Every function, class and method of a file, with its parameters, `*` in front of those by keyword."""
    found: dict[str, list[str]] = {}
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        found |= _defined(node, "")
    return found


def _defined(node: ast.stmt, prefix: str) -> dict[str, list[str]]:
    if isinstance(node, ast.ClassDef):
        inner = [_defined(child, f"{node.name}.") for child in node.body]
        return {prefix + node.name: [], **{name: args for part in inner for name, args in part.items()}}
    if isinstance(node, ast.FunctionDef):
        keywords = [arg.arg for arg in node.args.kwonlyargs]
        return {prefix + node.name: [arg.arg for arg in node.args.args] + (["*", *keywords] if keywords else [])}
    return {}


def test_every_source_file_has_its_line_in_the_architecture() -> None:
    text = text_of("ARCHITECTURE.md")
    files = {str(file.relative_to(SOURCE)) for file in SOURCE.rglob("*.py") if file.name != "__init__.py"}
    missing = [name for name in files if f"`{name}`" not in text and f"`{name}::" not in text]
    assert not [name for name in missing if name != "errors.py"], missing


@pytest.mark.parametrize("name", [name for name in NAMES if Path(name).name != "api.md"])  # tests/test_api.py runs it
def test_python_in_the_docs_runs(name: str) -> None:
    for block in blocks(name, "python"):
        exec(compile(block, name, "exec"), {})  # our own page, and the point is to run it


def test_messages_in_troubleshooting_are_those_of_the_source() -> None:
    files = [*SOURCE.rglob("*.py"), ROOT / "Makefile"]
    source = "\n".join(file.read_text(encoding="utf-8") for file in files).replace("`", "")
    source = re.sub(r"\"\s*\n\s*f?\"", "", source)  # a message written in several pieces
    for line in text_of("docs/troubleshooting.md").splitlines():
        cells = line.split("|")
        if line.startswith("| `") and len(cells) > 3:
            for message in re.findall(r"`([^`]+)`", cells[1]):
                for piece in message.split("..."):
                    assert piece.strip() in source, message


PLACEHOLDERS = {
    "<set>": r"chatterbot",
    "<stage>": r"(base|sft|ppo|dpo|best-of-2)",
    "<step>": r"(sft|reward|ppo|dpo|compare|eval)",
    "<pair>": r"(sft|ppo|dpo|best-of-2)_vs_(base|sft|ppo|dpo)",
    "<by>": r"(judge|reward_model)",
    "<term>": r"(reward_model|tercet\.lm\.preferences\.judge:polite_and_to_the_point)",
}


def documented(heading: str, name: str) -> list[str]:
    """The names in the first column of the table under a heading of a page."""
    part = text_of(name).split(f"\n## {heading}\n")[1].split("\n## ")[0]
    cells = [line.split("|")[1] for line in part.splitlines() if line.startswith("| `")]
    return [span for cell in cells for span in re.findall(r"`([^`]+)`", cell)]


def as_pattern(name: str) -> str:
    pattern = re.escape(name)
    for placeholder, meaning in PLACEHOLDERS.items():
        pattern = pattern.replace(re.escape(placeholder), meaning)
    return pattern


def leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[str]:  # Any: JSON
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key


# written with ppo.stop_on, reward.num_rounds, ppo.watch, ppo.sampler, ppo.importance_cap, without a critic, and for
# reward functions that return several scores or none
SOMETIMES = (
    *("stopped.", "rounds.", "ppo/watch", "ppo/sampler_mismatch", "ppo/importance_weight"),
    *("ppo/equal_groups", "ppo/drawn_groups", "ppo/kl_loss", "ppo/named", "ppo/unscored"),
    *("ppo/actor_loss_scale", "ppo/critic_loss_scale"),  # this and what follows: in fp16
    *(f"{step}/{name}" for step in ("sft", "reward", "ppo", "dpo") for name in ("loss_scale", "skipped_steps")),
)


@pytest.mark.slow
def test_a_run_writes_the_files_and_names_that_the_docs_have(tmp_path: Path) -> None:
    from tercet.lm import pipeline  # torch and transformers: the other tests do without

    small = "sft.max_steps=1 reward.num_sampled_pairs=16 reward.max_steps=1 sft.num_eval=8 ppo.num_updates=2 "
    small += "ppo.ptx_coef=0.1 ppo.batch_size=4 ppo.num_eval_prompts=4 eval.num_prompts=4 eval.max_response_tokens=4 "
    small += "dpo.max_steps=1 dpo.num_eval=8 eval.best_of_n=2 ppo.max_sampled_tokens=1000000 "
    small += "lora.rank=2 lora.shared_backbone=true"  # so that every file of the table is there
    reward = "ppo.reward={reward_model: 1.0, 'tercet.lm.preferences.judge:polite_and_to_the_point': 0.5}"
    config, path = load_lm_config("tiny", [*small.split(), reward]), tmp_path / "run"
    with RunFolder.open(path, config, preset="tiny") as folder:
        for step in ("sft", "dpo"):
            pipeline.run_step(folder, config, step)
        pipeline.run(folder, config)
        pipeline.run_step(folder, config, "compare")
        written = {
            "results.json": set(leaves(folder.results())),
            "metrics.jsonl": {name for row in folder.metrics() for name in row} - {"step", "index"},
        }
    for page in ("docs/runs.md", "docs/zh/runs.md"):
        for file, names in written.items():
            patterns = {name: as_pattern(name) for name in documented(file, page)}
            assert [n for n in names if not any(re.fullmatch(p, n) for p in patterns.values())] == [], page
            absent = [n for n, p in patterns.items() if not any(re.fullmatch(p, one) for one in names)]
            assert [n for n in absent if not n.startswith(SOMETIMES)] == [], page
        check_files(path, page)
    assert load_lm_config(path / "config.yaml", []) == config  # a run's config is a preset


def check_files(run: Path, page: str) -> None:
    """What the first table of the page names lies in the run's folder, and nothing else does."""
    cells = re.findall(r"^\| (`.*?) \|", text_of(page).split("\n## ")[0], re.MULTILINE)
    named = [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]
    for name in named:
        if name not in {"tensorboard/", "feedback/", "<step>/checkpoint/", "<step>/checkpoint-before/"}:
            assert (run / name.replace("<step>", "sft")).exists(), name
    for file in run.iterdir():
        assert file.name.startswith(".") or any(name.startswith(file.name) for name in named), file.name


@pytest.mark.parametrize("page", [name for name in NAMES if name.startswith("docs/zh/")])
def test_chinese_pages_have_the_parts_of_the_english_ones(page: str) -> None:
    english = page.replace("/zh/", "/")
    ours, theirs = (len(re.findall(r"^## ", prose(name), re.MULTILINE)) for name in (page, english))
    assert ours == theirs
    kinds = [[info for info, _ in _FENCE.findall(text_of(name))] for name in (page, english)]
    assert kinds[0] == kinds[1]
