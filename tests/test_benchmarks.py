"""The benchmarks run, and print one line of JSON with the figures that their readers compare."""

import argparse
import importlib
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Literal

import pytest
import torch
from tests.arm.conftest import SMALL as TINY_ARM
from transformers import OPTConfig, OPTForCausalLM

from tercet.config.load import load_arm_config, load_lm_config
from tercet.lm.models.roles import load_policy
from tercet.lm.plan import bench
from tercet.lm.plan.bench import Work
from tercet.lm.text.encoder import Encoder
from tercet.runs.clock import Moment

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
SMALL = ["--batch", "3", "--prompt", "8", "--response", "4", "--threads", "1", "--iters", "1"]
SMALL += ["--layers", "1", "--hidden", "64", "--vocab", "300"]
SIZES = {"hidden_size": 8, "ffn_dim": 32, "word_embed_proj_dim": 8, "num_attention_heads": 2, "vocab_size": 100}
STEP = {"gen_s", "score_s", "train_s", "total_s", "tokens_per_s", "peak_rss_mb", "num_tokens", "other_cpus"}
STEP |= {"total_cpu_s", "tokens_per_cpu_s"}
FIT = STEP - {"gen_s", "score_s", "train_s"}
FIGURES = {
    "ppo_step.py": STEP,
    "generation.py": {"ours_s", "theirs_s", "median_ratio", "time_ratios", "peak_rss_mb"},
    "sft_step.py": FIT,
    "reward_step.py": FIT,
    "peers/ppo_plain.py": STEP,
}
has_trl = pytest.mark.skipif(find_spec("trl") is None, reason="TRL lives in the peers' environment")


