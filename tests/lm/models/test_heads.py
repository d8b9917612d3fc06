"""Score heads on every architecture, and saved tokenizers whose pad token never ends a text."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerBase

from tercet.config.lm import LmConfig, ModelConfig
from tercet.lm.batch import TokenBatch, pad
from tercet.lm.models.roles import ScoreModel, load_score_model
from tercet.lm.models.weights import load_causal, load_scorer
from tercet.lm.text.tokenizers import byte_tokenizer

MakeConfig = Callable[..., LmConfig]

TEXTS = ["What a long text this is, is it not?", "a", "Hello there"]


def tokenizer_of(**specials: str | None) -> PreTrainedTokenizerBase:
    """Return the byte tokenizer with these special tokens; None removes one."""
    tokenizer = byte_tokenizer()
    for name, token in specials.items():
        setattr(tokenizer, name, token)
    return tokenizer


# as models on the hub have them; a missing pad is EOS, as load_tokenizer makes it
TOKENIZERS = {
    "own pad": tokenizer_of(),
    "no pad, BOS": tokenizer_of(pad_token="</s>"),
    "no pad, unknown": tokenizer_of(pad_token="</s>", unk_token="<pad>"),
    "the unknown token is the pad": tokenizer_of(unk_token="<pad>"),
    "no BOS": tokenizer_of(pad_token="</s>", bos_token=None),
    "one for all": tokenizer_of(pad_token="</s>", bos_token="</s>", unk_token="</s>"),
}


def saved_and_read(
    model: ScoreModel, tokenizer: PreTrainedTokenizerBase, folder: Path, ends: tuple[int, ...] = ()
) -> dict[str, torch.Tensor]:
    """Return the scores of TEXTS from Tercet, and from transformers one by one and as a padded batch."""
    model.save(folder, tokenizer, ends)
    theirs = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    saved = AutoTokenizer.from_pretrained(folder)
    last = (ends or (tokenizer.eos_token_id,))[-1]
    ids = [[*tokenizer.encode(text, add_special_tokens=False), last] for text in TEXTS]
    batch = pad([row[:1] for row in ids], [row[1:] for row in ids], pad_id=0)
    found = {}
    with torch.no_grad():
        found["ours"] = model.scores(batch)
        found["one by one"] = torch.cat([theirs(torch.tensor([row])).logits[:, 0] for row in ids])
        for side in ("right", "left"):
            padded = saved.pad({"input_ids": ids}, return_tensors="pt", padding_side=side)
            found[side] = theirs(**padded).logits[:, 0]
        found["as it pads"] = theirs(**saved.pad({"input_ids": ids}, return_tensors="pt")).logits[:, 0]
    return {name: scores + (theirs.config.score_bias if name != "ours" else 0.0) for name, scores in found.items()}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_transformers_gives_the_same_scores_for_a_padded_batch(
    kind: str, make_config: MakeConfig, tmp_path: Path
) -> None:
    model = load_score_model(make_config("llama"))
    model.bias.data.fill_(0.5)
    found = saved_and_read(model, TOKENIZERS[kind], tmp_path)
    for scores in found.values():
        torch.testing.assert_close(scores, found["ours"], rtol=0, atol=1e-4)


def test_a_token_that_may_end_a_response_is_not_used_as_pad(make_config: MakeConfig, tmp_path: Path) -> None:
    found = saved_and_read(load_score_model(make_config("llama")), byte_tokenizer(), tmp_path, ends=(2, 0))
    torch.testing.assert_close(found["right"], found["ours"], rtol=0, atol=1e-4)
    assert AutoTokenizer.from_pretrained(tmp_path).pad_token == "<s>"


def test_absolute_positions_are_padded_on_the_right(make_config: MakeConfig, tmp_path: Path) -> None:
    tokenizer = tokenizer_of(pad_token="</s>", bos_token=None)
    tokenizer.padding_side = "left"
    found = saved_and_read(load_score_model(make_config("gpt2")), tokenizer, tmp_path)
    torch.testing.assert_close(found["as it pads"], found["ours"], rtol=0, atol=1e-4)
    assert tokenizer.padding_side == "left" and tokenizer.pad_token == "</s>"  # ours is as it was


def test_a_new_pad_token_gets_a_row_of_the_embedding(make_config: MakeConfig, tmp_path: Path) -> None:
    shape = make_config("gpt2").model.architecture | {"vocab_size": 259}  # no row to spare
    model = load_score_model(make_config("gpt2", model={"architecture": shape}))
    found = saved_and_read(model, TOKENIZERS["one for all"], tmp_path)
    torch.testing.assert_close(found["right"], found["ours"], rtol=0, atol=1e-4)
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path).config.vocab_size == 260
    assert model.model.config.vocab_size == 259  # of the model itself nothing changed
    again = load_score_model(make_config("gpt2"), path=str(tmp_path), trained=True)
    assert torch.equal(again.model.score.weight, model.model.score.weight)


_SMALL = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2}
_HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 64}
# without a class for scores in transformers, or with one whose head is another
OTHERS: dict[str, dict[str, object]] = {
    "olmoe": _SMALL | _HEADS | {"num_experts": 2, "num_experts_per_tok": 1},
    "ernie4_5": _SMALL | _HEADS,
    "codegen": {"vocab_size": 300, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "rotary_dim": 4},
    # buffers that no file holds, set by the transformer for its layers
    "falcon_h1": _SMALL | _HEADS | {"mamba_d_ssm": 32, "mamba_n_heads": 2, "mamba_d_head": 16, "mamba_d_state": 8},
    "modernbert-decoder": _SMALL | {"num_attention_heads": 2, "global_attn_every_n_layers": 1, "pad_token_id": 0},
}


@pytest.mark.parametrize("kind", OTHERS)
def test_a_score_class_is_built_if_the_architecture_has_none(
    kind: str, make_config: MakeConfig, batch: TokenBatch, tmp_path: Path
) -> None:
    config = make_config(model={"architecture": OTHERS[kind] | {"model_type": kind}})
    load_causal(config.model, seed=0).save_pretrained(tmp_path / "base")
    base = load_score_model(config, path=str(tmp_path / "base"), learns=True)
    with torch.no_grad():
        base.head.weight.add_(1.0)
        before = base.eval().scores(batch)
    base.save(tmp_path / "saved", byte_tokenizer())
    again = load_score_model(config, path=str(tmp_path / "saved"), trained=True)
    with torch.no_grad():
        torch.testing.assert_close(again.scores(batch), before)
        theirs = AutoModel.from_pretrained(tmp_path / "saved").eval()  # as docs/reward.md says to read it
        row = batch.ids[:1, : int(batch.lengths[0])]
        score = again.head(theirs(row).last_hidden_state[:, -1])
    torch.testing.assert_close(score[0, 0], before[0])


def test_a_model_with_fewer_layers_keeps_the_first(make_config: MakeConfig, tmp_path: Path) -> None:
    architecture = OTHERS["ernie4_5"] | {"model_type": "ernie4_5"}
    config = ModelConfig(path="random", tokenizer="bytes", architecture=architecture)
    load_causal(config, seed=0).save_pretrained(tmp_path)
    whole, part = (load_scorer(config, seed=0, path=str(tmp_path), num_layers=n).state_dict() for n in (0, 1))
    assert set(part) < set(whole) and all(torch.equal(part[name], whole[name]) for name in part)
