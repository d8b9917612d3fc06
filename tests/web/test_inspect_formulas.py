"""The equations that the page of an update fills in are true, for PPO and its relatives."""

import json
import math
import re
import shutil
import subprocess
from dataclasses import replace
from importlib.resources import files
from typing import Any

import pytest
import torch
from tests.web.conftest import answering, call
from tests.web.test_inspect_page import Repeats

from tercet.config.ppo import UpdateConfig
from tercet.core.kl import penalised_rewards
from tercet.train.ppo.explain import explain
from tercet.train.ppo.inspection import CHOICES, SETTINGS, inner_clips, numbers
from tercet.train.ppo.kept import KeptRollout, Outputs, Seen
from tercet.types import Rollout
from tercet.web.inspect_page import app

KL_COEF = 0.3
# some settings of an algorithm, and the numbers that have an equation beside those that always do
CASES: list[tuple[dict[str, Any], set[str]]] = [
    ({}, {"delta", "plain", "return", "value_loss", "penalty", "reward", "ratio"}),
    (
        {"whiten_advantages": False, "gamma": 0.9},
        {"delta", "plain", "return", "value_loss", "penalty", "reward", "ratio"},
    ),
    ({"lam_alpha": 0.5}, {"delta", "plain", "value_loss", "penalty", "reward", "ratio"}),
    ({"value_lam": 1.0}, {"delta", "plain", "value_loss", "penalty", "reward", "ratio"}),
    ({"algorithm": "rloo", "ratio_of": "response_sum"}, {"penalty", "reward"}),
    ({"algorithm": "grpo"}, {"ratio"}),
    ({"algorithm": "grpo", "kl_penalty": "k2"}, {"ratio"}),
    ({"algorithm": "grpo", "kl_penalty": "k3_weighted"}, {"ratio"}),
    ({"algorithm": "dr_grpo"}, {"ratio"}),
    ({"algorithm": "dapo", "max_redraws": 0}, {"ratio"}),
    ({"algorithm": "gspo"}, set()),
    ({"algorithm": "reinforce++", "gamma": 0.9}, {"plain", "penalty", "reward", "ratio"}),
]
SYMBOLS = {"delta", "gamma", "lambda", "next", "ratio", "clip", "mean", "sqrt", "V_old", "pi_old", "pi_ref", "e_high"}
SYMBOLS |= {"kl_coef", "ppo.kl_penalty", "ppo.importance_cap"}
BROWSER = "const document = {}; const location = { search: '?lang=LANGUAGE', hash: '' };\n"
ASK = """
const cases = JSON.parse(require("fs").readFileSync(0, "utf8"));
console.log(JSON.stringify(cases.map((given) => {
  [about, data] = [given.about, given.data];
  return data.rows.map((one) => one.plain.map((_, number) => Object.fromEntries(
    Object.keys(FORMULAS).filter((name) => one[name]).map((name) => [name, formulaOf(name, numbersOf(one, number))]))));
})));
"""

PLACES = """
const cases = JSON.parse(require("fs").readFileSync(0, "utf8"));
console.log(JSON.stringify(cases.flatMap((given) => {
  [about, data] = [given.about, given.data];
  const one = data.rows[0], numbers = numbersOf(one, 0);
  return Object.keys(FORMULAS).filter((name) => one[name]).map((name) => {
    const [, , ...places] = formulaOf(name, numbers);
    return [nameOf(name), places.map((place) => words().docs + words().places[place])];
  });
})));
"""


def shown(config: UpdateConfig, *, kind: str = "lm", num_steps: int = 1) -> dict[str, Any]:
    """What the page gets of two responses of three and two tokens, after an update; or of denoising chains."""
    mask = torch.tensor([[True, True, True], [True, True, False]])
    logprobs, ref = (
        torch.tensor([[-1.0, -2.0, -0.5], [-0.7, -1.5, 0.0]]),
        torch.tensor([[-1.2, -1.4, -0.5], [-1, -2, 0.0]]),
    )
    values = torch.tensor([[0.2, 0.4, 0.6], [-0.3, 0.1, 0.0]])
    ends = torch.tensor([[False, False, True], [False, True, False]])
    in_reward = KL_COEF if config.kl_penalty == "reward" else 0.0
    rollout = Rollout(
        inputs={},
        logprobs=logprobs,
        values=values if config.has_critic else None,
        next_values=torch.tensor([[0.4, 0.6, 0.0], [0.1, 0.0, 0.0]]) if config.has_critic else None,
        discounts=torch.full((2, 3), config.gamma, dtype=torch.float64),
        rewards=penalised_rewards(torch.tensor([1.0, -0.4]), logprobs, ref, mask, kl_coef=in_reward),
        terminated=ends,
        truncated=torch.zeros_like(ends),
        mask=mask,
        ref_logprobs=ref,
        kl_coef=KL_COEF if config.is_kl_in_loss else 0.0,
    )
    after = Outputs(logprobs + torch.tensor([[0.1, 0.5, -0.6], [0.4, -0.1, 0.0]]), torch.zeros(2, 3), values + 0.5)
    if num_steps > 1:  # the first steps change least
        shares = torch.arange(1.0, num_steps + 1) / sum(range(num_steps + 1))
        rollout = replace(rollout, inner_logprobs=logprobs[..., None] * shares)
        after = replace(after, inner_logprobs=after.logprobs[..., None] * shares)
    kept = KeptRollout(rollout, Seen.nothing(rollout, 1), after, {})
    # the update itself is not asked for: one step has used every token
    kept.seen.steps[0] = mask.long()
    found = explain(kept, config, epoch=None, trains_actor=True)
    rows = numbers(rollout, found, kl_coef=in_reward)
    settings = {name: getattr(config, name, KL_COEF) for name in SETTINGS}
    about = {"kind": kind, "settings": settings, "choices": {name: getattr(config, name) for name in CHOICES}}
    return {"about": about, "data": {"kl_coef": KL_COEF, "rows": rows, "inner": inner_clips(rollout, config)}}


