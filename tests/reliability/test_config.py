"""Hostile configs: every key with values of every wrong kind, random YAML, damaged presets, files that are none.

Each ends in a config that is the same after it was written and read again, or in one InputError that names the place.
"""

import os
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from tests.reliability.amounts import Count, cases

from tercet.config.allowed import section_of
from tercet.config.arm import ArmConfig
from tercet.config.lm import LmConfig
from tercet.config.load import PRESETS, load_arm_config, load_lm_config, load_robot_config, preset_names
from tercet.config.plain_yaml import dump, parse
from tercet.config.robot import RobotConfig
from tercet.errors import REPORT_IT

COUNT = Count("config")
count = COUNT.fixture()
hostile = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])

SECONDS = 20.0  # for one config on a busy machine; the slowest takes about two
LOADERS = {"lm": load_lm_config, "arm": load_arm_config, "robot": load_robot_config}
domains = st.sampled_from(sorted(LOADERS))
MODELS: dict[str, type[BaseModel]] = {"lm": LmConfig, "arm": ArmConfig, "robot": RobotConfig}
ALL_PRESETS = [(domain, name) for domain in LOADERS for name in preset_names(domain)]


def judge(domain: str, preset: str | Path, overrides: Sequence[str], *places: str) -> None:
    """Load as one case; what comes out is sound, or the refusal names one of the places."""
    start = time.process_time()
    outcome = COUNT.attempt(lambda: LOADERS[domain](preset, overrides))
    assert time.process_time() - start < SECONDS
    if outcome.refusal:
        assert REPORT_IT not in outcome.refusal, "nobody foresaw this"
        assert any(place in outcome.refusal for place in places), outcome.refusal
        assert len(outcome.refusal) < 20_000
        return
    tree = outcome.value.model_dump(mode="json")
    again = parse(dump(tree)).value
    assert MODELS[domain].model_validate(again) == outcome.value
    assert again == tree
    for number in leaves(tree):
        assert not isinstance(number, float) or number == 0 or 1e-30 <= abs(number) <= 1e30
        assert not isinstance(number, int) or abs(number) < 2**63


def leaves(tree: Any) -> list[Any]:  # Any: JSON
    if isinstance(tree, dict | list):
        return [leaf for part in (tree.values() if isinstance(tree, dict) else tree) for leaf in leaves(part)]
    return [tree]


def fields(model: type[BaseModel], prefix: str = "") -> list[tuple[str, FieldInfo]]:
    """Every field of the tree, with the keys of lists of sections as YAML paths `data.train`."""
    found = []
    for name, field in model.model_fields.items():
        found.append((prefix + name, field))
        section = section_of(field)
        if section is not None and get_origin(field.annotation) is not list:
            found += fields(section, f"{prefix}{name}.")
    return found


FIELDS = [(domain, key, field) for domain, model in MODELS.items() for key, field in fields(model)]

