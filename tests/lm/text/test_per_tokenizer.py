import gc
import weakref

from transformers import PreTrainedTokenizerBase

from tercet.lm.text.marks import Marks
from tercet.lm.text.per_tokenizer import once_per_tokenizer
from tercet.lm.text.template import check_template
from tercet.lm.text.tokenizers import byte_tokenizer


def test_each_tokenizer_and_each_argument_is_asked_once() -> None:
    calls: list[tuple[int, str]] = []

    @once_per_tokenizer
    def found(tokenizer: PreTrainedTokenizerBase, word: str) -> str:
        calls.append((id(tokenizer), word))
        return word.upper()

    one, other = byte_tokenizer(), byte_tokenizer()
    assert [found(one, "a"), found(one, "a"), found(one, "b"), found(other, "a")] == ["A", "A", "B", "A"]
    assert calls == [(id(one), "a"), (id(one), "b"), (id(other), "a")]


def test_what_is_known_of_a_tokenizer_does_not_keep_it_in_memory() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}</s>{% endfor %}"
    check_template(tokenizer)
    assert Marks.of(tokenizer) is Marks.of(tokenizer)
    gone = weakref.ref(tokenizer)
    del tokenizer
    gc.collect()
    assert gone() is None