def printed(script: str, *options: str) -> str:
    command = [sys.executable, str(BENCHMARKS / script), *options]
    found = os.pathsep.join([str(BENCHMARKS), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=300, env={**os.environ, "PYTHONPATH": found}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def figures_of(script: str, *options: str) -> dict[str, float]:
    return json.loads(printed(script, *options).splitlines()[-1])


def module(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module(name)


@pytest.mark.parametrize(
    ("script", "lengths"),
    [
        pytest.param("ppo_step.py", "real", marks=pytest.mark.slow),
        pytest.param("sft_step.py", "fixed", marks=pytest.mark.slow),
        pytest.param("reward_step.py", "real", marks=pytest.mark.slow),
        pytest.param("generation.py", "fixed", marks=pytest.mark.slow),
        pytest.param("peers/ppo_plain.py", "real", marks=pytest.mark.slow),
        pytest.param("ppo_step.py", "fixed", marks=pytest.mark.slow),
        pytest.param("sft_step.py", "real", marks=pytest.mark.slow),
        pytest.param("reward_step.py", "fixed", marks=pytest.mark.slow),
        pytest.param("generation.py", "real", marks=pytest.mark.slow),
        pytest.param("peers/ppo_plain.py", "fixed", marks=pytest.mark.slow),
    ],
)
def test_it_prints_its_figures(script: str, lengths: str) -> None:
    figures = figures_of(script, *SMALL, "--lengths", lengths)
    assert FIGURES[script] <= figures.keys()
    assert figures["batch"] == 3 and figures["lengths"] == lengths
    if figures.get("num_tokens") and lengths == "fixed":
        rows_an_example = 2 if script == "reward_step.py" else 1
        assert figures["num_tokens"] == 3 * (8 + 4) * rows_an_example


@pytest.mark.slow
def test_divided_weights_are_shared_out_among_the_processes() -> None:
    rows = [json.loads(line) for line in printed("sharding.py", "--processes", "1", "2", *SMALL).splitlines()]
    shares = {(row["processes"], row["shard"]): row["held_share"] for row in rows[:-1]}
    assert shares == {(1, False): 1.0, (2, False): 1.0, (2, True): pytest.approx(0.5, abs=0.02)}
    assert all(row["peak_mb"] > row["held_mb"] > 0 for row in rows[:-1])


@has_trl
@pytest.mark.parametrize("what", ["sft", "reward"])
def test_the_trainers_of_trl_print_the_same_figures(what: str) -> None:
    assert figures_of("peers/sft_rm_trl.py", "--what", what, *SMALL).keys() >= FIT


def test_scaling_has_a_line_for_every_point_and_a_panel_for_every_axis(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scaling, picture = module("scaling", monkeypatch), tmp_path / "scaling.png"
    points = [
        scaling.Point(axis, n, 6.0 * n, 2.0 * n) for axis in ("prompts a batch", "million weights") for n in (1, 2)
    ]
    assert scaling.table(points).splitlines()[3] == "| prompts a batch | 2 | 12 | 4 | 3.00 |"
    scaling.draw(points, "title", picture)
    assert picture.stat().st_size > 1000


def test_proxy_and_gold_are_read_from_the_validations_and_drawn(tmp_path: Path) -> None:
    for seed in (0, 1):
        run = tmp_path / str(seed)
        run.mkdir()
        (run / "config.yaml").write_text("ppo: {watch: [gold/reward/model]}\n")
        rows = [{"step": "ppo", "index": update, "ppo/score": 0.0} for update in range(3)]
        for row in rows[::2]:
            watched = {"ppo/watch/gold/reward/model": 0.5 - seed, "ppo/watch_error/gold/reward/model": 0.1}
            row |= {"ppo/validation_score": 2.0 * seed, "ppo/validation_kl": 3.0 * row["index"], **watched}
        (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    picture = tmp_path / "proxy-gold.png"
    lines = printed("proxy_gold.py", str(tmp_path / "0"), str(tmp_path / "1"), "--picture", str(picture)).splitlines()
    assert lines[2:] == ["| 0 | 0.0 | 1.00 | 0.00 | 0.07 |", "| 2 | 6.0 | 1.00 | 0.00 | 0.07 |"]
    assert picture.stat().st_size > 1000


@pytest.mark.slow
def test_scaling_prints_a_line_for_every_point_and_draws(tmp_path: Path) -> None:
    picture = tmp_path / "scaling.png"
    small = ["--tiny", "--batch", "2", "--prompt", "4", "--response", "4", "--vocab", "300", "--iters", "1"]
    lines = printed("scaling.py", *small, "--threads", "1", "--picture", str(picture)).splitlines()
    points = json.loads(lines[-1])["points"]
    assert len(points) == len(lines) - 3 == 6
    assert all(point["measured_us"] > 0 and point["floor_us"] > 0 for point in points)
    assert picture.stat().st_size > 1000


@pytest.mark.slow
def test_the_profile_draws_every_phase(tmp_path: Path) -> None:
    picture = tmp_path / "profile.png"
    figures = figures_of("profile_step.py", *SMALL, "--lengths", "real", "--picture", str(picture))
    assert figures["seconds"].keys() == figures["floor"].keys() and len(figures["seconds"]) == 11  # no critic forward
    assert picture.stat().st_size > 1000


@pytest.mark.slow
def test_the_table_of_a_gpu_runs_small_on_a_cpu(tmp_path: Path) -> None:
    """In bf16, with a critic of another shape, with all weights learning and with adapters."""
    small = ["--device", "cpu", "--tiny", "--batch", "2", "--iters", "1", "--threads", "1"]
    lines = printed("gpu.py", *small, "--out", str(tmp_path / "rows.jsonl")).splitlines()
    found = json.loads(lines[-1])["cases"]
    preset, *steps = found.values()
    assert preset.keys() == {"total_s"} and len(steps) == 3 + bool(find_spec("bitsandbytes"))
    assert all(figures.keys() >= STEP for figures in steps)
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert {row["row"]: row["found"] for row in rows} == found


@pytest.mark.slow
def test_rows_for_which_no_time_is_left_are_listed(tmp_path: Path) -> None:
    lines = printed("gpu.py", "--device", "cpu", "--tiny", "--minutes", "0", "--out", str(tmp_path / "rows.jsonl"))
    found = json.loads(lines.splitlines()[-1])["cases"]
    assert len(found) == 4 + bool(find_spec("bitsandbytes")) and set(found.values()) == {"out of time"}
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == len(found)


@pytest.mark.slow
def test_the_memory_of_every_variant_is_set_beside_full_copies() -> None:
    figures = figures_of("memory.py", *SMALL)
    assert figures["ratios"].keys() == {"lora", "lora_shared"}
    for shares in figures["ratios"].values():
        assert 0.5 < shares["of_full"] < 1.5  # libraries are most of so small a model's


def test_weights_rounded_to_bf16_are_set_beside_those_that_were_saved(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = load_lm_config("tiny", [])
    policy = load_policy(config)
    with torch.no_grad():
        for parameter in policy.parameters():  # fresh weights are so small that nothing shows
            parameter.mul_(8)
    policy.model.save_pretrained(tmp_path)
    Encoder.of(config).tokenizer.save_pretrained(tmp_path)
    found = module("rounding", monkeypatch).figures(config, str(tmp_path), 8)
    assert found["as saved"]["kl"] == 0.0
    for name in ("nearest", "by chance"):
        assert 1e-5 < found[name]["kl"] < 0.1
        assert found[name]["nll"] == pytest.approx(found["as saved"]["nll"], abs=0.1)


@pytest.fixture
def easy_pairs(tmp_path: Path) -> list[str]:
    """Options of `reward_accuracy.py` for a tiny model and pairs whose better response ends in another letter."""
    config = load_lm_config("tiny", [])
    load_policy(config).model.save_pretrained(tmp_path / "model")
    Encoder.of(config).tokenizer.save_pretrained(tmp_path / "model")
    rows = [{"prompt": f"Is it {n}?", "chosen": f"{n * n} y", "rejected": f"{n * n} n"} for n in range(100)]
    (tmp_path / "some.jsonl").write_text("\n".join(map(json.dumps, rows)))
    tiny = ["--layers", "1", "--lora", "2", "--style", "plain", "--lr", "0.03", "--epochs", "4"]
    return ["--pairs", str(tmp_path / "some.jsonl"), "--model", str(tmp_path / "model"), *tiny]


@pytest.mark.slow
def test_a_reward_model_reads_the_ids_that_its_peer_gets(
    easy_pairs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = figures_of("reward_accuracy.py", *easy_pairs)
    assert figures["accuracy"]["mean"] > 0.9 and figures["accuracy"]["num"] == len(figures["margins"]) > 15
    race, work = module("reward_accuracy", monkeypatch), module("work", monkeypatch)
    written = json.loads(race.Work.of(race.parser().parse_args(easy_pairs)).for_peer(tmp_path).read_text())
    assert len(written["train"]) + len(written["held_out"]) == 100
    rows = [row for pair in written["train"] + written["held_out"] for row in pair.values()]
    at = (work.Moment(0.0, 0.0, 0.0), work.Moment(1.0, 1.0, 1.0), work.Moment(2.0, 2.0, 2.0))
    assert work.whole_run("", at, margins=[0.0], trained_weights=0, rows=rows[::-1])["ids"] == figures["ids"]


@has_trl
def test_a_reward_model_and_its_peer_are_trained_in_turn(easy_pairs: list[str]) -> None:
    lines = printed("reward_accuracy.py", *easy_pairs, "--peer", sys.executable).splitlines()
    assert [line.split(" | ")[0] for line in lines[-4:-2]] == ["| tercet", "| trl 1.16.0"]


def test_accuracies_are_compared_over_the_same_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    race = module("reward_accuracy", monkeypatch)
    figures = {"seconds": 2.0, "cpu_seconds": 1.0, "peak_rss_mb": 300}
    ours = [{**figures, "margins": [1.0, 2.0, 3.0, -1.0]}, {**figures, "margins": [1.0, 1.0, 1.0, 1.0]}]
    theirs = [{**figures, "margins": [1.0, 0.0, 3.0, -1.0]}] * 2
    lines = race.table({"tercet": ours, "peer": theirs}).splitlines()
    assert lines[2].startswith("| tercet | 0.750 (0.301 to 0.954), 1.000 (0.510 to 1.000) | 0.875 (")
    # a tie counts half: the second pair adds 0.5 to the difference, the fourth 1 in one of two seeds
    assert lines[-1].startswith("tercet - peer: 0.250 (0.000 to 0.500)")


def test_right_answers_are_counted_by_stage_without_those_that_have_no_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = module("right", monkeypatch)
    for name, scores in {"a": [1.0, 0.0, None], "b": [1.0, 1.0, 1.0]}.items():
        (tmp_path / name / "eval").mkdir(parents=True)
        rows = [{"scores": {"sft": {"judge": 0.0}, "ppo": {"judge": score}}} for score in scores]
        (tmp_path / name / "eval" / "held_out.json").write_text(json.dumps(rows), encoding="utf-8")
    lines = right.table([tmp_path / "a", tmp_path / "b"]).splitlines()
    assert lines[2] == "| a | 0.00 (0.00 to 0.56) | 0.50 (0.09 to 0.91) |"
    assert lines[-1] == "| mean | 0.00 | 0.75 |"


def test_seeds_are_tabulated_with_their_mean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = module("seeds", monkeypatch)

    def run(rate: float) -> object:
        wins = {
            name: {"mean": rate, "low": rate - 0.1, "high": rate + 0.1} for name in ("asks", "judge", "reward_model")
        }
        accuracy = {"a": {"mean": 0.5, "num_prompts": 1}, "b": {"mean": 0.9, "num_prompts": 3}}
        results = {
            "win_rate": dict.fromkeys(("ppo_vs_sft", "ppo_vs_base", "sft_vs_base"), wins),
            "reward_model": {"accuracy": accuracy, "length_correlation": {"a": 0.4, "b": 0.0}},
            "best_checkpoint": {"kl": 3.0},
        }
        return seeds.Run(results, [{"ppo/explained_variance": value} for value in (0.0, 0.0, 0.3)])

    runs = [run(0.6), run(0.8)]
    lines = seeds.table(runs, ["one", "two"]).splitlines()
    assert lines[2] == (
        "| PPO against SFT, `asks` | 0.60 (0.50-0.70) | 0.80 (0.70-0.90) | 0.70 (-0.57 to 1.97) |"  # t = 12.71
    )
    assert "| reward model's accuracy, held out | 0.80 | 0.80 | 0.80 (0.80 to 0.80) |" in lines
    assert "| critic's explained variance, last third | 0.30 | 0.30 | 0.30 (0.30 to 0.30) |" in lines
    seeds.draw(runs, ["one", "two"], tmp_path / "seeds.png")
    assert (tmp_path / "seeds.png").stat().st_size > 1000


def test_the_accuracy_of_a_judge_is_its_preference_for_the_prompts_own_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    judges = module("judges", monkeypatch)
    prompts = ["Who wrote Hamlet?", "How many legs has a spider?"]
    answers = ["William Shakespeare wrote it.", "A spider has eight legs."]
    assert judges.accuracy("tercet.lm.preferences.asks:answers_what_is_asked", prompts, answers) == 1
    assert judges.accuracy("tercet.lm.preferences.asks:answers_what_is_asked", prompts, answers[::-1]) == 0


def test_all_learn_from_examples_of_the_same_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    work, fitting = module("work", monkeypatch), module("fitting", monkeypatch)
    settings = work.parser("").parse_args(["--lengths", "real", "--batch", "100", "--iters", "9"])
    config = fitting.config_of(settings)
    encoder = Encoder.of(config)
    lessons = work.lessons(settings)
    assert len(lessons) == 1000
    for lesson, example in zip(lessons, fitting.examples(settings), strict=True):
        assert len(encoder.prompt(example)) == lesson.prompt and 8 <= lesson.prompt <= 128
        assert len(encoder.response(example.chosen)) == lesson.chosen and 4 <= lesson.chosen <= 128
        assert len(encoder.response(example.rejected)) == lesson.rejected
    # min(Geometric(1/64), 128) has the mean 64 (1 - (63/64)^128) = 55.5; the floor of 4 adds a little
    assert 53 < sum(lesson.chosen for lesson in lessons) / 1000 < 59


def test_every_phase_has_its_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    floor, work, ppo_step = (module(name, monkeypatch) for name in ("floor", "work", "ppo_step"))
    settings = work.parser("").parse_args(SMALL)
    config = ppo_step.config_of(settings, work.shape(settings))
    costs = floor.costs_of_step(config, config, floor.Sampled([2, 3], [1, 2]), vocab=300)
    layer, head = 12 * 64 * 64, 300 * 64
    # rows of 3 and 5 tokens: 8 tokens, 6 + 15 pairs of a query and a key that it sees, logits at 3 positions
    # and 5 tokens that nobody reads do without the one layer's nine matrices of 64 x 64 behind its attention
    ahead = 2 * layer * 8 + 4 * 64 * 21 + 2 * head * 3 - 2 * 9 * 64 * 64 * 5
    assert costs["actor forward"][0].flops == costs["reference"][0].flops == ahead
    assert costs["actor backward"][0].flops == 2 * ahead
    # the row that draws a second token has seen 4: all weights, and 4 keys and values of 64 numbers, are read
    assert [one.bytes for one in costs["decoding"]] == [4 * (layer + head + 2 * 4 * 64)]
    assert [one.bytes for one in costs["drawing"]] == [4 * 300 * 2, 4 * 300]
    limits = floor.Limits(flops_per_s=100.0, bytes_per_s=10.0)
    assert floor.least_seconds([floor.Cost(200, 10), floor.Cost(0, 30)], limits) == 2.0 + 3.0


@pytest.mark.parametrize("group", [1, 4])
@pytest.mark.parametrize("lengths", ["fixed", "real"])
def test_the_peers_get_the_work_of_the_package(
    lengths: Literal["fixed", "real"], group: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`benchmarks/work.py` says again what `lm/plan/bench.py` says, because the peers' environment has no Tercet."""
    work, ppo_step = module("work", monkeypatch), module("ppo_step", monkeypatch)
    settings = work.parser("").parse_args(["--lengths", lengths, "--batch", "8", "--group", str(group)])
    ours = Work(lengths=lengths, batch=8, group=group)
    assert ppo_step.work_of(settings) == ours
    assert work.prompts(settings, 3) == bench.prompts(ours, 3)
    assert work.shape(settings) == bench.shape(Work())
    assert (work.EOS, work.eos_of(settings), work.most_tokens(settings)) == (
        bench.EOS,
        bench.eos_of(Work(lengths=lengths)),
        bench.most_tokens(Work(lengths=lengths)),
    )
    tokens = {"num_drawn": 6, "num_prompt_tokens": 6}
    theirs, own = (tuple(kind(float(t), 0.0, 0.0) for t in (0, 1, 3, 6)) for kind in (work.Moment, Moment))
    assert work.phases(theirs, **tokens) == bench.phases(own, **tokens)
    ours, theirs = (OPTForCausalLM(OPTConfig(num_hidden_layers=1, **SIZES)) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    work.make_eos_likely(ours, 20)
    bench.make_eos_likely(theirs, 20)
    name = "model.decoder.final_layer_norm.bias"
    assert torch.equal(ours.state_dict()[name], theirs.state_dict()[name])
    assert ours.state_dict()[name].abs().sum() > 0


def test_rows_that_have_ended_are_decoded_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    work = module("floor", monkeypatch).Sampled(prompts=[5, 7], answers=[1, 3])
    assert [work.live(t) for t in range(3)] == [[5, 7], [8], [9]]
    assert work.lengths == [6, 10]


def test_ratios_are_ours_over_the_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    compare = module("compare", monkeypatch)
    same = {"tokens_per_cpu_s": 10.0, "total_s": 4.0, "peak_rss_mb": 600.0}
    ours = [{"tokens_per_s": 50.0, "tokens_per_cpu_s": 40.0, "total_s": 2.0, "peak_rss_mb": 300.0}] * 3
    theirs = [{"tokens_per_s": rate, **same} for rate in (20.0, 25.0, 100.0)]
    wanted = {"seconds a token": 0.5, "CPU seconds a token": 0.25, "seconds a step": 0.5, "memory": 0.5}
    assert compare.ratios(ours, theirs) == wanted


def test_a_script_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    compare = module("compare", monkeypatch)
    with pytest.raises(compare.ScriptFailed, match=r"no_such\.py --hidden 64"):
        compare.run(compare.Script("no_such.py", is_peer=False), ["--hidden", "64"], None)


def test_the_hand_written_peer_masks_what_follows_an_eos(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS / "peers"))
    plain, work = module("ppo_plain", monkeypatch), module("work", monkeypatch)
    words = [*SMALL, "--lengths", "real"]
    settings = argparse.Namespace(**vars(work.parser("").parse_args(words)), lean=False)
    torch.manual_seed(0)
    step = plain.PlainStep(settings)
    asked = work.prompts(settings, 0)
    batch, num_prompt_tokens = step.sample(asked)
    assert num_prompt_tokens == sum(map(len, asked))
    answers = batch.ids[:, -batch.mask.shape[1] :]
    for row, kept in zip(answers.tolist(), batch.mask.tolist(), strict=True):
        ended = row.index(work.EOS) + 1 if work.EOS in row else len(row)
        assert kept == [True] * ended + [False] * (len(row) - ended)
    with torch.no_grad():
        whole = step.logprobs(step.actor, batch)
        settings.lean = True
        assert torch.allclose(whole, step.logprobs(step.actor, batch), atol=1e-5)


@pytest.mark.slow
def test_the_race_on_the_arm_counts_learning_alone() -> None:
    figures = figures_of("arm_ours.py", "--task", "reach", "--updates", "2", "--threads", "1")
    assert [row[0] for row in figures["curve"]] == [0, 32 * 60, 64 * 60]
    seconds = [row[1] for row in figures["curve"]]
    assert 0 < seconds[0] < seconds[1] < seconds[2] and figures["steps_per_second"] > 0
    assert figures["seconds_to_95"] is None and figures["best_success"] < 0.95  # two updates are too few


@pytest.mark.skipif(find_spec("stable_baselines3") is None, reason="it lives in the peers' environment")
@pytest.mark.parametrize("settings", ["ours", "theirs", "normalized"])
def test_stable_baselines_runs_the_same_race(settings: str) -> None:
    figures = figures_of("peers/arm_sb3.py", "--settings", settings, "--updates", "1", "--threads", "1")
    assert [row[0] for row in figures["curve"]] == [0, 32 * 60]


def test_a_seed_that_never_arrives_counts_as_the_slowest(monkeypatch: pytest.MonkeyPatch) -> None:
    race = module("arm_ppo", monkeypatch)

    def rows(*seconds: float | None) -> list[dict[str, float | None]]:
        return [dict.fromkeys(race.COLUMNS, value) for value in seconds]

    lines = race.table({"tercet": rows(4.0, 2.0, None), "sb3": rows(8.0, 9.0, 1.0), "slow": rows(None, None, 1.0)})
    assert lines.splitlines()[2].split(" | ")[1] == "4" and "2 of 3" in lines.splitlines()[2]
    assert lines.splitlines()[3].endswith("| 3 of 3 | 0.50 |")
    assert lines.splitlines()[4].split(" | ")[1] == "never"


def test_the_arm_is_timed_beside_bare_mujoco() -> None:
    command = [sys.executable, str(BENCHMARKS / "arm_env.py"), "--num-envs", "4", "--horizon", "10", "--repeats", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr  # it also asserts that both came to the same states
    figures = json.loads(done.stdout)
    assert figures["num_envs"] == 4 and 0 < figures["share_of_bare"] < 2
    assert figures["steps_per_second"] > 0 and figures["bare_steps_per_second_one_call"] > 0


@pytest.mark.slow
def test_the_table_of_policies_has_a_row_for_each_run_and_makes_none_again(tmp_path: Path) -> None:
    asked = ["--out", str(tmp_path), "lift/act/3", "lift/tokens/3"]
    sets = [word for override in [*TINY_ARM, "ppo.num_updates=1"] for word in ("--set", override)]
    rows = printed("arm_policies.py", *asked[:3], *sets).splitlines()[-3:]
    assert rows[0].count("|") == rows[1].count("|") == rows[2].count("|")
    assert rows[2].startswith("| lift | 3 | act | 0.000 | ")
    tried = (tmp_path / "lift-act-3" / "cpu_seconds.txt").read_text()
    assert printed("arm_policies.py", *asked, "--table").splitlines() == rows
    assert printed("arm_policies.py", *asked[:3], *sets).splitlines()[-1] == rows[2]
    assert (tmp_path / "lift-act-3" / "cpu_seconds.txt").read_text() == tried


def test_numbers_are_the_same_only_to_the_last_bit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    same_numbers = module("same_numbers", monkeypatch)

    def run(name: str, kl: float, weights: bytes) -> Path:
        model = tmp_path / name / "ppo" / "model"
        model.mkdir(parents=True)
        (model / "model.safetensors").write_bytes(weights)
        rows = [{"step": "sft", "sft/loss": 1.0}, {"step": "ppo", "ppo/kl": kl}]
        (tmp_path / name / "metrics.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
        return tmp_path / name

    one, again = run("one", 0.1, b"weights"), run("again", 0.1, b"weights")
    assert same_numbers.differences(one, again) == []
    (again / "sft").mkdir()
    (again / "sft" / "model.safetensors").touch()
    assert same_numbers.differences(one, again) == [f"sft/model.safetensors: only in {again}"]
    assert same_numbers.differences(one, run("other", 0.1 + 2e-17, b"Weights")) == [
        "ppo/model/model.safetensors: other weights",
        "metrics.jsonl, line 2: ppo/kl is 0.1, then 0.10000000000000002",
    ]
    (one / "metrics.jsonl").write_text("{}")
    assert "step is missing, then sft" in same_numbers.differences(one, run("longer", 0.1, b"weights"))[0]


def test_sick_runs_have_valid_settings_and_name_a_finding_that_is_documented(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sick_runs = module("sick_runs", monkeypatch)
    documented = (BENCHMARKS.parent / "docs" / "doctor.md").read_text()
    for case in (*sick_runs.SICK, *sick_runs.HEALTHY):
        load = load_lm_config if case.base in sick_runs.SHARED else load_arm_config
        assert load(case.base, sick_runs.prepared(case, tmp_path, 3)).seed == 3
        assert not case.finding or f"`{case.finding}`" in documented
    assert len({(bool(case.finding), case.base, case.name) for case in (*sick_runs.SICK, *sick_runs.HEALTHY)}) == len(
        [*sick_runs.SICK, *sick_runs.HEALTHY]
    )


@pytest.mark.slow
def test_a_real_run_that_is_paid_for_the_opposite_of_the_judge_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    doctor, sick_runs = (module(name, monkeypatch) for name in ("doctor", "sick_runs"))
    (case,) = (case for case in sick_runs.SICK if case.finding == "ppo_worse")
    doctor.train(sick_runs.SHARED["tiny"], tmp_path, tmp_path / "tiny", 11)
    record = doctor.train(case, tmp_path, tmp_path / "sick", 11)
    assert record.results["win_rate"]["ppo_vs_sft"]["judge"]["mean"] < 0.2
    found = doctor.findings(record)
    assert [name for name, one in found.items() if one.level == "alarm"] == ["ppo_worse"]


def test_the_doctor_is_counted_by_run_and_by_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    doctor = module("doctor", monkeypatch)
    rows = [
        {"base": "tiny", "run": "a", "expected": "no_eos", "found": ["length_changes", "no_eos"], "alarms": ["no_eos"]},
        {"base": "tiny", "run": "b", "expected": "no_eos", "found": ["length_changes"], "alarms": ["length_changes"]},
        {"base": "lift", "run": "c", "expected": "", "found": [], "alarms": []},
        {"base": "lift", "run": "d", "expected": "", "found": ["bc_lr"], "alarms": []},
    ]
    assert doctor.summary(rows)[2:] == [
        "| tiny | a | no_eos | `length_changes`, `no_eos` |",
        "| tiny | b | no_eos | `length_changes` |",
        "| lift | c | nothing | nothing |",
        "| lift | d | nothing | `bc_lr` |",
        "",
        "sick: 1 of 2 recognised",
        "sound: an alarm in 0 of 2, anything at all in 1",
    ]


@pytest.mark.slow
def test_returns_of_our_ppo_are_measured_with_the_last_policy() -> None:
    given = ("--task=pendulum", "--steps=4000", "ppo.epochs=1", "ppo.num_minibatches=2")
    figures = figures_of("returns_ours.py", *given)
    assert figures["trained_steps"] == 4000 and figures["curve"][-1][0] == 4000
    assert -2000 < figures["final_return"] < -100 and figures["cpu_seconds"] > 0


def test_a_target_that_one_of_three_seeds_reached_was_never_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    middle = module("arm_returns", monkeypatch).middle
    assert middle([{"cpu_seconds_to_target": value} for value in (None, 3.0, None)], "cpu_seconds_to_target") == "never"
    assert middle([{"cpu_seconds_to_target": value} for value in (None, 3.0, 5.0)], "cpu_seconds_to_target") == "5.0"
