"""Curves of the report: which are drawn, and with which values."""

from dataclasses import replace
from pathlib import Path

from tercet.report.blocks import Figures, Fold
from tercet.report.curves.arm import MORE_PPO as MORE_ARM_PPO
from tercet.report.curves.arm import PPO as ARM_PPO
from tercet.report.curves.both import EQUAL_GROUPS
from tercet.report.curves.figures import kept_update, ppo_blocks
from tercet.report.curves.lm import MORE_PPO, PPO, REWARD, SFT
from tercet.report.curves.plot import figures
from tercet.report.records import read


def test_a_plot_is_drawn_only_if_its_main_metric_was_logged(finished: Path) -> None:
    record = read(finished)
    rows = [{name: value for name, value in row.items() if name != "ppo/entropy"} for row in record.metrics]
    drawn = figures(replace(record, metrics=rows), PPO)
    assert drawn is not None
    titles = [figure.title for figure in drawn.figures]
    assert "Entropy" not in titles
    assert titles == [plot.title for plot in PPO if plot.title not in ("Entropy", EQUAL_GROUPS.title)]
    assert figures(replace(record, metrics=[]), PPO) is None


def test_the_change_of_a_curve_is_the_mean_of_its_first_and_last_tenth(finished: Path) -> None:
    rows = [{"step": "ppo", "index": i, "ppo/critic_loss": float(i)} for i in range(20)]
    drawn = figures(replace(read(finished), metrics=rows), PPO)
    assert drawn is not None
    (figure,) = drawn.figures
    assert figure.change == "0.50 → 18.5"
    assert figure.numbers == [float(i) for i in range(20)]


def test_watched_judges_are_drawn_on_the_curve_of_the_reward(finished: Path) -> None:
    record = read(finished)
    plain = [figure for block in ppo_blocks(record) if isinstance(block, Figures) for figure in block.figures]
    rows = [row | {"ppo/watch/asks_it": 0.5} if "ppo/validation_score" in row else row for row in record.metrics]
    config = record.config | {"ppo": record.config["ppo"] | {"watch": ["mine:asks_it", "mine:never_measured"]}}
    blocks = ppo_blocks(replace(record, metrics=rows, config=config))
    drawn = [figure for block in blocks if isinstance(block, Figures) for figure in block.figures]
    assert [key.label for key in drawn[0].legend] == [
        *(key.label for key in plain[0].legend),
        "asks it (right axis)",
    ]
    assert "judges that PPO is not trained on" in drawn[0].caption
    assert drawn[1:] == plain[1:]


def test_several_terms_of_the_reward_are_drawn_together(finished: Path) -> None:
    record = read(finished)
    rows = [row | {"ppo/term/mine:short": 0.2, "ppo/term/reward_model": 0.5} for row in record.metrics]
    for reward, titles in (({"reward_model": 1.0, "mine:short": 0.5}, ["Reward by term"]), ({"reward_model": 1.0}, [])):
        config = record.config | {"ppo": record.config["ppo"] | {"reward": reward}}
        blocks = ppo_blocks(replace(record, metrics=rows, config=config))
        parts = [part for block in blocks if isinstance(block, Fold) for part in block.blocks]
        folded = [figure for part in parts if isinstance(part, Figures) for figure in part.figures]
        assert [figure.title for figure in folded if figure.title == "Reward by term"] == titles
        if titles:
            assert [key.label for key in folded[0].legend] == ["reward_model", "mine:short"]


def test_the_named_scores_of_a_function_are_drawn_together(finished: Path) -> None:
    record = read(finished)
    rows = [row | {"ppo/named/mine:both/right": 0.2, "ppo/named/mine:both/short": 0.5} for row in record.metrics]
    config = record.config | {"ppo": record.config["ppo"] | {"reward": {"mine:both": 1.0}}}
    blocks = ppo_blocks(replace(record, metrics=rows, config=config))
    parts = [part for block in blocks if isinstance(block, Fold) for part in block.blocks]
    folded = [figure for part in parts if isinstance(part, Figures) for figure in part.figures]
    assert folded[0].title == "Scores of mine:both"
    assert [key.label for key in folded[0].legend] == ["right", "short"]


def test_the_kept_update_is_explained_with_the_part_of_its_score_that_is_chance(finished: Path) -> None:
    record = read(finished)

    def explained(**best: float) -> str:
        return kept_update(replace(record, results={"best_checkpoint": best}), "prompts")

    assert explained() == ""
    line = " The dotted line marks the update whose policy was kept."
    assert explained(update=35, score=1.68) == line  # a run of a version that did not estimate it
    assert explained(update=35, score=1.68, expected_shrinkage=0.0, num_candidates=1, num_scores=32) == line
    assert explained(update=35, score=1.68, expected_shrinkage=0.0812, num_candidates=5, num_scores=32) == (
        f"{line} Its validation score is 1.68. About 0.081 of it is chance, because it is the best of 5 validations on "
        "the same 32 prompts; on new prompts expect that much less."
    )


def test_every_plot_has_its_own_title_and_metric() -> None:
    for plots in ((*SFT, *REWARD, *PPO, *MORE_PPO), (*ARM_PPO, *MORE_ARM_PPO)):
        assert len({plot.title for plot in plots}) == len(plots)
        assert len({plot.lines[0].metric for plot in plots}) == len(plots)