def formulas(given: list[dict[str, Any]], language: str, ask: str = ASK) -> Any:
    """What the page's script writes for each number of each token: formula, formula with numbers, and where it is."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    page = (files("tercet.web") / "inspect.html").read_text("utf-8")
    script = page.partition("<script>")[2].partition("async function load()")[0]
    text = BROWSER.replace("LANGUAGE", language) + script + ask
    done = subprocess.run([node, "-e", text], input=json.dumps(given), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def is_true(equation: str) -> bool:
    """Compare both sides, whose numbers are rounded to three digits."""
    for sign, written in {"−": "-", "·": "*", "^": "**", "²": "**2", "½": "0.5 *"}.items():
        equation = equation.replace(sign, written)
    left, _, right = equation.rpartition("=")
    names = {"__builtins__": {}, "exp": math.exp, "min": min, "max": max}
    return float(eval(left, names)) == pytest.approx(float(right), abs=3e-3)


def test_every_equation_of_the_page_is_true_and_where_none_is_known_there_is_none() -> None:
    configs = [UpdateConfig.model_validate({"group_size": 2, "lam": 0.9} | settings) for settings, _ in CASES]
    found = formulas([shown(config) for config in configs], "en")
    for (settings, expected), rows in zip(CASES, found, strict=True):
        for tokens in rows:
            for token in tokens:
                equations = {name: filled for name, (_, filled, *_) in token.items() if "=" in filled}
                assert equations.keys() == expected | {"kl", "loss"}, settings
                for name, equation in equations.items():
                    assert is_true(equation), (settings, name, equation)


def test_the_loss_of_a_denoising_chain_is_that_of_its_steps() -> None:
    for settings in ({}, {"clip_range_high": 0.4}, {"kl_penalty": "k2"}):
        given = shown(UpdateConfig.model_validate(settings), kind="arm", num_steps=3)
        for tokens in formulas([given], "en")[0]:
            for formula, filled, *_ in (token["loss"] for token in tokens):
                assert formula.startswith("L = − Σ min(ratio[k]") and filled.count("min(") == 3
                assert is_true(filled), (settings, filled)


def test_the_formula_is_that_of_the_settings() -> None:
    def of(name: str, **settings: Any) -> str:
        config = UpdateConfig.model_validate({"group_size": 2} | settings)
        return formulas([shown(config)], "en")[0][0][0][name][0]

    assert "sqrt(var" in of("advantage") and "sqrt(var" not in of("advantage", whiten_advantages=False)
    assert "group" in of("plain", algorithm="grpo") and "group" not in of("plain", algorithm="reinforce++")
    assert "1 + e_high" in of("loss", algorithm="dapo", max_redraws=0)
    assert "mean over the response" in of("ratio", algorithm="gspo")


def test_the_chinese_page_has_every_text_of_the_formulas() -> None:
    configs = [UpdateConfig.model_validate({"group_size": 2} | settings) for settings, _ in CASES]
    given = [shown(config, kind=kind, num_steps=num) for config in configs for kind, num in (("lm", 1), ("arm", 3))]
    for rows in formulas(given, "zh"):
        for name, (formula, filled, *_) in rows[0][0].items():
            words = set(re.findall(r"[A-Za-z_.]{4,}", formula + filled))
            assert words <= SYMBOLS, (name, formula)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_each_number_links_to_a_section_that_names_it(language: str) -> None:
    capped = {"algorithm": "ppo", "whiten_advantages": False}
    configs = [UpdateConfig.model_validate({"group_size": 2} | settings) for settings, _ in [*CASES, (capped, set())]]
    given = [shown(config, kind=kind) for config in configs for kind in ("lm", "arm")]
    for one in given[-2:]:
        one["data"]["rows"] = [row | {"weight": row["ratio"]} for row in one["data"]["rows"]]
    found = {(name, place) for name, places in formulas(given, language, PLACES) for place in places}
    assert len({name for name, _ in found}) == 18
    with answering(app(Repeats(), "127.0.0.1", key="secret")) as port:
        for name, place in sorted(found):
            path, _, heading = place.partition("#")
            status, page, _ = call(port, "GET", "/" + path)
            assert status == 200
            section = page.decode().partition(f' id="{heading}">')[2].partition("<h2")[0]
            assert f">{name}</a>" in section, (name, place)
        explained = set()
        for path in sorted({place.partition("#")[0] for _, place in found}):
            explained |= set(re.findall(r"#number=[^>]*>([^<]*)</a>", call(port, "GET", "/" + path)[1].decode()))
        assert explained == {name for name, _ in found}  # and nothing that the page does not show
