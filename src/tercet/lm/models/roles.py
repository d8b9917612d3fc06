"""The networks of the four roles: `Policy` (actor, reference) and `ScoreModel` (reward model, critic)."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TypeVar, cast

import torch
from jaxtyping import Bool, Float, Int
from peft import PeftModel
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers import PretrainedConfig as HfConfig

from tercet.config.lm import NetworkConfig
from tercet.core.statistics import ScoreScale
from tercet.errors import InputError
from tercet.lm.batch import TokenBatch, like_lengths
from tercet.lm.cpu.last_layer import can_be_narrowed, narrowed
from tercet.lm.cpu.prefixes import Prefixes
from tercet.lm.cpu.unpadded import can_be_unpadded, unpadded_hidden
from tercet.lm.models.adapters import (
    DTYPES,
    Precision,
    adapt,
    checkpoint_gradients,
    freeze,
    merged,
    round_stochastically,
)
from tercet.lm.models.configs import changes_of_logits, named_by_key
from tercet.lm.models.division import Outline, placed
from tercet.lm.models.four_bits import quantise
from tercet.lm.models.heads import ENCODERS, padding_apart, with_room
from tercet.lm.models.logits import keep_logits_in_fp32
from tercet.lm.models.train_mode import check_train_mode
from tercet.lm.models.weights import load_causal, load_scorer
from tercet.lm.own_code import save_code
from tercet.train.device import device_of

T = TypeVar("T")


class Policy(nn.Module):
    """A causal language model, with or without adapters.

    If its weights are divided among ranks, `hidden` and `head` can be used in a forward pass only (see `forward`).
    """

    def __init__(self, model: PreTrainedModel, precision: Precision = "fp32") -> None:
        super().__init__()
        self.model = model
        self.precision: Precision = precision
        self.adapted: PeftModel | None = None
        self.outline: Outline | None = None
        self.cuda_graphs = False  # the sampler records its steps

    def forward(self, compute: Callable[[], T]) -> T:
        """Call `compute`, which may use `hidden` and `head`; gradients flow through the tensors that it returns."""
        return compute()

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context manager that sets the precision of matrix products."""
        return _autocast(self.model, self.precision)

    @property
    def head(self) -> nn.Module:
        """The layer from the last hidden state to the logits."""
        head = self.model.get_output_embeddings()
        assert head is not None  # every causal language model has one
        return head

    def hidden(self, batch: TokenBatch, read: Bool[Tensor, "b length"] | None = None) -> Float[Tensor, "b length d"]:
        """Compute the last hidden state at every position, or where `read` is True; other positions are undefined."""
        return _hidden(self.model, batch, read, is_divided=self.outline is not None)

    @contextmanager
    def without_adapters(self) -> Iterator[None]:
        """Turn the adapters off: the model is then the reference, which shares the actor's weights."""
        assert self.adapted is not None
        with self.adapted.disable_adapter():
            yield

    def save(self, folder: Path, tokenizer: PreTrainedTokenizerBase, end_ids: Sequence[int]) -> None:
        """Save in Hugging Face format, with the adapters merged into a copy of the weights.

        The configs hold the pad token and all tokens that end a response, and no other sampling setting, so that
        sampling from the folder is as in training.
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
    """A transformer with one output per token: the score of the text up to it, or the value of the state."""

    def __init__(self, model: PreTrainedModel, precision: Precision = "fp32") -> None:
        super().__init__()
        self.model = model
        self.precision: Precision = precision
        self.adapted: PeftModel | None = None
        self.outline: Outline | None = None
        # transformers' head has no bias; this one is saved in config.json
        self.bias = nn.Parameter(torch.tensor(float(getattr(model.config, "score_bias", 0.0))))

    @property
    def head(self) -> nn.Linear:
        """The layer from the last hidden state to the output."""
        return cast(nn.Linear, self.model.score)  # an attribute unknown to transformers' types

    def forward(self, batch: TokenBatch, read: Bool[Tensor, "b length"] | None = None) -> Float[Tensor, "b length"]:
        """Compute the output at every position, or where `read` is True; other positions and padding are undefined."""
        with _autocast(self.model, self.precision):
            hidden = _hidden(self.model, batch, read, is_divided=self.outline is not None)
        # not under autocast: bf16 has only 8 bits of precision, fp16 11
        return hidden.float() @ self.head.weight[0] + self.bias

    def scores(self, batch: TokenBatch) -> Float[Tensor, " b"]:
        """Return the output at the last token of each row. Training, evaluation and PPO all score with this method."""
        return batch.last(self(batch, batch.ends))

    @torch.no_grad()
    def normalise(self, scale: ScoreScale) -> None:
        """Fold gain and bias of the normalisation into the head."""
        self.head.weight.mul_(scale.gain)
        self.bias.mul_(scale.gain).add_(scale.bias)

    def save(self, folder: Path, tokenizer: PreTrainedTokenizerBase, end_ids: Sequence[int] = ()) -> None:
        """Save in Hugging Face format. AutoModelForSequenceClassification does not add `score_bias` of config.json.

        `end_ids` are the tokens that end a response besides EOS.
        """
        tokenizer = padding_apart(tokenizer, end_ids)
        model = with_room(_whole(self), len(tokenizer))
        model.config.score_bias = float(self.bias.detach())
        model.config.pad_token_id = tokenizer.pad_token_id
        model.save_pretrained(folder)
        save_code(model, folder)
        tokenizer.save_pretrained(folder)


def load_policy(
    config: NetworkConfig,
    *,
    path: str = "",
    learns: bool = False,
    lora_dropout: float = 0.0,
    is_backbone: bool = False,
) -> Policy:
    """Load the policy at `path` (or model.path) onto its device: frozen, or trainable, with LoRA if lora.rank > 0.

    Weights under adapters that are, or become, the shared backbone (`is_backbone`) may be stored in 4 bits.
    """
    with named_by_key(config, path):
        model = load_causal(config.model, seed=config.seed, path=path)
        _check_head(model)
        if learns:
            check_train_mode(model)
    _round(model, config, is_backbone=is_backbone)
    return placed(policy_of(model, config, learns=learns, lora_dropout=lora_dropout), device_of(config.device))


def check_logits(hf_config: HfConfig) -> None:
    """Raise InputError if the config shows that the model changes the logits after its head."""
    if changes_of_logits(hf_config):
        raise _changed_logits(hf_config)


def policy_of(
    model: PreTrainedModel, config: NetworkConfig, *, learns: bool = False, lora_dropout: float = 0.0
) -> Policy:
    """Build a policy from a loaded model, frozen or trainable, on the model's device."""
    policy = Policy(model, config.precision)
    policy.cuda_graphs = config.cuda_graphs
    if config.precision != "fp32":
        keep_logits_in_fp32(policy.head)
    policy.adapted = _prepare(model, config, learns=learns, lora_dropout=lora_dropout)
    return policy


