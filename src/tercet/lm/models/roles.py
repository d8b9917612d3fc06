"""The networks of the four roles: a policy (actor, reference) and a score per token (reward model, critic)."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from peft import PeftModel
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers import PretrainedConfig as HfConfig

from tercet.config.lm import LmConfig
from tercet.core.statistics import ScoreScale
from tercet.errors import InputError
from tercet.lm.batch import TokenBatch, like_lengths
from tercet.lm.cpu.last_layer import can_be_narrowed, narrowed
from tercet.lm.cpu.prefixes import Prefixes
from tercet.lm.cpu.unpadded import can_be_unpadded, unpadded_hidden
from tercet.lm.models.adapters import Precision, adapt, checkpoint_gradients, freeze, merged, round_stochastically
from tercet.lm.models.heads import ENCODERS, padding_apart, with_room
from tercet.lm.models.logits import keep_logits_in_fp32
from tercet.lm.models.train_mode import check_train_mode
from tercet.lm.models.weights import changes_of_logits, load_causal, load_scorer, named_by_key
from tercet.lm.own_code import save_code


class Policy(nn.Module):
    """A causal language model, with or without adapters."""

    def __init__(self, model: PreTrainedModel, precision: Precision = "fp32") -> None:
        super().__init__()
        self.model = model
        self.precision: Precision = precision
        self.adapted: PeftModel | None = None

    def autocast(self) -> AbstractContextManager[object]:
        """The precision of matrix products."""
        return _autocast(self.model, self.precision)

    @property
    def head(self) -> nn.Module:
        """From the last hidden state to the logits."""
        head = self.model.get_output_embeddings()
        assert head is not None  # every causal language model has one
        return head

    def hidden(self, batch: TokenBatch, read: Bool[Tensor, "b length"] | None = None) -> Float[Tensor, "b length d"]:
        """What the head reads, at every position, or at those that are `read`; others hold nothing of use."""
        return _hidden(self.model, batch, read)

    @contextmanager
    def without_adapters(self) -> Iterator[None]:
        """The model as it was before the adapters: the reference that shares the actor's weights."""
        assert self.adapted is not None
        with self.adapted.disable_adapter():
            yield

    def save(self, folder: Path, tokenizer: PreTrainedTokenizerBase, end_ids: Sequence[int]) -> None:
        """Hugging Face format, the adapters merged into a copy of the weights.

        The configs name the tokenizer's pad and all that ends an answer, and nothing else that shapes sampling: whoever
        loads the folder samples as this policy was trained.
        """
        model = _whole(self)
        ends = end_ids[0] if len(end_ids) == 1 else list(end_ids)
        bos, pad = tokenizer.bos_token_id, tokenizer.pad_token_id
        model.config.eos_token_id, model.config.pad_token_id = ends, pad
        model.generation_config = GenerationConfig(bos_token_id=bos, eos_token_id=ends, pad_token_id=pad)
        model.save_pretrained(folder)
        save_code(model, folder)
        tokenizer.save_pretrained(folder)


class ScoreModel(nn.Module):
    """A transformer with one number per token: the score of the text so far, or the value of the state."""

    def __init__(self, model: PreTrainedModel, precision: Precision = "fp32") -> None:
        super().__init__()
        self.model = model
        self.precision: Precision = precision
        self.adapted: PeftModel | None = None
        # transformers' head has no bias; ours lies beside it, and in config.json when saved
        self.bias = nn.Parameter(torch.tensor(float(getattr(model.config, "score_bias", 0.0))))

    @property
    def head(self) -> nn.Linear:
        """From the last hidden state to the number."""
        return cast(nn.Linear, self.model.score)  # transformers makes it by name, unknown to its types

    def forward(self, batch: TokenBatch, read: Bool[Tensor, "b length"] | None = None) -> Float[Tensor, "b length"]:
        """The number at every position, or at those that are `read`; others hold nothing of use, nor does padding."""
        with _autocast(self.model, self.precision):
            hidden = _hidden(self.model, batch, read)
        # not under autocast: a score in bf16 would have 8 bits
        return hidden.float() @ self.head.weight[0] + self.bias

    def scores(self, batch: TokenBatch) -> Float[Tensor, " b"]:
        """The number at the last token of each row: the one scoring path of training, evaluation and PPO."""
        return batch.last(self(batch, batch.ends))

    @torch.no_grad()
    def normalise(self, scale: ScoreScale) -> None:
        """Fold gain and bias into the head, so that every later score has them."""
        self.head.weight.mul_(scale.gain)
        self.bias.mul_(scale.gain).add_(scale.bias)

    def save(self, folder: Path, tokenizer: PreTrainedTokenizerBase, end_ids: Sequence[int] = ()) -> None:
        """Hugging Face format; `score_bias` in config.json is what AutoModelForSequenceClassification leaves out.

        `end_ids`: what ends an answer beside EOS.
        """
        tokenizer = padding_apart(tokenizer, end_ids)
        model = with_room(_whole(self), len(tokenizer))
        model.config.score_bias = float(self.bias.detach())
        model.config.pad_token_id = tokenizer.pad_token_id
        model.save_pretrained(folder)
        save_code(model, folder)
        tokenizer.save_pretrained(folder)


