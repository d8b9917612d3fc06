"""A pretrained language model below a policy: lower layers that read text, and the next ones, with adapters."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tercet.arm.lerobot.hub import local_folder
from tercet.arm.networks.adapters import adapt
from tercet.arm.networks.llama import Llama, LlamaShape
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


def acting_layers(files: LlamaFiles, weights: Mapping[str, Tensor], start: int, *, num_tokens: int, rank: int) -> Llama:
    """Return the layers of `weights` from `start` on, frozen and with adapters.

    Their vocabulary is the last `num_tokens` ids of the pretrained one. Their embeddings are trained, as is the last
    norm, which was made for the output of the last layer.
    """
    if int(files.sizes["vocab_size"]) < num_tokens:
        raise InputError(
            f"{files.folder}: has a vocabulary of {files.sizes['vocab_size']}, fewer than {num_tokens} tokens"
        )
    given = _renumbered(weights, start) | {"embed_tokens.weight": files.last_embeddings(num_tokens)}
    model = _loaded(files, given, num_tokens)
    for part in (model.embed_tokens, model.norm):
        part.requires_grad_(True)
    adapt(model.layers, rank=rank, alpha=2.0 * rank)
    return model


@torch.no_grad()
def read_names(
    files: LlamaFiles, weights: Mapping[str, Tensor], sentences: Sequence[str], names: Sequence[str]
) -> Float[Tensor, "s n h"]:
    """Return what the layers of `weights` make of each name after each sentence.

    The text is a sentence, a space and a name, and the result the mean over the tokens of the name. Without a name it
    is that of the sentence's last token.
    """
    embedded, spans = [], []
    for sentence in sentences:
        for name in names:
            before, after = (files.tokenizer.encode(text).ids for text in (sentence, f" {name}" if name else ""))
            embedded.append(files.embeddings([*before, *after]))
            spans.append(slice(len(before) if after else len(before) - 1, len(before) + len(after)))
    # padding comes last, where no position that counts attends to it
    padded = nn.utils.rnn.pad_sequence(embedded, batch_first=True)
    model = _loaded(files, {**weights, "embed_tokens.weight": padded.new_zeros(1, padded.shape[-1])}, 1)
    hidden = model.unnormalised(padded)
    means = torch.stack([row[span].mean(0) for row, span in zip(hidden, spans, strict=True)])
    return means.unflatten(0, (len(sentences), len(names)))


def contrasts(read: Float[Tensor, "s n h"], things: Sequence[bool]) -> Float[Tensor, "s n h"]:
    """Subtract from what was read of each of the `things` the mean over all of them after the same sentence.

    The words of the sentence are in all of them. What remains is how a thing differs from the others.
    """
    changed, of_things = read.clone(), torch.tensor(things)
    if of_things.any():
        changed[:, of_things] -= read[:, of_things].mean(1, keepdim=True)
    return changed


def lower(weights: Mapping[str, Tensor], num_layers: int) -> dict[str, Tensor]:
    """Return the weights of the first layers, and of the last norm."""
    return {name: value for name, value in weights.items() if _layer_of(name) < num_layers}


def _renumbered(weights: Mapping[str, Tensor], start: int) -> dict[str, Tensor]:
    """Return the weights of the layers from `start` on, numbered from 0, and of the last norm."""
    kept = {}
    for name, value in weights.items():
        number = _layer_of(name)
        if number < 0:
            kept[name] = value
        elif number >= start:
            kept[name.replace(f"layers.{number}.", f"layers.{number - start}.")] = value
    return kept


def _layer_of(name: str) -> int:
    parts = name.split(".")
    return int(parts[1]) if parts[0] == "layers" else -1


def _loaded(files: LlamaFiles, weights: Mapping[str, Tensor], vocab_size: int) -> Llama:
    """Return a Llama of these weights, with as many layers as they have."""
    sizes = files.sizes
    whole = {name: int(size) for name, size in sizes.items() if name not in ("rope_theta", "rms_norm_eps")}
    whole |= {"vocab_size": vocab_size, "num_hidden_layers": 1 + max(_layer_of(name) for name in weights)}
    shape = LlamaShape(**whole, rope_theta=float(sizes["rope_theta"]), rms_norm_eps=float(sizes["rms_norm_eps"]))
    with undisturbed(), torch.device("meta"):  # what is drawn for weights that are replaced changes no later draw
        model = Llama(shape)
    try:
        model.load_state_dict(dict(weights), assign=True)
    except RuntimeError as error:
        raise InputError(f"{files.folder}: the weights do not have the sizes of config.json") from error
    return model