def load_score_model(
    config: NetworkConfig,
    *,
    path: str = "",
    num_layers: int = 0,
    trained: bool = False,
    learns: bool = False,
    lora_dropout: float = 0.0,
    is_backbone: bool = False,
) -> ScoreModel:
    """Load the score model at `path` (or model.path) onto its device.

    A missing head is drawn at random; with `trained` it is an InputError. The weights of the shared backbone
    (`is_backbone`) may be stored in 4 bits.
    """
    with named_by_key(config, path):
        model = load_scorer(config.model, seed=config.seed, path=path, num_layers=num_layers, trained=trained)
        _check_transformer(model)
        if learns:
            check_train_mode(model)
    _round(model, config, is_backbone=is_backbone)
    return placed(score_model_of(model, config, learns=learns, lora_dropout=lora_dropout), device_of(config.device))


def score_model_of(
    model: PreTrainedModel, config: NetworkConfig, *, learns: bool = False, lora_dropout: float = 0.0
) -> ScoreModel:
    """Build a score model from a sequence-classification model, frozen or trainable, on the model's device."""
    score_model = ScoreModel(model, config.precision)
    score_model.adapted = _prepare(model, config, learns=learns, lora_dropout=lora_dropout)
    for parameter in (score_model.head.weight, score_model.bias):
        parameter.requires_grad_(learns)
    return score_model


def _round(model: PreTrainedModel, config: NetworkConfig, *, is_backbone: bool) -> None:
    """In bf16 or fp16 with adapters, round a loaded model without losing the adapters that were merged into it.

    If all weights are trained, autocast rounds them to nearest at every use; nothing is rounded here. A backbone in 4
    bits is quantised instead.
    """
    if is_backbone and config.lora.backbone == "nf4":
        quantise(model, device_of(config.device), DTYPES[config.precision])
    elif config.precision != "fp32" and config.lora.rank:
        round_stochastically(model, config.seed, config.precision)


