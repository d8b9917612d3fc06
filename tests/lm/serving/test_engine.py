"""Many clients are answered from one batch, and each gets what it would get alone."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
import torch

from tercet.config.lm import LmConfig
from tercet.errors import FailedError, InputError
from tercet.lm.data.examples import Example, Message
from tercet.lm.sampling.responses import respond
from tercet.lm.serving import engine as module
from tercet.lm.serving.asks import Ask, Event, Piece, Started, WindowError
from tercet.lm.serving.batch import Batch
from tercet.lm.serving.engine import Engine
from tercet.lm.stages import Stage

MakeConfig = Callable[..., LmConfig]
HELLO = Ask("base", "Hello", max_tokens=12, temperature=1.0, seed=1)


@pytest.fixture(scope="module", params=["llama", "gpt2"], ids=["decoder", "stepper"])
def engine(request: pytest.FixtureRequest, make_config: MakeConfig) -> Iterator[Engine]:
    serving = Engine([Stage("base", "")], make_config(request.param))
    yield serving
    serving.close()


class Client:
    """The events of one Ask."""

    def __init__(self, engine: Engine, ask: Ask) -> None:
        self.events: SimpleQueue[Event] = SimpleQueue()
        self.num_choices = ask.num_choices
        self.cancel = engine.submit(ask, self.events.put)

    def next(self) -> Any:
        event = self.events.get(timeout=60)
        if isinstance(event, Exception):
            raise event
        return event

    def pieces(self) -> list[Piece]:
        assert isinstance(self.next(), Started)
        pieces: list[Piece] = []
        while sum(bool(piece.finish) for piece in pieces) < self.num_choices:
            pieces.append(self.next())
        return pieces

    def texts(self) -> list[str]:
        pieces = self.pieces()
        return ["".join(p.text for p in pieces if p.choice == number) for number in range(self.num_choices)]


def test_a_response_does_not_depend_on_the_clients_beside_it(engine: Engine) -> None:
    asks = [
        replace(HELLO, prompt=prompt, seed=seed, max_tokens=length, temperature=temperature)
        for seed, (prompt, length, temperature) in enumerate(
            [("Hello", 12, 1.0), ("Why is the sky blue", 3, 0.7), ("a", 20, 1.3), ("Hello", 12, 0.0)] * 2
        )
    ]
    alone = [Client(engine, ask).texts() for ask in asks]
    together = [Client(engine, ask) for ask in asks]
    assert [client.texts() for client in together] == alone
    assert len({texts[0] for texts in alone}) > 5


def test_more_clients_than_rows_wait_for_their_turn(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = [Client(engine, replace(HELLO, seed=seed)).texts() for seed in range(4)]
    monkeypatch.setattr(module, "MOST_ROWS", 2)
    clients = [Client(engine, replace(HELLO, seed=seed)) for seed in range(4)]
    most = engine.call(lambda: sum(len(batch.rows) for batch in engine._batches["base"])).result(60)
    assert most <= 2
    assert [client.texts() for client in clients] == alone


def test_greedy_responses_to_a_conversation_are_those_of_the_rest_of_the_program(engine: Engine) -> None:
    turns = (Message("user", "Hi"), Message("assistant", "Yes"), Message("user", "Why?"))
    found = Client(engine, Ask("base", turns, max_tokens=8, temperature=0.0)).texts()
    policy = engine.load("base").policy
    expected = respond(
        policy,
        engine.encoder,
        [Example(turns, "", None, "", "")],
        generator=torch.Generator(),
        temperature=0.0,
        max_tokens=8,
    )
    assert found == expected.texts


def test_choices_differ_and_the_same_seed_gives_the_same(engine: Engine) -> None:
    ask = replace(HELLO, num_choices=4)
    first = Client(engine, ask).texts()
    assert len(set(first)) == 4
    assert Client(engine, ask).texts() == first
    unseeded = replace(HELLO, seed=None)
    assert Client(engine, unseeded).texts() != Client(engine, unseeded).texts()


def test_log_probabilities_are_those_of_a_plain_forward_at_temperature_1(engine: Engine) -> None:
    ids = (5, 9, 7)
    pieces = Client(engine, replace(HELLO, prompt=ids, temperature=0.6, num_likely=3)).pieces()
    tokens = [token for piece in pieces for token in piece.tokens]
    assert len(tokens) == sum(piece.num_tokens for piece in pieces)
    model, vocabulary = engine.load("base").policy.model, engine._vocabulary
    row = list(ids)
    for token in tokens:
        with torch.no_grad():
            logprobs = model(torch.tensor([row]), use_cache=False).logits[0, -1].log_softmax(-1)
        best = logprobs.topk(3)
        assert [one.logprob for one in token.likely] == pytest.approx(best.values.tolist(), abs=1e-3)
        assert [one.text for one in token.likely] == [vocabulary.text(one) for one in best.indices.tolist()]
        # several bytes may have the text of a part of a character
        row.append(int((logprobs - token.logprob).abs().argmin()))
        assert float(logprobs[row[-1]]) == pytest.approx(token.logprob, abs=1e-3)
        assert row[-1] >= 260 or vocabulary.text(row[-1]) == token.text


def test_top_p_0_takes_the_most_likely_token(engine: Engine) -> None:
    greedy = Client(engine, replace(HELLO, temperature=0.0)).texts()
    assert Client(engine, replace(HELLO, temperature=2.0, top_p=0.0)).texts() == greedy


def test_a_stop_text_ends_a_response(engine: Engine) -> None:
    whole = Client(engine, replace(HELLO, prompt="abc", temperature=0.0, max_tokens=20)).texts()[0]
    stop = whole[3:5]
    pieces = Client(engine, replace(HELLO, prompt="abc", temperature=0.0, max_tokens=20, stop=(stop,))).pieces()
    assert "".join(piece.text for piece in pieces) == whole[: whole.index(stop)]
    assert (pieces[-1].finish, sum(piece.num_tokens for piece in pieces) < 20) == ("stop", True)


def test_a_client_that_goes_leaves_the_batch(engine: Engine) -> None:
    client = Client(engine, replace(HELLO, max_tokens=45))
    client.next()
    client.cancel()
    engine.call(lambda: None).result(60)
    engine.call(lambda: None).result(60)
    rows = engine.call(lambda: [row for batch in engine._batches["base"] for row in batch.rows]).result(60)
    assert all(row.is_done for row in rows)


def order_of(config: LmConfig, asks: list[Ask]) -> list[tuple[str, Event]]:
    """Ask several stages of a new engine at once; return their events in the order in which they came."""
    serving, events = Engine([Stage("base", ""), Stage("sft", "")], config), SimpleQueue[tuple[str, Event]]()
    try:
        for ask in asks:
            serving.submit(ask, lambda event, name=ask.stage: events.put((name, event)))
        found: list[tuple[str, Event]] = []
        while sum(isinstance(event, Piece) and bool(event.finish) for _, event in found) < len(asks):
            found.append(events.get(timeout=60))
        return found
    finally:
        serving.close()


def test_a_stage_has_answered_before_the_next_one_is_loaded(make_config: MakeConfig) -> None:
    found = order_of(make_config("llama"), [HELLO, replace(HELLO, stage="sft"), HELLO])
    names = [name for name, _ in found]
    num_base = names.count("base")
    assert names == ["base"] * num_base + ["sft"] * (len(names) - num_base)
    assert sum(isinstance(event, Started) for _, event in found) == 3


def test_a_long_answer_does_not_keep_another_stage_from_being_loaded(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TOKENS_BETWEEN_LOADS", 5)
    long = replace(HELLO, max_tokens=40)
    found = order_of(make_config("llama"), [long, replace(HELLO, stage="sft")])
    start = next(i for i, (name, event) in enumerate(found) if name == "sft" and isinstance(event, Started))
    before = sum(event.num_tokens for _, event in found[:start] if isinstance(event, Piece))
    assert 3 <= before <= 6  # the text of a part of a character is held back
    assert any(name == "base" for name, _ in found[start:])


def test_prepared_stages_answer_and_one_that_cannot_be_loaded_tells_who_asks(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    serving = Engine([Stage("base", ""), Stage("sft", str(tmp_path / "gone"))], make_config("llama"))
    serving.prepare()
    assert Client(serving, HELLO).texts()
    assert serving.call(lambda: set(serving._loaded)).result(60) == {"base"}
    with pytest.raises(Exception, match="gone"):
        Client(serving, replace(HELLO, stage="sft")).next()
    serving.close()


@pytest.mark.parametrize(
    ("ask", "error", "message"),
    [
        (Ask("ppo", "Hi"), InputError, "stage 'ppo': this run has base"),
        (Ask("base", "x" * 70), WindowError, "the prompt has 70 tokens, but the model reads 64 tokens in all"),
        (Ask("base", "x", max_tokens=64), WindowError, "has 1 tokens and max_tokens is 64"),
        (Ask("base", ()), InputError, "at least one token"),
        (Ask("base", (1, 300)), InputError, "ids from 0 to 299"),
    ],
)
def test_what_cannot_be_answered_is_told_and_the_next_client_is_answered(
    engine: Engine, ask: Ask, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Client(engine, ask).next()
    assert Client(engine, HELLO).texts()


def test_without_a_limit_the_default_of_the_run_applies(engine: Engine) -> None:
    pieces = Client(engine, Ask("base", "Hi", temperature=1.0, seed=3)).pieces()
    assert sum(piece.num_tokens for piece in pieces) <= 62  # the window of 64 is shorter than eval.max_response_tokens


@pytest.mark.parametrize("temperature", [1e-40, 1e-30, 1e-5])
def test_a_temperature_near_0_is_greedy_and_harms_nobody(engine: Engine, temperature: float) -> None:
    greedy, beside = (Client(engine, replace(HELLO, temperature=value)).texts() for value in (0.0, 1.0))
    clients = [Client(engine, replace(HELLO, temperature=value)) for value in (1.0, temperature)]
    assert [client.texts() for client in clients] == [beside, greedy]


def test_a_row_that_cannot_be_sampled_fails_without_the_others(engine: Engine) -> None:
    beside = "".join(Client(engine, HELLO).texts())
    sound, damaged = [], []

    def sample() -> None:
        rows = engine._rows(HELLO, sound.append, []) + engine._rows(replace(HELLO, num_choices=2), damaged.append, [])
        loaded = engine.load("base")
        with loaded.policy.autocast():
            batch = Batch(loaded.state([row.prompt for row in rows], 0), rows, engine._vocabulary)
            batch._logits = batch._logits.clone()
            batch._logits[2, 5] = float("inf")  # of the last choice
            while batch.rows:
                batch.step()

    engine.call(sample).result(60)
    assert "".join(piece.text for piece in sound) == beside
    (error,) = damaged
    assert isinstance(error, FailedError) and "weights are damaged" in str(error)


def test_damaged_weights_are_told_to_all_clients(make_config: MakeConfig) -> None:
    serving = Engine([Stage("base", "")], make_config("gpt2"))
    Client(serving, HELLO).texts()
    policy = serving.call(lambda: serving.load("base").policy).result(60)
    with torch.no_grad():
        policy.model.transformer.ln_f.weight.fill_(float("nan"))  # type: ignore[union-attr]  # GPT-2's
    for client in [Client(serving, HELLO), Client(serving, replace(HELLO, num_choices=2))]:
        assert isinstance(client.next(), Started)
        with pytest.raises(Exception, match="weights are damaged"):
            client.next()
        assert client.events.empty()
    serving.close()
