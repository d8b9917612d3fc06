"""`tercet plan`: what goes where in memory and how long a step takes, before anything is loaded; and what would fit."""

import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from tercet.config.lm import LmConfig, Source
from tercet.errors import InputError
from tercet.lm.data.sources import BUILT_IN, is_file
from tercet.lm.data.splits import flat, step_examples
from tercet.lm.models.roles import device_of
from tercet.lm.models.weights import gguf_parts, window_of
from tercet.lm.plan.cost import Sizes
from tercet.lm.plan.hardware import CARDS
from tercet.lm.plan.memory import Memory, Site, memory_of, score_shape
from tercet.lm.plan.shapes import shape_of
from tercet.lm.plan.step_time import StepTime, expected_on, measured_here, step_time
from tercet.lm.text.encoder import Encoder
from tercet.runs.clock import Moment

GIB = 2**30
_LOOKED_AT = 256  # examples whose lengths are taken


@dataclass(frozen=True)
class Rows:
    """Tokens of PPO's rows and of the data's, and where they were taken from."""

    ppo: Sizes
    data: Sizes
    source: str


@dataclass(frozen=True)
class Remedy:
    """A setting that makes a step smaller, the most that it saves in one on top of those before, and the peak then."""

    override: str
    saves: int
    peak: int


@dataclass(frozen=True)
class Plan:
    """Everything that is printed."""

    device: str
    room: int  # bytes
    rows: Rows
    memory: dict[str, Memory]
    time: StepTime
    is_estimate: bool  # of the time: by arithmetic alone
    other_cpus: float  # CPUs that other processes kept busy while the time was taken
    run_s: dict[str, float]  # of whole steps, where it is known how much there is to do
    remedies: list[Remedy]

    @property
    def peak(self) -> int:
        """The most that any step takes."""
        return max(memory.peak for memory in self.memory.values())

    @property
    def fits(self) -> bool:
        """Whether every step has room."""
        return self.peak <= self.room

    def as_json(self) -> dict[str, Any]:  # Any: JSON
        """The plan as plain data, bytes and seconds."""
        derived = {"peak": self.peak, "fits": self.fits, "ppo_step_s": self.time.ppo}
        peaks = {name: {"peak": memory.peak, "fullest": memory.fullest} for name, memory in self.memory.items()}
        return asdict(self) | derived | {"peaks": peaks}


def plan(
    config: LmConfig, *, gpu: str = "", gpu_gb: float = 0.0, prompt_tokens: int = 0, response_tokens: int = 0
) -> Plan:
    """The plan of a run on a card, or on this machine where no card is named. InputError for a card without numbers."""
    if gpu not in ("", "auto", *CARDS):
        raise InputError(f"--gpu {gpu}: must be auto (this machine's) or {', '.join(CARDS)}")
    if gpu_gb and gpu in ("", "auto"):
        gpu = next((name for name, card in CARDS.items() if card.memory_gib >= gpu_gb), "h200")
    card = CARDS.get(gpu)
    rows = _rows(config, prompt_tokens, response_tokens)
    _check_window(config, rows)
    here = device_of(config) if card is None else torch.device("cuda")
    site = Site.gpu() if here.type == "cuda" else Site("cpu", resident_bytes())
    room = int(gpu_gb * GIB) or (int(card.memory_gib * GIB) if card else _room(here))
    memory = memory_of(config, site, rows.ppo, rows.data)
    start = Moment.now()
    phases = expected_on(card, config, rows.ppo) if card else measured_here(config, rows.ppo)
    others = 0.0 if card else Moment.now().others_since(start)
    time = step_time(config, phases, rows.data)
    name = f"{gpu}, {room / GIB:.0f} GiB" if card else f"this machine's {here.type}, {room / GIB:.1f} GiB"
    remedies = list(_remedies(config, site, rows, room))
    return Plan(name, room, rows, memory, time, card is not None, others, _run_seconds(config, time), remedies)


def _run_seconds(config: LmConfig, time: StepTime) -> dict[str, float]:
    known = {
        "sft": time.sft * config.sft.max_steps,
        "reward": time.reward * config.reward.max_steps,
        "ppo": time.ppo_run(config),
    }
    return {name: seconds for name, seconds in known.items() if seconds}