WORDS = [
    *("=", "2024-13-45", "2024-01-01", "2024-01-01 10:00:00", "!!timestamp x"),
    *("!!python/object/apply:os.system [ls]", "!!binary aGk=", "!!set {a, b}", "!!omap [a: 1]", "!!int x"),
    *("!!float x", "!!null x", "!!bool x", "!x y", "!!str 1", "0b_", "0b101", "0x_", "0x10", "0o7", "010"),
    *("1_000", "_1", "1__0", "1:30", "1:30.5", "+1", "--1", "1e400", "-1e400", "1e-320", "5e-324", "-0.0"),
    *("1e308", "1e31", "1e-31", ".nan", ".inf", "-.inf", "NaN", "Infinity", "9" * 400, "9" * 5000),
    *("-" + "9" * 5000, "0." + "9" * 5000, "1e" + "9" * 200, "10000000000000000000000000000000"),
    *("9223372036854775808", "[" * 2000, "{" * 2000, "[" * 2000 + "]" * 2000, "- " * 500, "&a [*a]"),
    *("&a {b: *a}", "&a [*a, *a]", "*a", "&a", "<<", "{<<: {a: 1}}", "{<<: 1}", "? a", "{? [a] : b}"),
    *("{[a]: b}", "{a: 1, a: 2}", "{1: 2}", "{~: 1}", "{on: 1}", "'", '"', "|", '"\\ud800"', '"\\0"'),
    *('"\\x1b[31m"', "\ud800", "\udcff", "\0", "\x1b[2J", "\u2028", "\ufeff", "a\nb", "a\rb", "a\tb", "😀"),
    *("true", "false", "yes", "off", "null", "~", "", " ", "-1", "0", "1", "3", "0.5", "1e3", "[]", "{}", "[1]"),
    *("[1, 2]", "[a]", "[[1]]", "{a: 1}", "{a: b}", "[{path: a}]", "[{path: [a]}]", "[true, false]"),
    *("[.nan, 1]", "[1e-320, 1]", "#", "@", "`", "%", "a: b: c", "--- 1\n--- 2", "%YAML 9.9", "/dev/zero"),
    *("/dev/stdin", "/", ".", "..", "a" * 5000, "../" * 2000, "{{ x }}"),
]
words, texts = st.sampled_from(WORDS), st.text(max_size=20)


def fitting(annotation: Any) -> st.SearchStrategy[str]:  # Any: whatever stands behind a field's colon
    """Values of the field's own kind, most of them, at and beyond the ends of any range."""
    origin, args = get_origin(annotation), get_args(annotation)
    if annotation is int:
        ends = [0, 1, -1, 2**31, 2**63 - 1, 2**63, 10**7, 10**7 + 1, 10**12, 10**30, 10**99]
        return st.sampled_from(ends).map(str) | st.integers().map(str)
    if annotation is float:
        return st.floats(allow_subnormal=True).map(lambda x: dump(x).removesuffix("\n...\n"))
    if annotation is bool:
        return st.sampled_from(["true", "false", "1", "0", "2", "y", "t"])
    if annotation is str:
        return texts.map(lambda text: dump(text).removesuffix("...\n").strip()) | texts
    if origin is list:
        is_section = isinstance(args[0], type) and issubclass(args[0], BaseModel)
        inside = st.just("{path: x}") if is_section else fitting(args[0])
        return st.lists(inside | words, max_size=4).map(lambda parts: f"[{', '.join(parts)}]")
    if origin is dict:
        pairs = st.tuples(st.text("ab.:/é ", min_size=1, max_size=5).map(repr), fitting(args[1]) | words)
        return st.lists(pairs, max_size=3).map(lambda found: "{" + ", ".join(f"{k}: {v}" for k, v in found) + "}")
    if args and all(isinstance(arg, str) for arg in args):
        return st.sampled_from(args)
    return st.one_of([fitting(arg) for arg in args]) if args else words


@st.composite
def field_and_value(draw: st.DrawFn) -> tuple[str, str, str]:
    domain, key, field = draw(st.sampled_from(FIELDS))
    return domain, key, draw(fitting(field.annotation) | words)


@settings(hostile, max_examples=cases(2000))
@given(field_and_value())
def test_every_key_with_every_kind_of_value(case: tuple[str, str, str]) -> None:
    domain, key, value = case
    judge(domain, preset_names(domain)[0], [f"{key}={value}"], key, key.rpartition(".")[0] or key)


@settings(hostile, max_examples=cases(500))
@given(st.lists(field_and_value(), min_size=2, max_size=6))
def test_several_at_once(found: list[tuple[str, str, str]]) -> None:
    for domain in LOADERS:
        given_here = [f"{key}={value}" for of, key, value in found if of == domain]
        if given_here:
            judge(domain, preset_names(domain)[-1], given_here, "")


