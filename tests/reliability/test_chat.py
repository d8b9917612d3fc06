"""Any bytes that are typed and any text that a model answers: the conversation goes on, and commands no terminal."""

import io
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.table import Table
from tests.reliability.amounts import Count, cases

from tercet.config.load import load_lm_config
from tercet.errors import InputError
from tercet.lm.chat import LONGEST_LINE, Conversation, typed
from tercet.lm.stages import Stage
from tercet.report.blocks import Answer, Code, Comparison, Fold, Page, Prose, Section
from tercet.report.blocks import Table as Rows
from tercet.report.render_html import render as render_html
from tercet.report.render_markdown import render as render_markdown
from tercet.runs.screen import screen, visible

COUNT = Count("chat")
count = COUNT.fixture()

COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

# text of any kind, with more of what commands a terminal or a page than chance would give
PIECES = [
    "\x1b[2J",
    "\x1b]0;",
    "\x07",
    "\r",
    "\x9b",
    "\u202e",
    "\udcff",
    "[red]",
    "[/]",
    ":smile:",
    "<script>",
    "```",
    "|",
    "\n# ",
]
hostile = st.lists(st.one_of(st.text(st.characters(exclude_categories=[]), max_size=20), st.sampled_from(PIECES))).map(
    "".join
)
BYTES = [
    b"\xff",
    b"\0",
    b"\xed\xa0\x80",
    b"\xc3",
    b"/new",
    b"/stage ",
    b"/greedy",
    b"/",
    b"</s>",
    b"\r",
    b" ",
    b"x" * LONGEST_LINE,
]
lines = st.lists(
    st.lists(
        st.one_of(
            st.binary(max_size=20),
            st.sampled_from(BYTES),
            hostile.map(lambda text: text.encode(errors="surrogatepass")),
        )
    ).map(b"".join),
    max_size=6,
)


@pytest.fixture(scope="module")
def conversation() -> Conversation:
    """A talk with random weights of one layer, which answer four tokens of anything."""
    shape = (
        "{model_type: opt, vocab_size: 260, hidden_size: 8, num_hidden_layers: 1, ffn_dim: 8, num_attention_heads: 2, "
    )
    settings = [f"model.architecture={shape}max_position_embeddings: 128}}", "eval.max_response_tokens=4"]
    config = load_lm_config("tiny", settings)
    return Conversation([Stage("base", "")], "base", config, write=lambda text: None, seed=0)


@settings(max_examples=cases(400))
@given(parts=lines)
def test_any_bytes_on_standard_input_leave_the_conversation_going(
    conversation: Conversation, parts: list[bytes]
) -> None:
    conversation.turns.clear()
    stream = io.BytesIO(b"\n".join(parts).replace(b"/quit", b""))
    read = list(typed(stream.readline))
    given = stream.getvalue()
    assert len(read) == given.count(b"\n") + (given[-1:] not in (b"", b"\n"))
    conversation.hold(read)
    for line in read:
        COUNT.note(refused=isinstance(line, InputError))
    answer = conversation.reply("Hello?")
    assert [(turn.role, turn.text) for turn in conversation.turns[-2:]] == [("user", "Hello?"), ("assistant", answer)]


@settings(max_examples=cases(400))
@given(text=hostile)
def test_any_text_reaches_the_screen_without_commands(text: str) -> None:
    COUNT.note(refused=False)
    shown = visible(text)
    assert not COMMANDS.search(shown)
    assert visible(shown) == shown
    assert COMMANDS.sub("", text) == text if shown == text else COMMANDS.search(text)
    file = io.StringIO()
    console = screen(file=file, width=80)
    table = Table(text, title=text)
    table.add_row(text, style="red")
    console.print(table)
    console.print(text, soft_wrap=True)
    assert not COMMANDS.search(file.getvalue())


@settings(max_examples=cases(400))
@given(text=hostile)
def test_any_text_in_a_report_stays_text(text: str) -> None:
    COUNT.note(refused=False)
    name = text.replace("`", "")  # a name in a sentence of ours, whose own `code` is kept
    blocks = [
        Prose(name),
        Rows(text, name, [text], [[text]], "l"),
        Comparison(text, [(text, [Answer("sft", "sft", text, text)])]),
        Code("text", text),
        Fold(text, [Prose(name)]),
    ]
    page = Page(title=text, subtitle=text, top=blocks, sections=[Section("anchor", text, blocks)], footer="")
    html, markdown = render_html(page), render_markdown(page)
    assert not COMMANDS.search(html + markdown)
    html.encode("utf-8")
    assert "<script>" not in html
    inside = re.sub("(```+)text\n.*?\n\\1\n", "", markdown, flags=re.DOTALL)
    assert "<script>" not in inside
    rows = [line for line in inside.splitlines() if line.startswith("|")]
    assert all(len(re.findall(r"(?<!\\)(?:\\\\)*\|", row)) == 2 for row in rows)
