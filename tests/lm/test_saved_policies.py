"""What is saved answers alike when transformers alone loads it: config, generation config and tokenizer agree."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from tercet.config.lm import LmConfig
from tercet.lm.data.examples import Example, Message
from tercet.lm.models.roles import Policy, load_policy
from tercet.lm.sampling.generate import generate
from tercet.lm.text.encoder import Encoder
from tercet.lm.text.tokenizers import byte_tokenizer
from tercet.runs.folder import RunFolder

MakeConfig = Callable[..., LmConfig]
MOST = 12
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>{% endif %}"
)
QUESTIONS = [Example((Message("user", text),), "", None, "asked", text) for text in ("Hi", "Who are you?", "a b c")]
END_OF_TURN = 260


def saved_tokenizer(folder: Path, **special: str | None) -> str:
    """Bytes with ChatML's two tokens, 259 and 260, and a template; other special tokens as given."""
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = CHATML
    for name, token in special.items():
        setattr(tokenizer, name, token)
    tokenizer.save_pretrained(folder)
    return str(folder)


def greedy(policy: Policy, encoder: Encoder) -> list[list[int]]:
    """Our own greedy answers."""
    prompts, chance = [encoder.prompt(question) for question in QUESTIONS], torch.Generator()
    drawn = generate(
        policy.model, prompts, end_ids=encoder.ends.ids, max_tokens=MOST, temperature=0.0, generator=chance
    )
    return drawn.tolist()


def greedy_of_transformers(folder: Path, prompts: list[str]) -> list[list[int]]:
    """Those of `generate()` on what lies in the folder, without the pads behind an end."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    drawn = model.generate(ids, attention_mask=mask, max_new_tokens=MOST)[:, ids.shape[1] :].tolist()
    ends = model.generation_config.eos_token_id
    ends = {ends} if isinstance(ends, int) else set(ends)
    lengths = [next((i + 1 for i, token in enumerate(row) if token in ends), len(row)) for row in drawn]
    return [row[:length] for row, length in zip(drawn, lengths, strict=True)]


def assert_alike(folder: Path, policy: Policy, encoder: Encoder) -> None:
    """One by one and as a batch, the folder's answers are ours; its three files agree on what ends and what fills."""
    ours = greedy(policy.eval(), encoder)
    texts = [encoder.tokenizer.decode(encoder.prompt(question)) for question in QUESTIONS]
    assert greedy_of_transformers(folder, texts) == ours
    assert [answer for text in texts for answer in greedy_of_transformers(folder, [text])] == ours
    config, settings = AutoConfig.from_pretrained(folder), GenerationConfig.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert config.eos_token_id == settings.eos_token_id
    assert {tokenizer.eos_token_id} <= set(encoder.ends.ids)
    assert config.pad_token_id == settings.pad_token_id == tokenizer.pad_token_id
    assert tokenizer.chat_template == encoder.tokenizer.chat_template


@pytest.mark.parametrize("lora", [{}, {"rank": 2}], ids=["full", "lora"])
@pytest.mark.parametrize(
    ("special", "ends"),
    [
        ({}, (2, 260)),  # a base model with a chat template: its EOS is not what ends a turn
        ({"eos_token": "<|im_end|>"}, (260,)),
        ({"eos_token": "<|im_end|>", "pad_token": None}, (260,)),
        ({"bos_token": "</s>", "unk_token": "</s>", "pad_token": None}, (2, 260)),
    ],
    ids=["base", "instruct", "no pad", "one special token"],
)
def test_a_saved_policy_answers_as_ours_does(
    special: dict[str, str | None], ends: tuple[int, ...], lora: dict[str, Any], make_config: MakeConfig, tmp_path: Path
) -> None:
    tokenizer = saved_tokenizer(tmp_path / "tokenizer", **special)
    config = make_config("llama", lora=lora, data={"style": "chat"})
    config = config.model_copy(update={"model": config.model.model_copy(update={"tokenizer": tokenizer})})
    encoder, policy = Encoder.of(config), load_policy(config, learns=True).eval()
    head = policy.model.get_output_embeddings()
    assert encoder.ends.ids == ends and head is not None
    with torch.no_grad():  # what would be the fifth token ends the second answer: two rows of the head change place
        fifth = greedy(policy, encoder)[1][4]
        head.weight[[fifth, END_OF_TURN]] = head.weight[[END_OF_TURN, fifth]]
    lengths = [len(answer) for answer in greedy(policy, encoder)]
    assert lengths[1] == 5 and max(lengths) == MOST  # one ends by itself, one does not
    policy.model.generation_config.repetition_penalty = 9.0  # as the model came, and as it was not trained
    policy.save(tmp_path / "saved", encoder.tokenizer, encoder.ends.ids)
    assert_alike(tmp_path / "saved", policy, encoder)


@pytest.mark.parametrize("stage", ["sft", "ppo"])
def test_every_stage_of_a_run_answers_as_ours_does(stage: str, small_run: Path) -> None:
    config, folder = LmConfig.model_validate(RunFolder.read(small_run).config_dict), small_run / stage / "model"
    assert_alike(folder, load_policy(config, path=str(folder)), Encoder.of(config))