def load_policy(config: LmConfig, *, path: str = "", learns: bool = False, lora_dropout: float = 0.0) -> Policy:
    """The policy at `path` (or model.path) on its device: frozen, or learning, with LoRA where the config asks."""
    with named_by_key(config, path):
        model = load_causal(config.model, seed=config.seed, path=path)
        _check_head(model)
        if learns:
            check_train_mode(model)
    _round(model, config)
    return policy_of(model, config, learns=learns, lora_dropout=lora_dropout).to(device_of(config))


def check_logits(hf_config: HfConfig) -> None:
    """InputError where the config of a policy alone shows that its logits are more than its head's."""
    if changes_of_logits(hf_config):
        raise _changed_logits(hf_config)


def policy_of(model: PreTrainedModel, config: LmConfig, *, learns: bool = False, lora_dropout: float = 0.0) -> Policy:
    """The policy that a model makes, frozen or learning, where the model lies."""
    policy = Policy(model, config.precision)
    if config.precision == "bf16":
        keep_logits_in_fp32(policy.head)
    policy.adapted = _prepare(model, config, learns=learns, lora_dropout=lora_dropout)
    return policy


def load_score_model(
    config: LmConfig,
    *,
    path: str = "",
    num_layers: int = 0,
    trained: bool = False,
    learns: bool = False,
    lora_dropout: float = 0.0,
) -> ScoreModel:
    """The score model at `path` (or reward.model, or model.path).

    A head that is not there yet is made, unless the model is meant to be `trained` already.
    """
    path = path or config.reward.model
    with named_by_key(config, path):
        model = load_scorer(config.model, seed=config.seed, path=path, num_layers=num_layers, trained=trained)
        _check_transformer(model)
        if learns:
            check_train_mode(model)
    _round(model, config)
    return score_model_of(model, config, learns=learns, lora_dropout=lora_dropout).to(device_of(config))


def score_model_of(
    model: PreTrainedModel, config: LmConfig, *, learns: bool = False, lora_dropout: float = 0.0
) -> ScoreModel:
    """The score model that a sequence-classification model makes, frozen or learning, where the model lies."""
    score_model = ScoreModel(model, config.precision)
    score_model.adapted = _prepare(model, config, learns=learns, lora_dropout=lora_dropout)
    for parameter in (score_model.head.weight, score_model.bias):
        parameter.requires_grad_(learns)
    return score_model


def _round(model: PreTrainedModel, config: LmConfig) -> None:
    """In bf16 with adapters, put a loaded model on numbers of bf16 without losing what was merged into it.

    Where all weights learn, autocast rounds them to the nearest at every use, from SFT on, and nothing else may.
    """
    if config.precision == "bf16" and config.lora.rank:
        round_stochastically(model, config.seed)


def _prepare(model: PreTrainedModel, config: LmConfig, *, learns: bool, lora_dropout: float) -> PeftModel | None:
    """Decide what learns; the adapters, where there are any."""
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            module.padding_idx = None  # its row would not learn, and it may be the row of an EOS
    if learns and not config.lora.rank:
        if config.model.gradient_checkpointing:
            checkpoint_gradients(model)
        return None
    freeze(model, config.precision)
    if learns:
        return adapt(model, config, dropout=lora_dropout)
    model.eval()
    return None


