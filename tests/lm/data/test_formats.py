"""The columns of a row become a prompt and its responses; a row that is no pair gives the reason."""

from typing import Any

import pytest

from tercet.errors import InputError
from tercet.lm.data.examples import Message
from tercet.lm.data.formats import ENDS_WITH_ASSISTANT, NO_END, PROMPTS_DIFFER, RowReader
from tercet.lm.data.known_sets import NO_SCORE
from tercet.lm.data.parts import OTHER_PROMPT, TWO_SYSTEMS, Parts
from tercet.lm.data.turns import TOOL_RESPONSE, Fault, UnusableRowError

Row = dict[str, Any]  # Any: any JSON
NAN = float("nan")


def parts(row: Row, **columns: str) -> Parts:
    return RowReader(columns).parts(row)


def turns(*texts: str) -> tuple[Message, ...]:
    """User and assistant in turn."""
    return tuple(Message(("user", "assistant")[i % 2], text) for i, text in enumerate(texts))


def listed(*texts: str) -> list[Row]:
    """The same as a message list."""
    return [{"role": turn.role, "content": turn.text} for turn in turns(*texts)]


def hh(*texts: str) -> str:
    """The same as a transcript."""
    return "".join(f"\n\n{'Human' if turn.role == 'user' else 'Assistant'}: {turn.text}" for turn in turns(*texts))


