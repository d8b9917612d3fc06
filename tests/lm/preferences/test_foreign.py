"""Reward models from elsewhere: their own tokenizer, their own forward pass, whatever their shape."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, BertTokenizer, PreTrainedTokenizerBase

from tercet.config.lm import LmConfig
from tercet.errors import FailedError, InputError
from tercet.lm.data.examples import Example, Message
from tercet.lm.preferences.foreign import ForeignRewardModel, check_foreign
from tercet.lm.text.encoder import Encoder
from tercet.lm.text.tokenizers import byte_tokenizer

MakeConfig = Callable[..., LmConfig]

CHATML = (
    "{% for m in messages %}<s>{{ m['role'] }}\n{{ m['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)
SIZE = {"vocab_size": 260, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZE |= {"intermediate_size": 32, "pad_token_id": 0, "initializer_range": 0.3}
SHAPES: dict[str, dict[str, object]] = {
    "bert": SIZE,
    "deberta-v2": SIZE,
    "llama": SIZE | {"pad_token_id": None},
    "gpt2": SIZE,
}


def question(text: str) -> Example:
    return Example((Message("user", text),), "", None, "made up", "row 1")


ASKED = [(question("Why?"), "So."), (question("Who are you?"), "A machine, no more.</s>"), (question("Why?"), "No.")]


def with_separators() -> PreTrainedTokenizerBase:
    """[CLS] a [SEP] b [SEP], as BERT's tokenizer writes a pair of texts, letter by letter."""
    letters = [chr(number) for number in range(33, 127)]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    return BertTokenizer(vocab={word: number for number, word in enumerate(words)}, model_max_length=10**9)


def saved(folder: Path, kind: str, tokenizer: PreTrainedTokenizerBase, **more: object) -> str:
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **SHAPES[kind] | {"num_labels": 1} | more)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("kind", SHAPES)
def test_a_batch_gives_the_scores_that_transformers_gives_one_by_one(
    kind: str, make_config: MakeConfig, tmp_path: Path
) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = CHATML
    model = ForeignRewardModel.load(saved(tmp_path, kind, tokenizer), make_config(), "hh", batch_size=4)
    readings = [model.encode(example, text) for example, text in ASKED]
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        one_by_one = [theirs(torch.tensor([reading["input_ids"]])).logits[0, 0] for reading in readings]
    torch.testing.assert_close(model.scores(readings), torch.stack(one_by_one), rtol=0, atol=1e-5)
    assert torch.stack(one_by_one).std() > 0.01


def test_a_template_writes_the_whole_conversation(make_config: MakeConfig, tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = CHATML
    model = ForeignRewardModel.load(saved(tmp_path, "llama", tokenizer), make_config(), "hh", batch_size=4)
    turns = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
    wanted = tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False)
    assert model.encode(*ASKED[0])["input_ids"] == wanted
    ids = model.encode(*ASKED[1])["input_ids"]
    assert ids.count(tokenizer.eos_token_id) == 2  # one a turn: what the answer wrote is text


def test_separators_make_a_pair_of_prompt_and_answer(make_config: MakeConfig, tmp_path: Path) -> None:
    tokenizer = with_separators()
    model = ForeignRewardModel.load(saved(tmp_path, "bert", tokenizer), make_config(), "hh", batch_size=4)
    reading = model.encode(*ASKED[1])
    assert {**reading} == {**tokenizer("Who are you?", "A machine, no more.</s>")}
    assert reading["input_ids"].count(3) == 2 and sorted(set(reading["token_type_ids"])) == [0, 1]
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    inputs = {key: torch.tensor([row]) for key, row in reading.items()}
    with torch.no_grad():
        torch.testing.assert_close(model.scores([model.encode(*ASKED[0]), reading])[1], theirs(**inputs).logits[0, 0])


def test_a_transcript_where_there_is_neither(make_config: MakeConfig, tmp_path: Path) -> None:
    model = ForeignRewardModel.load(saved(tmp_path, "llama", byte_tokenizer()), make_config(), "chat", batch_size=4)
    example, text = ASKED[0]
    ids = model.encode(example, text)["input_ids"]
    assert model.tokenizer.decode(ids) == "\n\nHuman: Why?\n\nAssistant: So.</s>"
    assert model.encode(example, text, False)["input_ids"] == ids[:-1]  # an answer that was cut


def test_what_is_no_reward_model(make_config: MakeConfig, tmp_path: Path) -> None:
    two = saved(tmp_path / "two", "bert", byte_tokenizer(), num_labels=2)
    with pytest.raises(InputError, match=r"ppo\.reward: .*has 2 outputs per text; a reward model has one"):
        ForeignRewardModel.load(two, make_config(ppo={"reward": {two: 1.0}}), "hh", batch_size=4)


def test_a_window_that_is_too_short_is_refused_before_and_during_scoring(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    name = saved(tmp_path, "gpt2", byte_tokenizer(), n_positions=40)
    prompts = [question("Why?"), question("Why, then, is it that you are here?")]
    config = make_config(data={"max_prompt_tokens": 64}, ppo={"reward": {name: 1.0}})
    encoder = Encoder.of(config)
    model = ForeignRewardModel.load(name, config, encoder.style, batch_size=4)
    check_foreign(model, encoder, prompts[:1])
    with pytest.raises(InputError, match=r"reads 40 tokens, but a prompt of \d+ .*ppo\.max_response_tokens=8 need"):
        check_foreign(model, encoder, prompts)
    with pytest.raises(FailedError, match=r"reads 40 tokens, but a prompt with its response has"):
        model.scores([model.encode(prompts[1], "Because of many things.")])