@torch.no_grad()
def _check_head(model: PreTrainedModel) -> None:
    """Refuse a model whose logits are more than its head of its last hidden state: log-probabilities would be wrong.

    The head is made to give large numbers, so that a cap or a factor shows however small the weights are.
    """
    read: list[Tensor] = []
    marked: list[Tensor] = []

    def mark(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        read.append(inputs[0])
        marked.append((torch.arange(output.numel(), dtype=output.dtype) % 201 - 100).view_as(output))
        return marked[-1]

    states = _check_transformer(model)
    hook = Policy(model).head.register_forward_hook(mark)
    try:
        logits = model(_probe(model), use_cache=False).logits
    finally:
        hook.remove()
    if not read or not _alike(read[-1], states) or not _alike(logits, marked[-1]):
        raise _changed_logits(model.config)


def _changed_logits(hf_config: HfConfig) -> InputError:
    how = changes_of_logits(hf_config) or "scaling or soft-capping"
    return InputError(
        f"{hf_config.model_type} changes the logits after its head ({how}), "
        "which Tercet's log-probabilities do not know; choose another model"
    )


@torch.no_grad()
def _check_transformer(model: PreTrainedModel) -> Float[Tensor, "1 length d"]:
    """The last hidden states of a few tokens; refuse a model in which they depend on later tokens."""
    model.eval()
    if model.base_model is model:
        raise InputError(f"{model.config.model_type} is built in a way that Tercet does not know; choose another model")
    ids = _probe(model)
    other = torch.cat([ids[:, :-1], ids[:, :1]], 1)
    states, others = (model.base_model(tokens, use_cache=False).last_hidden_state for tokens in (ids, other))
    if not _alike(states[:, :-1], others[:, :-1]):
        raise InputError(
            f"{model.config.model_type} looks ahead: what it makes of a token depends on later ones. Policy, critic "
            f"and the reward model that a run trains must be causal; {ENCODERS}"
        )
    return states


def _probe(model: PreTrainedModel) -> Int[Tensor, "1 length"]:
    return torch.arange(4)[None] % model.config.vocab_size


def _alike(a: Tensor, b: Tensor) -> bool:
    return (
        a.shape == b.shape
        and bool(b.isfinite().all())
        and torch.allclose(a, b, rtol=1e-3, atol=1e-3 * float(b.abs().max()))
    )


def _whole(module: Policy | ScoreModel) -> PreTrainedModel:
    return merged(module.adapted) if module.adapted else module.model


def device_of(config: LmConfig) -> torch.device:
    """Where the networks live."""
    if config.device == "cuda" and not torch.cuda.is_available():
        raise InputError("device: cuda, but torch sees no GPU; set device=cpu, or install a CUDA build of torch")
    name = config.device if config.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _autocast(model: PreTrainedModel, precision: Precision) -> AbstractContextManager[object]:
    return nullcontext() if precision == "fp32" else torch.autocast(model.device.type, dtype=torch.bfloat16)


def _hidden(model: PreTrainedModel, batch: TokenBatch, read: Tensor | None) -> Tensor:
    """The last hidden states: without padding, or rows of like length together, so that little is spent on it."""
    read = read if can_be_narrowed(model) else None
    if can_be_unpadded(model):
        prefixes = Prefixes.of(batch.sequences)
        if len(prefixes.tokens) < batch.ids.numel():  # else all tokens are distinct rows of one length
            return unpadded_hidden(model, batch, prefixes, read)
    groups = like_lengths(batch.lengths)
    if len(groups) == 1:
        return _forward(model, batch, read)
    longest = batch.ids.shape[1]
    states = [_forward(model, batch.rows(torch.tensor(rows)), None) for rows in groups]
    whole = torch.cat([nn.functional.pad(part, (0, 0, 0, longest - part.shape[1])) for part in states])
    return whole[torch.tensor([row for rows in groups for row in rows]).argsort()]


def _forward(model: PreTrainedModel, batch: TokenBatch, read: Tensor | None) -> Tensor:
    with nullcontext() if read is None else narrowed(model, read):
        states = model.base_model(batch.ids, attention_mask=batch.attention_mask, use_cache=False).last_hidden_state
    if read is None:
        return states
    return states.new_zeros((*read.shape, states.shape[-1])).index_put((read,), states[0])
