"""One scoring path: whoever asks, and whatever lies beside an answer, it earns the same."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tercet.config.lm import LmConfig
from tercet.errors import FailedError, InputError
from tercet.lm.batch import TokenBatch
from tercet.lm.data.examples import Example
from tercet.lm.models.roles import load_score_model
from tercet.lm.pair_batches import PairBatches, score_pairs
from tercet.lm.sampling.responses import Responses
from tercet.lm.scoring import Scorer, Tally, Term, by_foreign_model, by_function, by_model, load_terms, score_rows
from tercet.lm.text.encoder import Encoder

MakeConfig = Callable[..., LmConfig]

REWARDS = """
import math

def length(prompts, responses):
    return [len(response) for response in responses]

def question_marks(prompts, responses):
    return [prompt.count("?") for prompt in prompts]

def sometimes_nan(prompts, responses):
    return [math.nan if i == 1 else 0.0 for i in range(len(responses))]

def one_too_few(prompts, responses):
    return [0.0] * (len(responses) - 1)

def raises(prompts, responses):
    raise KeyError("no such word")

def parts(prompts, responses):
    asks = ["?" in prompt for prompt in prompts]
    long = [None if ask else len(response) for ask, response in zip(asks, responses)]
    return {"long": long, "one": [None if ask else 1 for ask in asks]}