@settings(hostile, max_examples=cases(500))
@given(domains, st.text(max_size=30) | st.tuples(words, words).map("=".join) | words)
@example("lm", "=5")
@example("lm", "ppo..lr=1")
@example("lm", "ppo.reward.=1")
def test_whatever_stands_for_an_override(domain: str, override: str) -> None:
    judge(domain, preset_names(domain)[0], [override], "(command line)")


YAML_PARTS = [
    *("a", "ppo", "lr", "seed", "model", ": ", "\n", "\n  ", "- ", "[", "]", "{", "}", ", ", "&a ", "*a", "!!"),
    *("!", "|", "\n", ">", "'", '"', "#", "---\n", "...\n", "? ", "<<", "%", "1", "1e-5", "~", "\t", "\0", "é"),
    *("\u2028", "\\", "@"),
]


@settings(hostile, max_examples=cases(600))
@given(domains, st.lists(st.sampled_from(YAML_PARTS), max_size=40).map("".join) | st.text(max_size=60))
def test_files_of_random_yaml(tmp_path: Path, domain: str, text: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text, encoding="utf-8", errors="surrogatepass")
    judge(domain, file, [], "mine.yaml")


@settings(hostile, max_examples=cases(800))
@given(st.sampled_from(ALL_PRESETS), st.randoms(use_true_random=False), st.integers(1, 4), words)
def test_damaged_presets(tmp_path: Path, which: tuple[str, str], chance: random.Random, hits: int, word: str) -> None:
    domain, name = which
    data = bytearray((PRESETS / domain / f"{name}.yaml").read_bytes())
    for _ in range(hits):
        at = chance.randrange(len(data))
        how = chance.choice(["flip", "cut", "repeat", "insert", "swap", "value"])
        if how == "flip":
            data[at] ^= 1 << chance.randrange(8)
        elif how == "cut":
            del data[at : at + chance.choice([1, 10, 10_000])]
            data += b"#"
        elif how == "repeat":
            data[at:at] = data[at : at + 200] * chance.choice([1, 50])
        elif how == "insert":
            data[at:at] = word.encode("utf-8", "surrogatepass")
        elif how == "swap":
            other = chance.randrange(len(data))
            data[at], data[other] = data[other], data[at]
        else:
            end = data.find(b"\n", at)
            colon = data.rfind(b":", 0, end)
            data[colon + 1 : end] = b" " + word.encode("utf-8", "surrogatepass")
    file = tmp_path / "mine.yaml"
    file.write_bytes(data)
    judge(domain, file, [], "mine.yaml")


@settings(hostile, max_examples=cases(200))
@given(domains, st.binary(max_size=80) | st.text(max_size=40).map(lambda text: text.encode("utf-16")))
def test_files_of_any_bytes(tmp_path: Path, domain: str, data: bytes) -> None:
    file = tmp_path / "mine.yaml"
    file.write_bytes(data)
    judge(domain, file, [], "mine.yaml")


@settings(hostile, max_examples=cases(200))
@given(domains, st.text(max_size=20) | words | st.text("a/.\n\0", max_size=400))
def test_names_of_presets(domain: str, name: str) -> None:
    judge(domain, name, [], "no preset", "give a YAML file")


def test_things_that_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "loop.yaml").symlink_to(tmp_path / "loop.yaml")
    (tmp_path / "large.yaml").write_text("a: 1\n" * 400_000)
    for name in ("pipe", "folder", "loop", "large", "nowhere"):
        for domain in LOADERS:
            judge(domain, tmp_path / f"{name}.yaml", [], f"{name}.yaml")
    for device in ("/dev/zero", "/dev/null", "/dev/tty"):
        judge("lm", device, [], device)


def test_the_kinds_of_values_cover_every_key() -> None:
    assert {domain for domain, _, _ in FIELDS} == {"lm", "arm", "robot"} and len(FIELDS) > 150
    with pytest.raises(AssertionError):
        judge("lm", "tiny", ["seed=x"], "a place that is not in the message")
