"""`tercet plan`: estimate memory and time of a run before anything is loaded, and suggest settings that fit."""

import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from tercet.config.lm import DataConfig, LmConfig, ModelConfig, Source
from tercet.errors import InputError
from tercet.lm.data.columns import columns_of_run
from tercet.lm.data.sources import is_built_in, is_file
from tercet.lm.data.splits import flat, step_examples
from tercet.lm.models.configs import window_of
from tercet.lm.models.gguf import gguf_parts
from tercet.lm.plan.cost import Sizes
from tercet.lm.plan.hardware import CARDS
from tercet.lm.plan.memory import Memory, Site, dpo_memory, memory_of
from tercet.lm.plan.processes import Processes
from tercet.lm.plan.shapes import Networks, shape_of
from tercet.lm.plan.step_time import StepTime, expected_on, measured_here, step_time
from tercet.lm.plan.traffic import Sent, sent
from tercet.lm.text.encoder import Encoder
from tercet.runs.clock import Moment
from tercet.train.device import device_of, multiplies_bf16

GIB = 2**30
_NUM_EXAMPLES = 256  # examples whose lengths are averaged


@dataclass(frozen=True)
class Rows:
    """Tokens of PPO's rows and of the data's rows, and the source of these numbers."""

    ppo: Sizes
    data: Sizes
    source: str


@dataclass(frozen=True)
class Remedy:
    """A setting that saves memory, the most that it saves in any step on top of earlier settings, and the new peak."""

    override: str
    saves: int
    peak: int


@dataclass(frozen=True)
class Plan:
    """The memory and time of a run, as they are printed."""

    device: str
    room: int  # bytes, for each process
    processes: Processes
    rows: Rows
    memory: dict[str, Memory]
    dpo: Memory  # of `tercet lm dpo`, which is no part of a run
    time: StepTime
    sent: Sent  # bytes
    is_estimate: bool  # the time is computed, not measured
    other_cpus: float  # CPUs that other processes used while time was measured
    run_s: dict[str, float]  # seconds of whole steps whose number of optimizer steps is known
    remedies: list[Remedy]

    @property
    def peak(self) -> int:
        """The largest peak of all steps."""
        return max(memory.peak for memory in self.memory.values())

    @property
    def fits(self) -> bool:
        """True if every step fits into the memory."""
        return self.peak <= self.room

    def as_json(self) -> dict[str, Any]:  # Any: JSON
        """Return the plan as JSON data, in bytes and seconds."""
        derived = {"peak": self.peak, "fits": self.fits, "ppo_step_s": self.time.ppo, "dpo_peak": self.dpo.peak}
        peaks = {name: {"peak": memory.peak, "fullest": memory.fullest} for name, memory in self.memory.items()}
        return asdict(self) | derived | {"peaks": peaks}


