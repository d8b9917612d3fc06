"""Runs that are made sick on purpose, each with the finding that names its sickness, and sound ones."""

import json
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

Base = Literal["tiny", "smollm2", "lift", "reach"]
SOUND = ""


@dataclass(frozen=True)
class Case:
    """A run: its base, the finding that is expected (none for a sound run), and what differs from the base.

    A language run without an SFT step of its own starts from the SFT model that all runs of its base share. `plant`
    breaks the code itself, where no setting could make the run sick.
    """

    name: str
    base: Base
    finding: str
    overrides: Sequence[str] = ()
    steps: Sequence[str] = ("ppo",)
    plant: str = ""


def words(path: Path, *, num: int, seed: int, punctuated: bool = False) -> str:
    """Write short questions with answers of one word, which a tiny model learns to end; return the path."""
    chance = random.Random(seed)
    syllables = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]
    lines = []
    for _ in range(num):
        question = " ".join("".join(chance.choices(syllables, k=2)) for _ in range(2))
        if punctuated:
            question = ", ".join(question.split())
        answer = "".join(chance.choices(syllables, k=chance.randint(1, 3)))
        lines.append(json.dumps({"prompt": question + "?", "response": answer}))
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def echoes(path: Path) -> str:
    """Write questions whose answers are the questions."""
    texts = ["tell me more", "how are you", "who is there", "what is that", "where is he", "why not now"]
    names = ["anna", "bob", "carl", "dora", "emil", "fred", "gina", "hugo"]
    lines = [json.dumps({"prompt": f"{text} {name}", "response": f"{text} {name}"}) for text in texts for name in names]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


LATE = "ppo.reward={sick_rewards:late_letters: 1.0}"
TINY = [
    "data.max_response_tokens=12",
    "sft.epochs=100",
    "sft.max_steps=150",
    "sft.checkpoint_every=1000",
    "ppo.max_response_tokens=12",
    "ppo.num_updates=16",
    "ppo.batch_size=32",
    "ppo.micro_batch_size=32",
    "ppo.critic_lr=3e-3",
    "ppo.critic_warmup_updates=2",
    "ppo.lr=5e-4",
    "ppo.kl_coef=0.1",
    "ppo.num_eval_prompts=24",
    "ppo.keep_rollouts=0",
    "reward.num_sampled_pairs=200",
    "reward.num_reference_samples=64",
    "judge=sick_rewards:late_letters",
    LATE,
]
SMOLLM2 = [
    "processes=1",
    "sft.max_steps=10",
    "sft.batch_size=8",
    "sft.micro_batch_size=8",
    "sft.num_eval=8",
    "sft.best_fraction=1.0",
    "reward.num_reference_samples=32",
    "reward.num_layers=6",
    "lora.num_layers=6",
    "ppo.reward={tercet.lm.preferences.judge:polite_and_to_the_point: 1.0}",
    "ppo.num_updates=12",
    "ppo.critic_warmup_updates=1",
    "ppo.batch_size=12",
    "ppo.max_response_tokens=16",
    "ppo.num_eval_prompts=16",
    "ppo.eval_every=4",
    "ppo.watch=[]",
    "ppo.keep_rollouts=0",
]
ARM = ["ppo.num_updates=16", "ppo.num_eval_states=64", "threads=1"]
LIFT = [*ARM, "reward.epochs=20", "reward.num_pairs=200", "ppo.eval_every=4"]
BASES: dict[Base, list[str]] = {"tiny": TINY, "smollm2": SMOLLM2, "lift": LIFT, "reach": ARM}

