"""The built-in set."""

from tercet.config.lm import Source
from tercet.lm.data.sources import read


def test_chatterbot_gives_clean_sentences() -> None:
    source = Source.model_validate("chatterbot")
    pairs = read(source, name="chatterbot", columns={}, needs_response=True).examples
    prompts = read(source, name="chatterbot", columns={}, needs_response=False).examples
    assert len(pairs) > 400
    assert len({e.key for e in prompts}) > 500
    assert all(e.chosen[0] in "\"'0123456789" or e.chosen[0].isupper() for e in pairs)
    assert all(e.chosen.rstrip("\"')")[-1] in ".!?" and "\n" not in e.chosen for e in pairs)
    assert len({(e.prompt, e.chosen) for e in pairs}) == len(pairs)
    assert ("What language are you written in?", "I am written in Python.") in {(e.prompt, e.chosen) for e in pairs}
    assert {e.rejected for e in prompts} == {None}
    assert not any(e.prompt.startswith("You ") or "fizzbuzz" in e.prompt for e in prompts)
    assert {"What is your age?", "Tell me a joke."} <= {e.prompt for e in prompts}  # end marks that were forgotten
    assert all(e.prompt[-1] in ".!?\"')" for e in pairs)