def plan(
    config: LmConfig, *, gpu: str = "", gpu_gb: float = 0.0, prompt_tokens: int = 0, response_tokens: int = 0
) -> Plan:
    """Plan a run on a GPU, or on this machine if none is named. InputError for an unknown GPU."""
    if gpu not in ("", "auto", *CARDS):
        raise InputError(f"--gpu {gpu}: must be auto (this machine's) or {', '.join(CARDS)}")
    if gpu_gb and gpu in ("", "auto"):
        gpu = next((name for name, card in CARDS.items() if card.memory_gib >= gpu_gb), "h200")
    card = CARDS.get(gpu)
    has_bf16 = card.has_bf16 if card else multiplies_bf16(device_of(config.device))
    if config.precision == "bf16" and not has_bf16:
        raise InputError(f"precision=bf16: {gpu or 'this GPU'} has no products of bf16; set precision=fp16")
    most = config.ppo.max_response_tokens
    if prompt_tokens or response_tokens:
        rows = _given_rows(config.data, most, prompt_tokens, response_tokens)
    elif _is_on_this_machine(config.data, config.model):
        rows = _mean_rows(config.data, most, Encoder.of(config), columns_of_run(config))
    else:
        rows = _longest_rows(config.data, most)
    networks, ppo = Networks.of(config, config.reward), config.ppo
    _check_window(networks, rows)
    here = device_of(config.device) if card is None else torch.device("cuda")
    site = Site.gpu() if here.type == "cuda" else Site(here.type, resident_bytes())
    processes = Processes.of(config, on_gpu=here.type != "cpu")
    room = int(gpu_gb * GIB) or (int(card.memory_gib * GIB) if card else _room(here))
    name = f"{gpu}, {room / GIB:.0f} GiB" if card else f"this machine's {here.type}, {room / GIB:.1f} GiB"
    if here.type == "cpu":
        room //= processes.num  # they share the machine's memory
    memory = memory_of(config, site, rows.ppo, rows.data, processes)
    of_dpo = dpo_memory(config, site, rows.data, processes)
    of_one = processes.work_of_one(config)
    traffic = sent(of_one, processes)
    start = Moment.now()
    if card:
        time = step_time(of_one, expected_on(card, networks, of_one.ppo, rows.ppo), rows.data, traffic)
    else:  # processes on a CPU share its cores, so together they take about as long as one
        time = step_time(config, measured_here(networks, ppo, rows.ppo), rows.data)
    others = 0.0 if card else Moment.now().others_since(start)
    remedies = list(_remedies(config, site, rows, room, processes, half="bf16" if has_bf16 else "fp16"))
    times = 1 + config.reward.num_rounds
    run_s = {
        "sft": time.sft * config.sft.max_steps,
        "reward": time.reward * config.reward.max_steps * times,
        "ppo": time.ppo_run(ppo) * times,
    }
    run_s = {name: seconds for name, seconds in run_s.items() if seconds}  # max_steps=0: the data decides
    return Plan(name, room, processes, rows, memory, of_dpo, time, traffic, card is not None, others, run_s, remedies)


def resident_bytes() -> int:
    """Return the memory of this process now: Python and the libraries, if nothing else is loaded yet."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _room(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _given_rows(data: DataConfig, most: int, prompt_tokens: int, response_tokens: int) -> Rows:
    """Return the given lengths, and the longest allowed in place of 0; `most` is that of PPO's responses."""
    prompt = prompt_tokens or data.max_prompt_tokens
    return Rows(
        Sizes(prompt, response_tokens or most), Sizes(prompt, response_tokens or data.max_response_tokens), "given"
    )


def _longest_rows(data: DataConfig, most: int) -> Rows:
    ppo, of_data = (Sizes(data.max_prompt_tokens, n) for n in (most, data.max_response_tokens))
    return Rows(ppo, of_data, "the longest allowed; the data is not on this machine")


def _mean_rows(data: DataConfig, most: int, encoder: Encoder, columns: tuple[str, ...]) -> Rows:
    prompts = flat(step_examples(data, "ppo", columns).train)[:_NUM_EXAMPLES]
    demonstrations = flat(step_examples(data, "sft", columns).train)[:_NUM_EXAMPLES]
    prompt = _mean(len(encoder.prompt(example)) for example in prompts)
    response = _mean(len(encoder.response(example.chosen)) for example in demonstrations)
    return Rows(Sizes(prompt, most), Sizes(prompt, response), "means of the data; responses of PPO as long as allowed")


def _check_window(networks: Networks, rows: Rows) -> None:
    """Raise InputError if a row is longer than the context of a model: the run would be refused as well."""
    window = min(filter(None, map(window_of, (networks.policy, networks.score))), default=None)
    longest = max(rows.ppo, rows.data, key=lambda sizes: sizes.row)
    if window is not None and longest.row > window:
        raise InputError(
            f"prompts of {longest.prompt} and responses of {longest.response} tokens ({rows.source}) need "
            f"{longest.row} tokens, but the model reads {window}; lower --prompt-tokens or --response-tokens, or "
            "max_prompt_tokens and max_response_tokens in the config"
        )


def _mean(lengths: Iterator[int]) -> int:
    return max(1, round(fmean(lengths)))