BE_BRIEF = Message("system", "Be brief.")
SYSTEM = {"role": "system", "content": "Be brief."}
PAIR = Parts(turns("Egg?", "Which?", "Red."), "Boil it.", "No.")
BETTER, WORSE = ("Egg?", "Which?", "Red.", "Boil it."), ("Egg?", "Which?", "Red.", "No.")


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Egg?", "chosen": listed(*BETTER), "rejected": listed(*WORSE)},  # UltraFeedback, binarised
        {"prompt": " Egg?\n", "chosen": listed(*BETTER), "rejected": listed(*WORSE)},
        {"prompt": listed(*BETTER[:3]), "chosen": listed(*BETTER), "rejected": listed(*WORSE)},
        {"prompt": listed(*BETTER[:3]), "chosen": listed(*BETTER)[3:], "rejected": listed(*WORSE)[3:]},
        {"prompt": listed(*BETTER[:3]), "chosen": listed(*BETTER)[3], "rejected": listed(*WORSE)[3]},
        {"prompt": listed(*BETTER[:1]), "chosen": listed(*BETTER)[1:], "rejected": listed(*WORSE)[1:]},
        {"conversations": listed(*BETTER[:3]), "chosen": listed(*BETTER)[3], "rejected": listed(*WORSE)[3]},
        {"prompt": f"{hh(*BETTER[:3])}\n\nAssistant:", "chosen": hh(*BETTER), "rejected": hh(*WORSE)},
        {"prompt": "Egg?", "chosen": hh(*BETTER), "rejected": hh(*WORSE)},
        {"prompt": hh(*BETTER[:3]), "chosen": "Assistant: Boil it.", "rejected": " No."},
        {
            "prompt": hh(*BETTER[:1]),
            "chosen": f"Which?{hh('Red.', 'Boil it.')}",
            "rejected": f"Which?{hh('Red.', 'No.')}",
        },
        {"chosen": hh(*BETTER), "rejected": hh(*WORSE)},
        {"chosen": hh(*BETTER).replace("\n", "\r\n"), "rejected": hh(*WORSE).replace("\n", "\r")},
        {"chosen": listed(*BETTER), "rejected": listed(*WORSE)},
        {"question": "Red.", "history": [["Egg?", "Which?"]], "chosen": "Boil it.", "rejected": "No."},
        {"instruction": "Red.", "input": NAN, "history": [["Egg?", "Which?"]], "chosen": "Boil it.", "rejected": "No."},
        {"chosen": str(listed(*BETTER)).replace("'", '"'), "rejected": str(listed(*WORSE)).replace("'", '"')},
    ],
)
def test_the_prompt_of_a_pair_is_every_turn_before_the_last_answer(row: Row) -> None:
    assert parts(row) == PAIR


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"chosen": hh(*BETTER), "rejected": hh("Egg?", "No.")}, PROMPTS_DIFFER),
        ({"chosen": listed(*BETTER), "rejected": listed("Egg?", "No.")}, PROMPTS_DIFFER),
        ({"chosen": hh("Egg?", "Boil it."), "rejected": hh("Ham?", "No.")}, PROMPTS_DIFFER),
        ({"prompt": "Egg?", "chosen": listed(*BETTER), "rejected": listed("Egg?", "No.")}, PROMPTS_DIFFER),
        ({"prompt": hh("Egg?"), "chosen": f"Sure.{hh('And then?', 'Boil it.')}", "rejected": "No."}, PROMPTS_DIFFER),
        ({"prompt": "Egg?", "chosen": listed(*BETTER), "rejected": "No."}, PROMPTS_DIFFER),
        (
            {"prompt": "Egg?", "chosen": listed("Egg?", "Boil it.", "Thanks!"), "rejected": listed("Egg?", "No.")},
            NO_END,
        ),
        ({"prompt": "Egg?", "chosen": listed("Egg?", "Boil it."), "rejected": listed("Egg?")}, NO_END),
        ({"chosen": hh("Egg?", "Boil it.", "Thanks!"), "rejected": hh("Egg?", "No.")}, NO_END),
        ({"prompt": "Ham?", "chosen": listed(*BETTER), "rejected": listed(*WORSE)}, OTHER_PROMPT),
        ({"prompt": "Ham?", "chosen": hh(*BETTER), "rejected": hh(*WORSE)}, OTHER_PROMPT),
        ({"prompt": "Ham?", "response": hh(*BETTER)}, OTHER_PROMPT),
        ({"prompt": listed("Egg?", "Boil it.")}, ENDS_WITH_ASSISTANT),
        ({"prompt": hh("Egg?", "Boil it.")}, ENDS_WITH_ASSISTANT),
        ({"prompt": listed("Egg?", "Boil it."), "chosen": "a", "rejected": "b"}, ENDS_WITH_ASSISTANT),
        ({"messages": [*listed("Egg?", "Boil it."), listed("Egg?", "Boil it.")[1]]}, ENDS_WITH_ASSISTANT),
        ({"history": hh("Egg?", "Boil it."), "human_ref_A": "a", "human_ref_B": "b", "labels": 1}, ENDS_WITH_ASSISTANT),
        ({"messages": [SYSTEM, *listed("Egg?", "Boil it.")], "system": "Be long."}, TWO_SYSTEMS),
        ({"history": "Egg?", "human_ref_A": "a", "human_ref_B": "b", "labels": NAN}, NO_SCORE),
        ({"question": "Egg?", "answer_0": "a", "answer_1": "b", "score_0": NAN, "score_1": 1.0}, NO_SCORE),
    ],
)
def test_what_is_no_pair_or_no_prompt_says_why(row: Row, fault: Fault) -> None:
    with pytest.raises(UnusableRowError) as caught:
        parts(row)
    assert caught.value.fault == fault


def test_columns_that_nobody_knows_are_listed_with_both_maps() -> None:
    with pytest.raises(InputError, match=r"the columns are talk; .*\{prompt: YOUR_COLUMN\}, or \{messages: YOUR_COL"):
        parts({"talk": listed("Egg?", "Boil it.")})


def test_an_answer_about_speakers_is_no_transcript() -> None:
    text = "Like this:\n\nHuman: hello\n\nAssistant: hi"
    assert parts({"prompt": "A talk?", "response": text}) == Parts(turns("A talk?"), text, None)