_WHOLE = ("reward", "ppo")
_ARM = ("bc", "reward", "ppo")
SICK = (
    Case("KL without a penalty", "tiny", "kl_running_away", ["ppo.kl_coef=0", "ppo.max_kl=2", "ppo.lr=1e-2"]),
    Case("samples of old weights", "tiny", "kl_negative", ["ppo.lr=3e-3"], plant="old weights"),
    Case("another reference", "tiny", "reference_is_not_the_start", plant="another reference"),
    Case("paid for brevity, three epochs", "tiny", "entropy_collapse", ["ppo.reward={sick_rewards:short: 1.0}",
         "ppo.kl_coef=0", "ppo.lr=1.5e-3", "ppo.epochs=3", "ppo.num_updates=24"]),
    Case("a judge of the opposite", "tiny", "watched_judge_falls", ["ppo.watch=[sick_rewards:early_letters]",
         "ppo.lr=3e-3"]),
    Case("paid for the opposite of the judge", "tiny", "ppo_worse", ["ppo.reward={sick_rewards:early_letters: 1.0}",
         "ppo.lr=3e-3"], ("ppo", "eval")),
    Case("paid for length", "tiny", "length_changes", ["ppo.reward={sick_rewards:long: 1.0}", "ppo.lr=5e-3",
         "ppo.kl_coef=0", "ppo.max_response_tokens=24", "ppo.missing_eos_penalty=0", "ppo.num_updates=30"]),
    Case("never taught to end", "tiny", "no_eos", ["data.train=[chatterbot]", "sft.max_steps=20"], ("sft", "ppo")),
    Case("paid for brevity", "tiny", "duplicate_responses", ["ppo.reward={sick_rewards:short: 1.0}", "ppo.kl_coef=0",
         "ppo.lr=2e-3", "ppo.num_updates=24"]),
    Case("data of echoes", "tiny", "copied_responses", ["data.train=[{echoes}]", "data.max_response_tokens=24",
         "ppo.max_response_tokens=24", "sft.max_steps=300", "sft.epochs=500", "ppo.lr=1e-4"],
         ("sft", "ppo")),
    Case("a critic that does not learn", "tiny", "critic_explains_nothing", ["ppo.critic_lr=1e-9"]),
    Case("learning rate x 50", "tiny", "updates_too_large", ["ppo.lr=5e-2", "ppo.epochs=4"]),
    Case("learning rate x 1e-5", "tiny", "updates_too_small", ["ppo.lr=1e-8"]),
    Case("outliers in the reward", "tiny", "gradient_spikes", ["ppo.reward={sick_rewards:outliers: 1.0}",
         "ppo.reward_clip=1e9", "ppo.whiten_advantages=false", "ppo.num_updates=30"]),
    Case("nothing is paid", "tiny", "no_advantages", ["ppo.reward={sick_rewards:nothing: 1.0}"]),
    Case("groups of equal scores", "tiny", "no_advantages", ["ppo.algorithm=grpo", "ppo.group_size=4",
         "ppo.reward={sick_rewards:never: 1.0}"]),
    Case("judged by length", "tiny", "reward_model_length", ["judge=sick_rewards:long",
         "ppo.reward={reward_model: 1.0}", "reward.num_sampled_pairs=400", "reward.epochs=4"], ("reward",)),
    Case("judged at random", "tiny", "reward_model_chance", ["judge=sick_rewards:at_random",
         "ppo.reward={reward_model: 1.0}"], ("reward",)),
    Case("a narrow clip", "tiny", "reward_saturated", ["ppo.reward_clip=0.2"]),
    Case("SFT, learning rate x 300", "tiny", "sft_lr", ["sft.lr=1.0"], ("sft",)),
    Case("SFT, learning rate x 1e-6", "tiny", "sft_lr", ["sft.lr=3e-9"], ("sft",)),
    Case("reward model, learning rate x 3000", "tiny", "reward_lr", ["reward.lr=3.0", "reward.epochs=8",
         "ppo.reward={reward_model: 1.0}"], ("reward",)),
    Case("held-out copies", "tiny", "data_leaks", ["data.eval=[{copies}]"], ("sft",)),
    Case("a slow reward", "tiny", "reward_takes_most_time", ["ppo.reward={sick_rewards:slow: 1.0}",
         "ppo.num_updates=8"]),
    Case("a reward that remembers", "tiny", "throughput_falls",
         ["ppo.reward={sick_rewards:slower_and_slower: 1.0}", "ppo.eval_every=16"]),
    Case("paid for staying away", "lift", "success_falls", ["ppo.reward={dense: -1.0}", "ppo.lr=1e-3", "ppo.kl_coef=0",
         "bc.num_demonstrations=10", "ppo.num_updates=24"], ("bc", "ppo")),
    Case("judged at random", "lift", "reward_model_chance", ["reward.judge=sick_rewards:random_segments"],
         ("bc", "reward")),
    Case("cloning, learning rate x 1000", "lift", "bc_lr", ["bc.lr=1.0", "bc.epochs=40"], ("bc",)),
    Case("cloning, learning rate x 1e-6", "lift", "bc_lr", ["bc.lr=1e-9", "bc.epochs=40"], ("bc",)),
    Case("learning rate x 100", "reach", "updates_too_large", ["ppo.lr=0.1", "ppo.kl_stop=0"], ("ppo",)),
    Case("learning rate x 1e-6", "reach", "updates_too_small", ["ppo.lr=1e-9"], ("ppo",)),
    Case("every update is cut short", "reach", "updates_too_large", ["ppo.lr=1e-2"], ("ppo",)),
    Case("a critic that does not learn", "reach", "critic_explains_nothing", ["ppo.critic_lr=1e-9"], ("ppo",)),
    Case("nothing is paid", "reach", "no_advantages", ["ppo.reward={sick_rewards:no_reward: 1.0}"], ("ppo",)),
    Case("far from the clone", "reach", "kl_running_away", ["ppo.lr=3e-3", "ppo.max_kl=20"], ("ppo",)),
    Case("a slow reward", "reach", "reward_takes_most_time", ["ppo.reward={sick_rewards:slow_simulation: 1.0}",
         "ppo.num_updates=8"], ("ppo",)),
    Case("learning rate x 20", "smollm2", "updates_too_large", ["ppo.lr=3e-2", "ppo.num_updates=7"]),
    Case("learning rate x 1e-5", "smollm2", "updates_too_small", ["ppo.lr=1e-8", "ppo.num_updates=7"]),
)  # fmt: skip
HEALTHY = (
    Case("the base", "tiny", SOUND),
    Case(
        "all steps",
        "tiny",
        SOUND,
        ["ppo.reward={reward_model: 1.0}", "judge=sick_rewards:late_share", "reward.lr=3e-3", "reward.epochs=8"],
        _WHOLE,
    ),
    Case("GRPO", "tiny", SOUND, ["ppo.algorithm=grpo", "ppo.group_size=4"]),
    Case("RLOO", "tiny", SOUND, ["ppo.algorithm=rloo", "ppo.group_size=4"]),
    Case("REINFORCE++", "tiny", SOUND, ["ppo.algorithm=reinforce++"]),
    Case("half the learning rate", "tiny", SOUND, ["ppo.lr=2.5e-4", "ppo.num_updates=24"]),
    Case("twice the learning rate", "tiny", SOUND, ["ppo.lr=1e-3", "ppo.kl_coef=0.2"]),
    Case("another reward", "tiny", SOUND, ["ppo.reward={sick_rewards:open_vowels: 1.0}", "ppo.epochs=1"]),
    Case("a target of the KL", "tiny", SOUND, ["ppo.kl_target=2", "ppo.kl_coef=0.02"]),
    Case(
        "adapters",
        "tiny",
        SOUND,
        ["lora.rank=8", "lora.alpha=16", "sft.lr=2e-2", "ppo.lr=5e-3", "ppo.critic_lr=2e-2"],
        ("sft", "ppo"),
    ),
    Case("the base", "lift", SOUND, [], _ARM),
    Case("other networks", "lift", SOUND, ["policy.hidden_size=64", "bc.num_demonstrations=6"], _ARM),
    Case("dense reward too", "lift", SOUND, ["ppo.reward={reward_model: 0.3, dense: 0.2}"], _ARM),
    Case("the base", "reach", SOUND, [], ("ppo",)),
    Case("half the learning rate", "reach", SOUND, ["ppo.lr=5e-4"], ("ppo",)),
    Case("more episodes", "reach", SOUND, ["ppo.num_envs=64"], ("ppo",)),
    Case("RLOO", "reach", SOUND, ["ppo.algorithm=rloo"], ("ppo",)),
)


