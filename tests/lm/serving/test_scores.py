"""The page shows the score that training and evaluation use."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tercet.config.lm import LmConfig
from tercet.errors import InputError
from tercet.lm.data.examples import Message
from tercet.lm.models.roles import load_score_model
from tercet.lm.serving.scores import Scores
from tercet.lm.text.encoder import Encoder
from tercet.lm.text.tokenizers import byte_tokenizer

MakeConfig = Callable[..., LmConfig]
HI = (Message("user", "Hi"),)


@pytest.fixture
def scores(make_config: MakeConfig, tmp_path: Path) -> Scores:
    config = make_config("llama")
    model = load_score_model(config)
    model.bias.data.fill_(0.5)
    model.save(tmp_path / "model", byte_tokenizer())
    return Scores(config, str(tmp_path / "model"), Encoder.of(config))


@pytest.mark.parametrize("ended", [True, False])
def test_the_score_is_that_of_the_whole_answer_and_of_each_beginning(scores: Scores, ended: bool) -> None:
    scored = scores.of(HI, "Yes, 你!", ended=ended)
    encoder, model = scores._encoder, scores._model
    assert model is not None
    prompt = encoder.tokenizer.encode("Hi\n")
    answer = encoder.response("Yes, 你!", ended=ended)
    assert (len(answer) == 10) == ended  # longer than data.max_response_tokens, and not cut
    with torch.no_grad():
        plain = [float(model.scores(encoder.batch([prompt], [answer[: n + 1]]))) for n in range(len(answer))]
    assert [score for _, score in scored.tokens] == pytest.approx(plain, abs=1e-4)
    assert scored.score == scored.tokens[-1][1]
    assert "".join(text for text, _ in scored.tokens).removesuffix("</s>") == "Yes, 你!"
    assert [text for text, _ in scored.tokens][5:8] == ["", "", "你"]


def test_what_has_no_score_is_an_input_error(scores: Scores) -> None:
    with pytest.raises(InputError, match="an empty answer that did not end"):
        scores.of(HI, "", ended=False)
    with pytest.raises(InputError, match=r"\d+ tokens, but the reward model reads 64"):
        scores.of(HI, "x" * 70, ended=True)
