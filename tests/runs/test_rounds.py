"""The names of steps in rounds."""

import pytest

from tercet.runs.rounds import in_round, kind_of, results_in_round, round_of


@pytest.mark.parametrize(("number", "name"), [(0, "ppo"), (1, "ppo-1"), (12, "ppo-12")])
def test_a_name_gives_its_step_and_its_round(number: int, name: str) -> None:
    assert in_round("ppo", number) == name
    assert (kind_of(name), round_of(name)) == ("ppo", number)


def test_results_of_a_round_stand_under_its_number() -> None:
    assert results_in_round({"kl": 1.0}, 0) == {"kl": 1.0}
    assert results_in_round({"kl": 1.0}, 2) == {"rounds": {"2": {"kl": 1.0}}}