"""


@pytest.fixture
def rewards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of the user's, in the working directory."""
    (tmp_path / "users_rewards.py").write_text(REWARDS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return "users_rewards"


TEXTS = ["Yes", "No, not at all", "I am", "ha", "", "Good"]


def responses_of(encoder: Encoder, examples: list[Example]) -> Responses:
    """Answers in plain English; the last two were cut off before their EOS."""
    ended = torch.tensor([True] * 4 + [False] * 2)
    ids = [encoder.response(text) for text in TEXTS]
    ids = [row if end else row[:-1] for row, end in zip(ids, ended.tolist(), strict=True)]
    ids[4] = encoder.response("x")[:1]
    texts = [text or "x" for text in TEXTS]
    batch = encoder.batch([encoder.prompt(example) for example in examples], ids)
    return Responses(examples, texts, batch, torch.zeros(batch.response_mask.shape), ended)


def weighted(config: LmConfig, own_path: str) -> Scorer:
    terms = load_terms(config, Encoder.of(config), own_path, None)
    return Scorer({name: Term(config.ppo.reward[name], give) for name, give in terms.items()})


def test_a_weighted_sum_of_functions(make_config: MakeConfig, rewards: str, examples: list[Example]) -> None:
    config = make_config(ppo={"reward": {f"{rewards}:length": 0.5, f"{rewards}:question_marks": -2.0}})
    encoder = Encoder.of(make_config(data={"max_response_tokens": 20}))
    responses, scorer = responses_of(encoder, examples), weighted(config, "")
    scores = scorer(responses)
    assert scores.tolist() == [1.5, 5.0, 0.0, 1.0, 0.5, 0.0]

    tally = Tally(scorer)
    assert torch.equal(tally(responses), scores) and torch.equal(tally(responses), scores)  # all calls are counted
    marks = -2.0 * sum(prompt.count("?") for prompt in responses.prompts) / 6
    length = 0.5 * sum(map(len, responses.texts)) / 6
    means = {f"term/{rewards}:length": length, f"term/{rewards}:question_marks": marks}
    assert tally.metrics == pytest.approx(means) and marks < 0
    alone = Tally(Scorer({"one": next(iter(scorer.terms.values()))}))
    alone(responses)
    assert alone.metrics == {}


def test_what_a_function_leaves_out_adds_nothing_and_is_counted(
    make_config: MakeConfig, rewards: str, examples: list[Example]
) -> None:
    config = make_config(ppo={"reward": {f"{rewards}:length": 1.0, f"{rewards}:parts": 2.0}})
    responses = responses_of(Encoder.of(make_config(data={"max_response_tokens": 20})), examples)
    tally = Tally(weighted(config, ""))
    lengths = torch.tensor([float(len(text)) for text in responses.texts])
    asks = torch.tensor(["?" in prompt for prompt in responses.prompts])
    expected = lengths + torch.where(asks, 0.0, 2.0 * (lengths + 1.0))  # no score for a question
    assert torch.equal(tally(responses), expected)
    metrics = tally.metrics
    assert metrics[f"unscored/{rewards}:parts"] == pytest.approx(float(asks.float().mean()))
    assert metrics[f"named/{rewards}:parts/long"] == pytest.approx(float(lengths[~asks].mean()))
    assert metrics[f"named/{rewards}:parts/one"] == 1.0
    assert f"unscored/{rewards}:length" not in metrics and f"named/{rewards}:length" not in "".join(metrics)


def test_functions_that_misbehave_are_named(make_config: MakeConfig, rewards: str, examples: list[Example]) -> None:
    responses = responses_of(Encoder.of(make_config()), examples)
    for name, message in (("sometimes_nan", "nan"), ("one_too_few", "5 scores for 6"), ("raises", "KeyError")):
        with pytest.raises(FailedError, match=rf"{rewards}:{name}.*{message}"):
            by_function(f"{rewards}:{name}")(responses)
    with pytest.raises(InputError, match="no function lengths; it has length"):
        by_function(f"{rewards}:lengths")


def test_no_reward_at_all(make_config: MakeConfig) -> None:
    config = make_config(ppo={"reward": {}})
    with pytest.raises(InputError, match=r"ppo\.reward: needs a reward whose weight"):
        load_terms(config, Encoder.of(config), "", None)


def test_a_score_depends_on_neither_batch_nor_asker(
    architecture: str, make_config: MakeConfig, examples: list[Example]
) -> None:
    config = make_config(architecture, data={"max_response_tokens": 20})
    encoder, model = Encoder.of(config), load_score_model(config)
    model.bias.data.fill_(0.5)
    pairs = [
        Example(example.messages, text, other, "made up", "here")
        for example, text, other in zip(examples[:4], TEXTS[:4], TEXTS[1:5], strict=True)
    ]
    responses = responses_of(encoder, examples)
    ppo = by_model(model, 4)(responses)
    assert torch.allclose(ppo, torch.cat([by_model(model, 1)(rows_of(responses, i)) for i in range(6)]), atol=1e-4)
    assert torch.allclose(ppo, score_rows(model, responses.batch, 100), atol=1e-4)
    for size in (1, 3):
        evaluation = score_pairs(model.scores, pairs, PairBatches(encoder, torch.device("cpu"), size))
        order = sorted(range(4), key=lambda i: len(pairs[i].prompt) + len(pairs[i].chosen))
        assert torch.allclose(evaluation.chosen, ppo[order], atol=1e-4)


def rows_of(responses: Responses, i: int) -> Responses:
    row = torch.tensor([i])
    batch = responses.batch.rows(row)
    return Responses(
        [responses.examples[i]], [responses.texts[i]], batch, responses.logprobs[row], responses.ended[row]
    )


def test_a_foreign_model_reads_the_text_with_its_own_tokenizer(
    make_config: MakeConfig, examples: list[Example], tmp_path: Path
) -> None:
    config = make_config("gpt2", data={"max_response_tokens": 20}, ppo={"micro_batch_size": 4})
    encoder, model = Encoder.of(config), load_score_model(config)
    model.bias.data.fill_(-0.5)
    model.save(tmp_path, encoder.tokenizer)
    responses = responses_of(encoder, examples)
    own = score_rows(model, responses.batch, 4)
    assert torch.allclose(by_foreign_model(str(tmp_path), config, encoder, 4)(responses), own, atol=1e-4)

    other = encoder.tokenizer
    swapped = {  # the same words under other ids: its scores must be those of the other ids
        token: 258 - token + 3 if token > 2 else token for token in range(259)
    }
    folder = tmp_path / "other"
    model.save(folder, other)
    text = (folder / "tokenizer.json").read_text()
    tree = json.loads(text)
    tree["model"]["vocab"] = {word: swapped[token] for word, token in tree["model"]["vocab"].items()}
    (folder / "tokenizer.json").write_text(json.dumps(tree))
    ids = torch.tensor([[swapped[token] for token in row] for row in responses.batch.ids.tolist()])
    expected = score_rows(model, TokenBatch(ids, responses.batch.prompt_lengths, responses.batch.response_mask), 4)
    assert torch.allclose(by_foreign_model(str(folder), config, encoder, 4)(responses), expected, atol=1e-4)
    assert not torch.allclose(expected, own, atol=0.1)


def test_models_and_functions_add_up(
    make_config: MakeConfig, rewards: str, examples: list[Example], tmp_path: Path
) -> None:
    config = make_config("llama", ppo={"reward": {"reward_model": 2.0, f"{rewards}:length": 1.0}})
    encoder, model = Encoder.of(config), load_score_model(config)
    model.save(tmp_path, encoder.tokenizer)
    responses = responses_of(encoder, examples)
    expected = 2.0 * score_rows(model, responses.batch, 8) + torch.tensor(
        [float(len(text)) for text in responses.texts]
    )
    assert torch.allclose(weighted(config, str(tmp_path))(responses), expected, atol=1e-4)