SHARED = {base: Case("shared SFT", base, SOUND, ["ppo.policy="], ("sft",)) for base in ("tiny", "smollm2")}


def prepared(case: Case, folder: Path, seed: int) -> list[str]:
    """Return the overrides of a case, and write the data of the tiny model; the runs of a seed share `folder`."""
    overrides = [*BASES[case.base], *case.overrides, f"seed={seed}"]
    if case.base in SHARED and "sft" not in case.steps:
        overrides.append(f"ppo.policy={folder / case.base / 'sft' / 'model'}")
    if case.base != "tiny":
        return overrides
    files = {
        "words": words(folder / "words.jsonl", num=400, seed=seed),
        "copies": words(folder / "copies.jsonl", num=100, seed=seed, punctuated=True),
        "echoes": echoes(folder / "echoes.jsonl"),
    }
    overrides = [f"data.train=[{files['words']}]", *overrides]
    for name, path in files.items():
        overrides = [text.replace(f"{{{name}}}", path) for text in overrides]
    return overrides


@contextmanager
def planted(plant: str) -> Iterator[None]:
    """Break the code of PPO, and switch off the self-check that would refuse to go on."""
    if not plant:
        yield
        return
    from tercet.lm.ppo import collect, step

    before: dict[str, Any] = {name: getattr(step, name) for name in _PLANTS[plant]}
    checks = collect.check, collect.check_engine
    try:
        collect.check, collect.check_engine = lambda *_, **__: {}, lambda *_: None
        for name, make in _PLANTS[plant].items():
            setattr(step, name, make(before[name]))
        yield
    finally:
        collect.check, collect.check_engine = checks
        for name, value in before.items():
            setattr(step, name, value)


def _sampler_of_old_weights(sampler_class: Callable[..., Any]) -> Callable[..., Any]:
    """Sample from a copy of the first policy, as an engine does that never gets new weights."""
    from copy import deepcopy

    def make(policy: Any, *args: Any) -> Any:
        sampler = sampler_class(deepcopy(policy), *args)
        own = sampler.sample

        def sample(*args: Any) -> Any:
            return replace(own(*args), by_engine=True)  # its log-probabilities are computed again, by the policy

        object.__setattr__(sampler, "sample", sample)
        return sampler

    return make


def _reference_of_the_base(reference_logprobs: Callable[..., Any]) -> Callable[..., Any]:
    """Use another network as the reference."""
    from copy import deepcopy

    import torch

    def make(policy: Any, frozen: Any, **options: Any) -> Any:
        other = deepcopy(policy)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.mul_(0.9)
        return reference_logprobs(policy, other, **options)

    return make


_PLANTS: dict[str, dict[str, Callable[[Any], Any]]] = {
    "old weights": {"Sampler": _sampler_of_old_weights},
    "another reference": {"reference_logprobs": _reference_of_the_base},
}
