"""Load the tokenizer of a model from a folder, the hub or a GGUF file, or make a byte tokenizer."""

from functools import partial
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from tercet.config.lm import ModelConfig
from tercet.errors import InputError, first_line
from tercet.lm import own_code
from tercet.lm.models.gguf import converted, gguf_parts
from tercet.lm.models.wrapped import adapter_base
from tercet.runs.done import check_made

# SmolLM2's format without its default system message, which would add 18 tokens to every prompt
_SMOLLM2_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Make a tokenizer of 259 tokens: pad 0, BOS 1, EOS 2, then the 256 bytes of UTF-8."""
    specials = {"<pad>": 0, "<s>": 1, "</s>": 2}
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = specials | {symbol: 3 + i for i, symbol in enumerate(alphabet)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>", model_max_length=10**9
    )


def read_tokenizer(name: str, *, trust: bool = False) -> PreTrainedTokenizerBase:
    """Load the tokenizer of the model `name` unchanged; adapters without one have that of their base model."""
    folder, gguf_file = gguf_parts(name)
    check_made(Path(folder))
    try:
        if gguf_file:  # converting it takes seconds, so the result is saved
            read = partial(AutoTokenizer.from_pretrained, folder, gguf_file=gguf_file, trust_remote_code=False)
            folder = str(converted(Path(folder) / gguf_file, read, what="-tokenizer"))
        with own_code.running(name, trust=trust):
            return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust)
    except (OSError, ValueError, KeyError) as error:
        if isinstance(error, InputError):
            raise
        if own_code.asks_for_trust(error):
            raise own_code.refusal(name) from error
        if base := adapter_base(name):
            return read_tokenizer(base, trust=trust)
        where = "" if Path(folder).exists() else " (no such folder, and no hub id that can be reached)"
        raise InputError(f"no tokenizer in {name!r}{where}: {first_line(error)}") from error


def load_tokenizer(config: ModelConfig, path: str = "") -> PreTrainedTokenizerBase:
    """Load the tokenizer that `config` names, or the one saved with the model at `path`.

    A tokenizer without EOS is refused: a policy could never learn to stop. A missing pad token is not an error: EOS
    pads, and masks mark the padding.
    """
    name = path or config.tokenizer or config.path
    key = "" if path else "model.tokenizer: " if config.tokenizer else "model.path: "
    if name == "bytes" or (name == "random" and not config.tokenizer):
        tokenizer = byte_tokenizer()
    else:
        try:
            tokenizer = read_tokenizer(name, trust=config.trust_remote_code)
        except InputError as error:
            hint = "" if path or config.tokenizer else "; name another in model.tokenizer"
            raise InputError(f"{key}{error}{hint}") from error
    if tokenizer.eos_token_id is None:
        raise InputError(f"{key}{name!r} has no EOS token, so no response could end; set eos_token in its files")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if name == "smollm2":
        tokenizer.chat_template = _SMOLLM2_TEMPLATE
    return tokenizer