def resident_bytes() -> int:
    """What this process has in memory now: Python and the libraries, if nothing else was loaded yet."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _room(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _rows(config: LmConfig, prompt_tokens: int, response_tokens: int) -> Rows:
    """Lengths as given, else as the data has them where it lies here, else the longest that the config allows."""
    data, most = config.data, config.ppo.max_response_tokens
    if prompt_tokens or response_tokens:
        prompt = prompt_tokens or data.max_prompt_tokens
        return Rows(
            Sizes(prompt, response_tokens or most), Sizes(prompt, response_tokens or data.max_response_tokens), "given"
        )
    if not (all(_is_here(source) for source in [*data.train, *data.sft, *data.ppo]) and _has_tokenizer(config)):
        ppo, shown = (Sizes(data.max_prompt_tokens, n) for n in (most, data.max_response_tokens))
        return Rows(ppo, shown, "the longest allowed; the data is not on this machine")
    encoder = Encoder.of(config)
    asked = flat(step_examples(data, "ppo").train)[:_LOOKED_AT]
    shown = flat(step_examples(data, "sft").train)[:_LOOKED_AT]
    prompt = _mean(len(encoder.prompt(example)) for example in asked)
    answer = _mean(len(encoder.response(example.chosen)) for example in shown)
    return Rows(Sizes(prompt, most), Sizes(prompt, answer), "means of the data; answers of PPO as long as allowed")


def _check_window(config: LmConfig, rows: Rows) -> None:
    """InputError where the models cannot read a row at once: a run is refused as well."""
    window = min(filter(None, map(window_of, (shape_of(config), score_shape(config)))), default=None)
    longest = max(rows.ppo, rows.data, key=lambda sizes: sizes.row)
    if window is not None and longest.row > window:
        raise InputError(
            f"prompts of {longest.prompt} and responses of {longest.response} tokens ({rows.source}) need "
            f"{longest.row} tokens, but the model reads {window}; lower --prompt-tokens or --response-tokens, or "
            "max_prompt_tokens and max_response_tokens in the config"
        )


def _mean(lengths: Iterator[int]) -> int:
    return max(1, round(fmean(lengths)))


def _is_here(source: Source) -> bool:
    return source.path == BUILT_IN or (is_file(source) and Path(source.path).is_file())


def _has_tokenizer(config: LmConfig) -> bool:
    name = config.model.tokenizer or config.model.path
    return name in ("bytes", "random") or Path(gguf_parts(name)[0]).is_dir()


def _remedies(config: LmConfig, site: Site, rows: Rows, room: int) -> Iterator[Remedy]:
    """Settings that save memory, each on top of those before it, until every step has room."""
    peaks = _peaks(config, site, rows)
    for key, smaller in _SMALLER.items():
        if key == "precision" and site.device == "cpu":
            continue  # most CPUs are slow in bf16
        before, kept = peaks, None
        while _excess(peaks, room) and (value := smaller(config)) is not None:
            changed = _changed(config, key, value)
            now = _peaks(changed, site, rows)
            if _excess(now, room) >= _excess(peaks, room):
                break
            config, peaks, kept = changed, now, value
        if kept is not None:
            saves = max(before[step] - peaks[step] for step in peaks)
            yield Remedy(f"{key}={str(kept).lower()}", saves, max(peaks.values()))


def _peaks(config: LmConfig, site: Site, rows: Rows) -> dict[str, int]:
    return {name: memory.peak for name, memory in memory_of(config, site, rows.ppo, rows.data).items()}


def _excess(peaks: dict[str, int], room: int) -> int:
    """What all steps together take beyond the room."""
    return sum(max(0, peak - room) for peak in peaks.values())


def _half(number: int) -> int | None:
    return number // 2 if number > 1 else None


def _shares(config: LmConfig) -> bool | None:
    possible = config.lora.rank and not config.reward.model and not config.lora.shared_backbone
    return True if possible else None


def _fewer_layers(config: LmConfig) -> int | None:
    return _half(config.reward.num_layers or score_shape(config).num_hidden_layers)


# from what costs nothing but time, or little, to what costs learning; None: no smaller value
_SMALLER: dict[str, Callable[[LmConfig], object | None]] = {
    "sft.micro_batch_size": lambda config: _half(config.sft.micro_batch_size),
    "reward.micro_batch_size": lambda config: _half(config.reward.micro_batch_size),
    "ppo.micro_batch_size": lambda config: _half(config.ppo.micro_batch_size),
    "model.gradient_checkpointing": lambda config: None if config.model.gradient_checkpointing else True,
    "precision": lambda config: "bf16" if config.precision == "fp32" else None,
    "lora.rank": lambda config: None if config.lora.rank else 16,
    "lora.shared_backbone": _shares,
    "reward.num_layers": _fewer_layers,
    "ppo.ema_decay": lambda config: 0 if config.ppo.ema_decay else None,
    "ppo.batch_size": lambda config: _half(config.ppo.batch_size) if config.ppo.batch_size > _fewest(config) else None,
}


def _fewest(config: LmConfig) -> int:
    return max(config.ppo.num_minibatches, 2)


def _changed(config: LmConfig, key: str, value: object) -> LmConfig:
    """The config with another value under this key."""
    section, _, name = key.rpartition(".")
    tree = config.model_dump()
    (tree[section] if section else tree)[name] = value
    return LmConfig.model_validate(tree)
