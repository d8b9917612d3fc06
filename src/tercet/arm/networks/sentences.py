"""A pretrained language model below a policy: its first layers, frozen and with adapters, and embedded sentences."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tercet.arm.lerobot.hub import local_folder
from tercet.arm.networks.adapters import adapt
from tercet.arm.networks.llama import Llama, LlamaShape, Prefix
from tercet.errors import InputError
from tercet.pretrained.gguf_llama import llama_folder
from tercet.pretrained.llama_files import LlamaFiles
from tercet.pretrained.smollm2 import HUB_ID, NAME, smollm2_file
from tercet.train.chance import undisturbed


def language_files(name: str) -> LlamaFiles:
    """Return the files of `smollm2`, of a .gguf file, of a folder or of a hub id, which is downloaded."""
    file = smollm2_file() if name == NAME else Path(name) if name.endswith(".gguf") else None
    if file is not None:
        if not file.is_file():
            raise InputError(f"policy.language_model: no file {name!r}")
        return LlamaFiles(llama_folder(file))
    folder = local_folder(HUB_ID if name == NAME else name, kind="model")
    if not folder.is_dir():
        raise InputError(f"policy.language_model: no folder {name!r}; give smollm2, a .gguf file, a folder or a hub id")
    return LlamaFiles(folder)


def first_layers(files: LlamaFiles, num_layers: int, *, num_tokens: int, rank: int) -> tuple[Llama, dict[str, Tensor]]:
    """Return the model's first layers with adapters, and the frozen weights.

    Its vocabulary is the last `num_tokens` ids of the pretrained one. Their embeddings are trained, as is the last
    norm, which was made for the output of the last layer.
    """
    sizes = files.sizes
    whole = {name: int(size) for name, size in sizes.items() if name not in ("rope_theta", "rms_norm_eps")}
    whole |= {"vocab_size": num_tokens, "num_hidden_layers": num_layers}
    shape = LlamaShape(**whole, rope_theta=float(sizes["rope_theta"]), rms_norm_eps=float(sizes["rms_norm_eps"]))
    if int(sizes["vocab_size"]) < num_tokens:
        raise InputError(f"{files.folder}: has a vocabulary of {sizes['vocab_size']}, fewer than {num_tokens} tokens")
    weights = files.layers(num_layers)
    with undisturbed(), torch.device("meta"):  # what is drawn for weights that are replaced changes no later draw
        model = Llama(shape)
    given = weights | {"embed_tokens.weight": files.last_embeddings(num_tokens)}
    try:
        model.load_state_dict(given, assign=True)
    except RuntimeError as error:
        raise InputError(f"{files.folder}: the weights do not have the sizes of config.json") from error
    for part in (model.embed_tokens, model.norm):
        part.requires_grad_(True)
    adapt(model.layers, rank=rank, alpha=2.0 * rank)
    return model, weights


class Sentences(nn.Module):
    """Sentences as the embeddings of their tokens, padded to one length."""

    embedded: Tensor
    lengths: Tensor

    def __init__(self, files: LlamaFiles, sentences: Sequence[str]) -> None:
        super().__init__()
        rows = [files.embeddings(files.tokenizer.encode(sentence).ids) for sentence in sentences]
        self.register_buffer("embedded", nn.utils.rnn.pad_sequence(rows, batch_first=True), persistent=False)
        self.register_buffer("lengths", torch.tensor([len(row) for row in rows]), persistent=False)
        self._kept = _Kept()

    def before(self, model: Llama, numbers: Int[Tensor, " n"]) -> Prefix:
        """Return the keys and values of each row's sentence. Each sentence is computed once for all of its rows.

        Without gradients it is computed again only if a parameter of the model has changed.
        """
        if not torch.is_grad_enabled():
            if not self._kept.is_of(model):
                self._kept.keep(model, model.prefix(self.embedded, self.lengths))
            assert self._kept.prefix is not None
            return self._kept.prefix.rows(numbers)
        distinct, which = numbers.unique(return_inverse=True)
        return model.prefix(self.embedded[distinct], self.lengths[distinct]).rows(which)


class _Kept:
    """Keys and values of all sentences, and the parameters that gave them. A copy is empty.

    The parameters themselves are compared, which takes far less than a layer: torch's fused optimizer changes them
    without counting up their version.
    """

    def __init__(self) -> None:
        self.prefix: Prefix | None = None
        self._parameters: list[Tensor] = []

    def __deepcopy__(self, memo: dict[int, object]) -> "_Kept":
        return _Kept()

    def is_of(self, model: Llama) -> bool:
        """Return True if the model still has the parameters that gave them."""
        return self.prefix is not None and all(map(torch.equal, self._parameters, model.layers.parameters()))

    def keep(self, model: Llama, prefix: Prefix) -> None:
        """Keep them."""
        self.prefix, self._parameters = prefix, [one.detach().clone() for one in model.layers.parameters()]


def name_embedding(files: LlamaFiles, name: str) -> Float[Tensor, " h"]:
    """Return the mean embedding of the tokens of a name within a sentence, zeros for no name."""
    ids = files.tokenizer.encode(f" {name}").ids if name else []
    return files.embeddings(ids).mean(0) if ids else torch.zeros(int(files.sizes["hidden_size"]))
