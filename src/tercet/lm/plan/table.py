"""Print a plan as lines of text."""

from collections.abc import Iterator

from tercet.lm.plan.memory import Memory
from tercet.lm.plan.plan import GIB, Plan
from tercet.lm.plan.traffic import NETWORK

_STEPS = {"sft": "SFT", "reward": "reward model", "ppo": "PPO"}
_SMALL = 0.0005  # GiB: smaller parts would be printed as 0.000
_BUSY = 0.2  # CPUs of other processes from which a time is reported as unreliable


def lines(plan: Plan) -> Iterator[str]:
    """Yield the lines of the plan: memory, time, and whether it fits."""
    ppo, sizes = plan.rows.ppo, plan.rows
    yield f"{plan.device}; prompts of {ppo.prompt} tokens, PPO's responses of {ppo.response} ({sizes.source})"
    yield ""
    yield "PPO, GiB"
    yield from _parts(plan.memory["ppo"])
    yield ""
    yield "peak of each step, GiB"
    for name, memory in plan.memory.items():
        yield _line(_STEPS[name], memory.peak, f"  at {memory.fullest}")
    yield _line("DPO, if you run it", plan.dpo.peak, f"  at {plan.dpo.fullest}")
    yield ""
    yield from _seconds(plan)
    yield ""
    yield from _verdict(plan)


def _parts(memory: Memory) -> Iterator[str]:
    for name, size in memory.stays.items():
        if size >= _SMALL * GIB:
            yield _line(name, size)
    for moment, parts in memory.moments.items():
        details = ", ".join(f"{name} {size / GIB:.2f}" for name, size in parts.items() if size >= _SMALL * GIB)
        mark = "  <- the peak" if moment == memory.fullest else ""
        yield _line(f"+ {moment}", sum(parts.values()), f"  ({details}){mark}" if details else mark)


def _line(name: str, size: int, more: str = "") -> str:
    return f"  {name:<38}{size / GIB:8.3f}{more}"


def _seconds(plan: Plan) -> Iterator[str]:
    time = plan.time
    how = "estimated from the card's data sheet, not measured" if plan.is_estimate else "measured on shallow copies"
    yield f"expected seconds ({how})"
    if plan.other_cpus > _BUSY:
        yield f"  too long, because other work used {plan.other_cpus:.1f} CPUs; plan again on an idle machine"
    exchange = f", exchange {time.exchange:.2f}" if time.exchange else ""
    parts = f"(sample {time.generate:.2f}, score {time.score:.2f}, train {time.train:.2f}{exchange})"
    yield f"  {'PPO step':<38}{time.ppo:8.2f}  {parts}"
    yield f"  {'validation of PPO':<38}{time.validation:8.2f}"
    yield f"  {'SFT step':<38}{time.sft:8.2f}"
    yield f"  {'reward model step':<38}{time.reward:8.2f}"
    yield f"  {'DPO step':<38}{time.dpo:8.2f}"
    for name, seconds in plan.run_s.items():
        yield f"  {_STEPS[name] + ', the whole step of the run':<38}{seconds:8.0f}  ({seconds / 3600:.1f} hours)"
    if len(plan.run_s) < len(_STEPS):
        yield "  the number of steps of SFT and the reward model depends on the data, unless max_steps is set"


def _verdict(plan: Plan) -> Iterator[str]:
    peak, room = plan.peak / GIB, plan.room / GIB
    yield from _of_processes(plan)
    if plan.fits:
        yield f"fits: {peak:.1f} of {room:.1f} GiB"
        return
    yield f"does not fit: {peak:.1f} of {room:.1f} GiB. Settings that save memory, each on top of those before it:"
    for remedy in plan.remedies:
        yield f"  {remedy.override:<38}saves {remedy.saves / GIB:.2f}, then {remedy.peak / GIB:.1f} GiB"
    if not plan.remedies or plan.remedies[-1].peak > plan.room:
        yield "  still too much: use a smaller model, shorter responses, or more memory"
    else:
        yield f"  fits with: {' '.join(remedy.override for remedy in plan.remedies)}"


def _of_processes(plan: Plan) -> Iterator[str]:
    """Say whose memory and time these are, and what processes send to one another."""
    num, shard = plan.processes.num, plan.processes.shard
    if num == 1:
        yield "memory and time are those of one process; plan for several with processes=2 or more, and shard=true"
        return
    weights = "a part of the weights" if shard else "whole weights"
    yield f"memory is that of each of {num} processes, with {weights}"
    if not plan.is_estimate:
        yield "time is that of one process on all cores, which the processes share"
    amounts = ((plan.sent.ppo, "PPO"), (plan.sent.sft, "SFT"), (plan.sent.reward, "reward model"))
    each = ", ".join(f"{size / 1e9:.3g} GB in a step of {name}" for size, name in amounts)
    yield f"each sends {each}" + (f"; the time assumes {NETWORK / 1e9:g} GB/s" if plan.is_estimate else "")