@pytest.mark.parametrize("missing", [NAN, None, ""])
def test_nan_is_as_good_as_null_in_every_column(missing: object) -> None:
    alpaca = {"instruction": "Egg?", "input": missing, "output": "Boil it.", "system": missing, "history": missing}
    assert parts(alpaca) == Parts(turns("Egg?"), "Boil it.", None)
    assert parts({"prompt": "Egg?", "chosen": "Boil it.", "rejected": missing}).rejected is None
    assert parts({"prompt": "Egg?", "chosen": listed("Egg?", "Boil it."), "rejected": missing}).rejected is None
    assert parts({"prompt": "Egg?", "response": missing}) == Parts(turns("Egg?"), "", None)
    assert parts({"prompt": missing, "response": "Boil it."}).messages == ()
    assert parts({"messages": missing}).messages == ()
    assert parts({"messages": [{"role": "user", "content": missing}]}).messages == turns("")


def test_system_and_history_stand_in_front_of_the_prompt() -> None:
    row = {"instruction": "And now?", "input": "", "output": "Stop.", "system": "Be brief."}
    row["history"] = [["Go?", "Yes."], ["Then?", "Turn."]]
    asked = (BE_BRIEF, *turns("Go?", "Yes.", "Then?", "Turn.", "And now?"))
    assert parts(row) == Parts(asked, "Stop.", None)
    orca = {"system": "Be brief.", "question": "Egg?", "chosen": "Boil it.", "rejected": "No."}
    assert parts(orca) == Parts((BE_BRIEF, *turns("Egg?")), "Boil it.", "No.")
    open_orca = {"system_prompt": "Be brief.", "question": "Egg?", "response": "Boil it."}
    assert parts(open_orca) == Parts((BE_BRIEF, *turns("Egg?")), "Boil it.", None)
    with pytest.raises(InputError, match=r"history is a list of \[user, assistant\], not"):
        parts(row | {"history": "Go?"} | {"history": ["Go?", "Yes."]})


@pytest.mark.parametrize("prompt", [{}, {"prompt": "Egg?"}, {"prompt": [SYSTEM, *listed("Egg?")]}])
@pytest.mark.parametrize("in_front", [[], [SYSTEM]])
def test_a_system_message_is_told_once_wherever_it_stands(prompt: Row, in_front: list[Row]) -> None:
    row = prompt | {name: [*in_front, *listed("Egg?", f"{name}.")] for name in ("chosen", "rejected")}
    row |= {} if in_front else {"system": "Be brief."}
    assert parts(row) == Parts((BE_BRIEF, *turns("Egg?")), "chosen.", "rejected.")


def test_share_gpt_is_read_by_itself() -> None:
    talk = [{"from": "human", "value": "Egg?"}, {"from": "gpt", "value": "Boil it."}]
    assert parts({"conversations": talk}) == Parts(turns("Egg?"), "Boil it.", None)
    assert parts({"conversations": talk, "system": "Be brief."}).messages == (BE_BRIEF, *turns("Egg?"))


def test_context_goes_with_an_instruction() -> None:
    row = {"instruction": "Why?", "context": "It rains.", "response": "Clouds.", "category": "x"}
    assert parts(row) == Parts(turns("Why?\n\nIt rains."), "Clouds.", None)


def test_a_mapped_name_comes_before_what_the_columns_would_tell() -> None:
    row = {"messages": listed("Ham?", "Fry it."), "q": "Egg?", "prompt": listed("Egg?", "Boil it."), "note": "Hm."}
    assert parts(row).chosen == "Fry it."
    assert parts(row, prompt="q") == Parts(turns("Egg?"), "", None)
    assert parts(row, messages="prompt") == Parts(turns("Egg?"), "Boil it.", None)
    assert parts(row, prompt="q", system="note").messages == (Message("system", "Hm."), *turns("Egg?"))


def test_a_tool_call_is_no_answer_to_learn_but_may_stand_in_a_prompt() -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": {"name": "look_up"}}]}
    with pytest.raises(UnusableRowError) as caught:
        parts({"messages": [*listed("Egg?"), call]})
    assert caught.value.fault == TOOL_RESPONSE
    asked = [*listed("Egg?"), call, {"role": "tool", "content": "4 minutes"}]
    read = parts({"messages": [*asked, {"role": "assistant", "content": "Boil it."}]})
    assert [turn.role for turn in read.messages] == ["user", "assistant", "tool"]
    assert read.chosen == "Boil it."
