"""The plan of a run: its lengths, its remedies, and the command that prints it."""

import json
import resource

import pytest

from tercet.config.load import load_lm_config
from tercet.errors import InputError
from tercet.lm.plan.cost import Sizes
from tercet.lm.plan.plan import GIB, plan


@pytest.mark.slow
@pytest.mark.parametrize(("preset", "room"), [("opt-350m", 12.0)])
def test_a_run_with_the_remedies_fits(preset: str, room: float):
    before = plan(load_lm_config(preset, []), gpu="3090", gpu_gb=room)
    assert not before.fits and before.remedies
    assert [r.override for r in before.remedies] == list(dict.fromkeys(r.override for r in before.remedies))
    after = plan(load_lm_config(preset, [r.override for r in before.remedies]), gpu="3090", gpu_gb=room)
    assert after.fits and not after.remedies
    assert after.peak == before.remedies[-1].peak <= room * GIB


@pytest.mark.slow
def test_a_smaller_batch_still_has_whole_groups():
    found = plan(load_lm_config("opt-350m", ["ppo.algorithm=rloo"]), gpu="3090", gpu_gb=0.5)  # nothing is enough
    sizes = [remedy.override for remedy in found.remedies if remedy.override.startswith("ppo.batch_size=")]
    assert sizes == ["ppo.batch_size=8"]


@pytest.mark.slow
def test_planning_loads_no_weights():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = plan(load_lm_config("opt-1.3b", ["model.path=facebook/opt-6.7b", "reward.model="]), gpu="h100")
    assert found.memory["ppo"].stays["actor"] > 13e9
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 5e8


@pytest.mark.slow
def test_a_plan_of_this_machine_uses_the_lengths_of_the_data_and_measures_time(make_config):
    found = plan(load_lm_config("tiny", ["data.style=plain"]))
    assert found.rows.source.startswith("means of the data") and 5 < found.rows.ppo.prompt < 128
    assert found.rows.ppo.response == 16
    assert found.fits and not found.is_estimate
    assert 0 < found.time.ppo < 60
    assert set(found.run_s) == {"sft", "ppo"}
    given = plan(load_lm_config("tiny", []), prompt_tokens=9, response_tokens=3)
    assert (given.rows.ppo, given.rows.source) == (Sizes(9, 3), "given")


def test_the_command_prints_a_table_or_json(tercet):
    shown = tercet("plan", "--preset", "opt-1.3b", "--gpu-gb", 24)
    assert shown.exit_code == 0, shown.output
    for word in (
        "3090, 24 GiB",
        "optimizers' moments",
        "<- the peak",
        "PPO step",
        "DPO step",
        "DPO, if you",
        "not measured",
        "fits:",
    ):
        assert word in shown.output
    data = json.loads(tercet("plan", "--preset", "opt-1.3b", "--gpu", "3090", "--json").output)
    assert data["dpo_peak"] > 0 and data["time"]["dpo"] > data["time"]["sft"] > 0
    assert data["fits"] and data["peak"] == max(step["peak"] for step in data["peaks"].values())


def test_warnings_about_the_data_are_not_part_of_the_json(tercet, tmp_path):
    rows = [{"prompt": f"Why {i}?", "chosen": "So.", "topic": "none"} for i in range(30)]
    (tmp_path / "odd.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    found = tercet("plan", "--preset", "tiny", f"data.train=[{tmp_path / 'odd.jsonl'}]", "--json")
    assert "odd: nothing reads topic" in found.stderr
    assert "fits" in json.loads(found.stdout)


def test_wrong_input_is_refused_with_the_remedy(tercet):
    card = tercet("plan", "--preset", "tiny", "--gpu", "voodoo")
    assert (card.exit_code, "must be auto" in card.output) == (2, True)
    model = tercet("plan", "--preset", "tiny", "--gpu-gb", 24, "model.path=no/such")
    assert model.exit_code == 2 and "model.architecture=" in model.output
    long = tercet("plan", "--preset", "tiny", "--response-tokens", 300)
    assert long.exit_code == 2 and "428 tokens, but the model reads 256" in long.output
    with pytest.raises(InputError, match="428 tokens, but the model reads 256"):  # as a run is refused
        plan(load_lm_config("tiny", ["ppo.max_response_tokens=300"]), gpu="h100", prompt_tokens=128)
    shape = tercet("bench", "--shape", "huge")
    assert (shape.exit_code, "opt-125m" in shape.output) == (2, True)
    with pytest.raises(InputError):
        plan(load_lm_config("tiny", []), gpu="voodoo")


@pytest.mark.slow
def test_a_card_without_bf16_is_planned_in_fp16():
    with pytest.raises(InputError, match="precision=bf16: t4 has no products of bf16; set precision=fp16"):
        plan(load_lm_config("opt-1.3b", ["precision=bf16"]), gpu="t4")
    found = plan(load_lm_config("opt-350m", ["precision=fp32"]), gpu="v100", gpu_gb=8.0)
    assert "precision=fp16" in [remedy.override for remedy in found.remedies]
    half = plan(load_lm_config("opt-350m", ["precision=fp16"]), gpu="3090")
    assert half.memory == plan(load_lm_config("opt-350m", ["precision=bf16"]), gpu="3090").memory
