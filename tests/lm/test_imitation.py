"""The SFT loss is computed on the tokens that sft.loss_on names."""

import pytest

from tercet.config.load import load_lm_config
from tercet.lm.data.splits import step_examples
from tercet.lm.imitation import SftBatches
from tercet.lm.text.encoder import Encoder
from tercet.train.device import device_of


@pytest.mark.parametrize("loss_on", ["answer", "text"])
def test_what_is_learned_is_the_answer_or_all_but_the_first_token(small: list[str], loss_on: str) -> None:
    config = load_lm_config("tiny", [*small, f"sft.loss_on={loss_on}"])
    encoder = Encoder.of(config)
    examples = step_examples(config.data, "sft").train["toy"][:3]
    (batch,) = SftBatches(encoder, device_of(config.device), config.sft).of(examples)
    taken, _, positions = batch.actions()
    for row, example in enumerate(examples):
        learned = batch.ids[row, positions[taken == row]].tolist()
        prompt, answer = encoder.prompt(example), encoder.response(example.chosen)
        assert learned == (answer if loss_on == "answer" else [*prompt[1:], *answer])
        assert answer[-1] == 2 or len(answer) == 8  # EOS is learned, unless the answer was cut