def _is_on_this_machine(data: DataConfig, model: ModelConfig) -> bool:
    return all(map(_is_local, [*data.train, *data.sft, *data.ppo])) and _has_tokenizer(model)


def _is_local(source: Source) -> bool:
    return is_built_in(source) or (is_file(source) and Path(source.path).is_file())


def _has_tokenizer(config: ModelConfig) -> bool:
    name = config.tokenizer or config.path
    return name in ("bytes", "random") or Path(gguf_parts(name)[0]).is_dir()


def _remedies(
    config: LmConfig, site: Site, rows: Rows, room: int, processes: Processes, *, half: str
) -> Iterator[Remedy]:
    """Yield settings that save memory, each on top of those before it, until every step fits.

    `half` is the precision of 16 bits that the device has.
    """
    peaks = _peaks(memory_of(config, site, rows.ppo, rows.data, processes))
    for key, smaller in _SMALLER.items():
        if key in _OF_GPUS and site.device == "cpu":
            continue
        before, chosen = peaks, None
        while _excess(peaks, room) and (value := smaller(config)) is not None:
            value = half if key == "precision" else value
            changed = _changed(config, key, value)
            those = replace(processes, shard=changed.shard and processes.num > 1)
            now = _peaks(memory_of(changed, site, rows.ppo, rows.data, those))
            if _excess(now, room) >= _excess(peaks, room):
                break
            config, peaks, chosen, processes = changed, now, value, those
        if chosen is not None:
            saves = max(before[step] - peaks[step] for step in peaks)
            yield Remedy(f"{key}={str(chosen).lower()}", saves, max(peaks.values()))


def _peaks(memory_by_step: dict[str, Memory]) -> dict[str, int]:
    return {name: memory.peak for name, memory in memory_by_step.items()}


def _excess(peaks: dict[str, int], room: int) -> int:
    """Return the bytes that all steps together need beyond the room."""
    return sum(max(0, peak - room) for peak in peaks.values())


def _half(number: int) -> int | None:
    return number // 2 if number > 1 else None


_OF_GPUS = ("precision", "lora.backbone", "optimizer")  # most CPUs are slow with them

# ordered from settings that only cost time to those that cost quality; None: there is no smaller value
_SMALLER: dict[str, Callable[[LmConfig], object | None]] = {
    "sft.micro_batch_size": lambda config: _half(config.sft.micro_batch_size),
    "reward.micro_batch_size": lambda config: _half(config.reward.micro_batch_size),
    "ppo.micro_batch_size": lambda config: _half(config.ppo.micro_batch_size),
    "model.gradient_checkpointing": lambda config: None if config.model.gradient_checkpointing else True,
    "shard": lambda config: (
        True if config.processes > 1 and not (config.shard or config.lora.shared_backbone) else None
    ),
    "precision": lambda config: "bf16" if config.precision == "fp32" else None,
    "optimizer": lambda config: "adamw8bit" if config.optimizer == "adamw" and not config.shard else None,
    "lora.rank": lambda config: None if config.lora.rank else 16,
    "lora.shared_backbone": lambda config: (
        True
        if config.lora.rank
        and not (config.reward.model or config.reward.num_rounds or config.lora.shared_backbone or config.shard)
        else None
    ),
    "lora.backbone": lambda config: (
        "nf4" if config.lora.shared_backbone and config.lora.backbone == "precision" else None
    ),
    "reward.num_layers": lambda config: _half(
        config.reward.num_layers or shape_of(config, config.reward.model).num_hidden_layers
    ),
    "ppo.ema_decay": lambda config: 0 if config.ppo.ema_decay else None,
    "ppo.batch_size": lambda config: (
        _half(config.ppo.batch_size)
        if config.ppo.batch_size > max(config.ppo.num_minibatches, 2)
        and config.ppo.batch_size // 2 % config.ppo.group_size == 0
        else None
    ),
}


def _changed(config: LmConfig, key: str, value: object) -> LmConfig:
    """Return the config with another value for one key."""
    section, _, name = key.rpartition(".")
    tree = config.model_dump()
    (tree[section] if section else tree)[name] = value
    return LmConfig.model_validate(tree)
