"""The token view shows the tokens that a step reads, and is readable without colour."""

from collections.abc import Callable

import pytest
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase

from tercet.config.lm import LmConfig
from tercet.lm.data.examples import Example, Message
from tercet.lm.data.splits import StepName
from tercet.lm.imitation import SftBatches
from tercet.lm.text.encoder import Encoder
from tercet.lm.text.token_view import pieces, shown, token_rows
from tercet.lm.text.tokenizers import byte_tokenizer
from tercet.train.device import device_of

MakeConfig = Callable[..., LmConfig]
PAIR = Example((Message("user", "a</s>"),), "bcd", "be", "made up", "row 0")
TURNS = "{% for m in messages %}<s>{{ m.content }}</s>{% endfor %}{{ '\n' }}"


def lines(step: StepName, make_config: MakeConfig, **sections: dict[str, str]) -> list[str]:
    config = make_config(model={"chat_template": TURNS}, data={"style": "chat"}, **sections)
    encoder = Encoder.of(config)
    losses = {"sft_loss_on": config.sft.loss_on, "reward_loss": config.reward.loss}
    return [shown(row, encoder.tokenizer).plain for row in token_rows(step, PAIR, encoder, **losses)]


def test_each_step_shows_what_it_learns(make_config: MakeConfig) -> None:
    prompt = "⟦<s>⟧·a·<·/·s·>·⟦</s>⟧·↵"  # what the user wrote is text
    assert lines("sft", make_config) == [f"answer: {prompt}▸b·c·d·⟦</s>⟧◂"]
    assert lines("sft", make_config, sft={"loss_on": "text"}) == [f"answer: ⟦<s>⟧▸{prompt[6:]}·b·c·d·⟦</s>⟧◂"]
    assert lines("ppo", make_config) == [f"prompt: {prompt}▸sampled: up to 8 tokens, until ⟦</s>⟧◂"]
    assert lines("reward", make_config) == [f"chosen: {prompt}·b·c·d▸⟦</s>⟧◂", f"rejected: {prompt}·b·e▸⟦</s>⟧◂"]
    assert lines("reward", make_config, reward={"loss": "per_token"}) == [
        f"chosen: {prompt}·b▸c·d·⟦</s>⟧◂",
        f"rejected: {prompt}·b▸e·⟦</s>⟧◂",
    ]


@pytest.mark.parametrize("loss_on", ["answer", "text"])
def test_what_sft_shows_as_learned_is_what_its_loss_reads(loss_on: str, make_config: MakeConfig) -> None:
    config = make_config(sft={"loss_on": loss_on})
    encoder = Encoder.of(config)
    (row,) = token_rows("sft", PAIR, encoder, sft_loss_on=loss_on, reward_loss="last_token")
    (batch,) = SftBatches(encoder, device_of(config.device), config.sft).of([PAIR])
    assert batch.ids[0].tolist() == list(row.ids) and int(batch.prompt_lengths[0]) == row.learned


def test_a_long_text_is_shown_from_both_ends() -> None:
    tokenizer = byte_tokenizer()
    config = LmConfig.model_validate({"model": {"path": "random"}, "data": {"style": "plain"}})
    example = Example((Message("user", "x" * 40 + "y" * 60),), "z", None, "made up", "row 0")
    (row,) = token_rows("ppo", example, Encoder.of(config), sft_loss_on="answer", reward_loss="last_token")
    text = shown(row, tokenizer).plain
    assert "x·x· ... 37 tokens ... ·y·y" in text and text.count("x") == 32


def pieces_of(tokenizer: PreTrainedTokenizerBase, text: str) -> list[str]:
    return [piece for piece, _ in pieces(tokenizer, tokenizer.encode(text, add_special_tokens=False))]


def test_characters_of_several_tokens_are_one_piece_and_special_tokens_are_marked() -> None:
    tokenizer = byte_tokenizer()
    assert pieces_of(tokenizer, "a é你") == ["a", " ", "é", "你"]
    ids = tokenizer.encode("é", add_special_tokens=False)
    assert pieces(tokenizer, [*ids[:1], 2, *ids[:1]]) == [("\ufffd", False), ("</s>", True), ("\ufffd", False)]
    tokenizer.add_tokens([AddedToken("<think>", special=False)])
    assert pieces(tokenizer, tokenizer.encode("a<think>")) == [("a", False), ("<think>", True)]