def _prepare(model: PreTrainedModel, config: NetworkConfig, *, learns: bool, lora_dropout: float) -> PeftModel | None:
    """Freeze the weights or make them trainable; return the adapters if there are any."""
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            module.padding_idx = None  # its row would get no gradient, and it may be the row of EOS
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
    """Raise InputError if the logits are not the head's output on the last hidden state.

    Log-probabilities would be wrong. For the check the head's output is replaced by large numbers, so that a cap or a
    factor shows however small the weights are.
    """
    head_inputs: list[Tensor] = []
    head_outputs: list[Tensor] = []

    def replace(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        head_inputs.append(inputs[0])
        head_outputs.append((torch.arange(output.numel(), dtype=output.dtype) % 201 - 100).view_as(output))
        return head_outputs[-1]

    states = _check_transformer(model)
    hook = Policy(model).head.register_forward_hook(replace)
    try:
        logits = model(_probe(model), use_cache=False).logits
    finally:
        hook.remove()
    if not head_inputs or not _alike(head_inputs[-1], states) or not _alike(logits, head_outputs[-1]):
        raise _changed_logits(model.config)


def _changed_logits(hf_config: HfConfig) -> InputError:
    changes = changes_of_logits(hf_config) or "scaling or soft-capping"
    return InputError(
        f"{hf_config.model_type} changes the logits after its head ({changes}), "
        "which Tercet's log-probabilities would not include; choose another model"
    )


@torch.no_grad()
def _check_transformer(model: PreTrainedModel) -> Float[Tensor, "1 length d"]:
    """Return the last hidden states of a few tokens. InputError if they depend on later tokens."""
    model.eval()
    if model.base_model is model:
        raise InputError(
            f"{model.config.model_type} has a structure that Tercet does not support; choose another model"
        )
    ids = _probe(model)
    other = torch.cat([ids[:, :-1], ids[:, :1]], 1)
    states, others = (model.base_model(tokens, use_cache=False).last_hidden_state for tokens in (ids, other))
    if not _alike(states[:, :-1], others[:, :-1]):
        raise InputError(
            f"{model.config.model_type} is not causal: its state of a token depends on later tokens. Policy, critic "
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


def _autocast(model: PreTrainedModel, precision: Precision) -> AbstractContextManager[object]:
    return nullcontext() if precision == "fp32" else torch.autocast(model.device.type, dtype=DTYPES[precision])


def _hidden(model: PreTrainedModel, batch: TokenBatch, read: Tensor | None, *, is_divided: bool) -> Tensor:
    """Compute the last hidden states without padding, or with rows of similar length together to have little of it.

    If the weights are divided among ranks, each call is one pass of the transformer, also for a batch without rows.
    """
    if not len(batch.ids):
        one_token = TokenBatch(batch.ids.new_zeros(1, 1), batch.ids.new_ones(1), batch.response_mask.new_zeros(1, 1))
        return _forward(model, one_token, None)[:0].expand(0, batch.ids.shape[1], -1)
    read = read if can_be_narrowed(model) else None
    if can_be_unpadded(model):
        prefixes = Prefixes.of(batch.sequences)
        if len(prefixes.tokens) < batch.ids.numel():  # else the batch has no padding and no shared prefix
            return unpadded_hidden(model, batch, prefixes, read)
    groups = like_lengths(batch.lengths)
    if len(groups) == 1 or is_divided:
        return _forward(model, batch, read)
    longest = batch.ids.shape[1]
    states = [_forward(model, batch.rows(torch.tensor(rows)), None) for rows in groups]
    padded = torch.cat([nn.functional.pad(part, (0, 0, 0, longest - part.shape[1])) for part in states])
    return padded[torch.tensor([row for rows in groups for row in rows]).argsort()]


def _forward(model: PreTrainedModel, batch: TokenBatch, read: Tensor | None) -> Tensor:
    with nullcontext() if read is None else narrowed(model, read):
        states = model.base_model(batch.ids, attention_mask=batch.attention_mask, use_cache=False).last_hidden_state
    if read is None:
        return states
    return states.new_zeros((*read.shape, states.shape[-1])).index_put((read,), states[0])
