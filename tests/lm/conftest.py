"""Tiny random models of every architecture, the roles of PPO made from them, and whole runs of the steps.

Nothing here is shared and changed.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from click.testing import Result
from typer.testing import CliRunner

from tercet.cli import app
from tercet.config.lm import LmConfig
from tercet.config.load import load_lm_config
from tercet.lm.batch import TokenBatch, pad
from tercet.lm.data.examples import Example, Message
from tercet.lm.models.roles import Policy, ScoreModel, load_policy, load_score_model
from tercet.lm.models.weights import load_causal
from tercet.lm.pipeline import STEPS
from tercet.lm.rollout import LmActorCritic, RefLogprobs, reference_logprobs
from tercet.lm.text.encoder import Encoder
from tercet.lm.text.tokenizers import byte_tokenizer
from tercet.runs.folder import RunFolder

Shape = dict[str, str | int | float | bool]
MakeConfig = Callable[..., LmConfig]

# weights far larger than real ones start with: logits then differ widely, and a token in a wrong place shows
_SIZE: Shape = {"vocab_size": 300, "num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 32}
_LLAMA: Shape = _SIZE | {
    "intermediate_size": 32,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
}
_OPT: Shape = _SIZE | {"model_type": "opt", "ffn_dim": 32, "max_position_embeddings": 64, "init_std": 0.3}
ARCHITECTURES: dict[str, Shape] = {
    "opt": _OPT | {"word_embed_proj_dim": 32, "dropout": 0.1},
    "opt-350m": _OPT | {"word_embed_proj_dim": 16, "do_layer_norm_before": False, "dropout": 0.1},
    "gpt2": _SIZE | {"model_type": "gpt2", "n_positions": 64, "initializer_range": 0.3},
    "llama": _LLAMA | {"model_type": "llama"},
    "qwen2": _LLAMA | {"model_type": "qwen2", "tie_word_embeddings": True},
    "qwen3": _LLAMA | {"model_type": "qwen3"},
    "bloom": _SIZE | {"model_type": "bloom", "initializer_range": 0.3},
    "gpt_neox": _SIZE
    | {"model_type": "gpt_neox", "intermediate_size": 32, "max_position_embeddings": 64, "initializer_range": 0.3},
}


def _config(architecture: str = "opt", **sections: Any) -> LmConfig:  # Any: what LmConfig checks
    model = {"path": "random", "tokenizer": "bytes", "architecture": ARCHITECTURES[architecture]}
    data = {"style": "plain", "max_prompt_tokens": 24, "max_response_tokens": 8}
    merged = {"model": model, "data": data, "ppo": {"max_response_tokens": 8}}
    return LmConfig.model_validate(
        {"device": "cpu"} | sections | {name: own | sections.get(name, {}) for name, own in merged.items()}
    )


@pytest.fixture(scope="session")
def make_config() -> MakeConfig:
    """A config of tiny random weights: `make_config("gpt2", lora={"rank": 4}, ppo={...})`."""
    return _config


@pytest.fixture(scope="session", params=list(ARCHITECTURES))
def architecture(request: pytest.FixtureRequest) -> str:
    """The name of each shape of model, one after the other."""
    return request.param


@pytest.fixture(scope="session")
def policy(architecture: str) -> Policy:
    """A frozen policy of that shape; look, don't touch."""
    return load_policy(_config(architecture))


@pytest.fixture(scope="session")
def score_model(architecture: str) -> ScoreModel:
    """A frozen score model of that shape, with a bias; look, don't touch."""
    model = load_score_model(_config(architecture))
    model.bias.data.fill_(0.25)
    return model


PROMPTS = [[5, 9, 2, 7, 30, 11, 2], [6], [2, 2, 40], [77, 78, 79, 80, 81]]
RESPONSES = [[8, 2, 2], [17, 18, 19, 20, 2], [2], [50, 51, 52, 53, 54, 55]]


@pytest.fixture(scope="session")
def batch() -> TokenBatch:
    """Rows of every length; 2 is pad, EOS and BOS at once, and stands in the middle of texts as well."""
    return pad(PROMPTS, RESPONSES, pad_id=2)


@pytest.fixture(scope="session")
def sft_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A saved policy of a shape, as the SFT step leaves it: `sft_folder("opt")`."""

    def folder(architecture: str) -> Path:
        path = tmp_path_factory.mktemp("sft") / architecture
        load_causal(_config(architecture).model, seed=0).save_pretrained(path)
        byte_tokenizer().save_pretrained(path)
        return path

    return folder


class Roles(NamedTuple):
    """Who takes part in PPO, made anew for each test, so that it may break them."""

    config: LmConfig
    encoder: Encoder
    actor_critic: LmActorCritic
    reference: RefLogprobs


@pytest.fixture(scope="session")
def make_roles() -> Callable[[LmConfig], Roles]:
    """Actor, critic and reference of a config."""

    def roles(config: LmConfig) -> Roles:
        actor = load_policy(config, learns=True)
        frozen = None if config.lora.rank else load_policy(config)
        temperature = config.ppo.temperature
        actor_critic = LmActorCritic(actor, load_score_model(config, learns=True), temperature)
        reference = reference_logprobs(actor, frozen, temperature=temperature)
        return Roles(config, Encoder.of(config), actor_critic, reference)

    return roles


@pytest.fixture(scope="session")
def examples() -> list[Example]:
    """Short questions, no two of one length."""
    texts = ["Hi", "Who are you?", "Why is it?", "Tell me a joke", "a", "What?"]
    return [Example((Message("user", text),), "Yes.", None, "made up", f"row {i}") for i, text in enumerate(texts)]


@pytest.fixture
def chance() -> torch.Generator:
    """Random numbers that are the same in every run."""
    return torch.Generator().manual_seed(0)


Tercet = Callable[..., Result]
Take = Callable[..., Path]

COLOURS = ("red", "blue", "green", "black", "white", "brown", "pink", "grey", "gold", "teal")
THINGS = ("door", "boat", "bird", "coat", "tree", "house", "lamp", "stone", "book", "chair")


@pytest.fixture(scope="session")
def tercet() -> Tercet:
    """The command line, called in this process: `tercet("lm", "run", ...)`."""

    def call(*arguments: object, typed: str | bytes = "") -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments], input=typed)

    return call


@pytest.fixture(scope="session")
def tiny(tercet: Tercet) -> Tercet:
    """A command of the preset tiny: `tiny("sft", out, "sft.lr=1e-2")`."""

    def call(command: str, out: Path, *overrides: str) -> Result:
        return tercet("lm", command, "--preset", "tiny", "--out", out, *overrides)

    return call


@pytest.fixture(scope="session")
def take() -> Take:
    """A step of the preset tiny without the command line and its report: `take("ppo", out, "ppo.lr=1e-2")`."""

    def run(name: str, out: Path, *overrides: str) -> Path:
        config = load_lm_config("tiny", overrides)
        with RunFolder.open(out, config, preset="tiny") as folder:
            STEPS[name](folder, config)
        return out

    return run


@pytest.fixture(scope="session")
def toy_pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 prompts whose good answers say yes and whose bad ones say no."""
    path = tmp_path_factory.mktemp("data") / "toy.jsonl"
    rows = [
        {"prompt": f"Is the {thing} {colour}?", "chosen": f"Yes, {colour}.", "rejected": f"No, not {colour}."}
        for colour in COLOURS
        for thing in THINGS
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def toy_questions(toy_pairs: Path) -> Path:
    """The same prompts with the good answers alone: pairs must be sampled and judged."""
    path = toy_pairs.with_name("questions.csv")
    rows = [json.loads(line) for line in toy_pairs.read_text().splitlines()]
    path.write_text("prompt,response\n" + "".join(f'"{row["prompt"]}","{row["chosen"]}"\n' for row in rows))
    return path


@pytest.fixture(scope="session")
def small(toy_pairs: Path) -> list[str]:
    """Overrides that make the preset tiny smaller still: a few seconds for all three steps, on the toy pairs."""
    return [
        f"data.train=[{toy_pairs}]",
        "data.eval_fraction=0.3",
        "data.max_prompt_tokens=32",
        *("data.max_response_tokens=8", "ppo.max_response_tokens=8"),
        "model.architecture={model_type: opt, vocab_size: 260, hidden_size: 16, num_hidden_layers: 2, ffn_dim: 32, "
        "num_attention_heads: 2, max_position_embeddings: 128}",
        *("sft.max_steps=4", "sft.batch_size=8", "sft.micro_batch_size=4", "sft.checkpoint_every=2", "sft.num_eval=8"),
        *("reward.max_steps=4", "reward.batch_size=8", "reward.micro_batch_size=4", "reward.num_sampled_pairs=0"),
        *("reward.num_reference_samples=8", "reward.num_eval=16"),
        *("ppo.num_updates=3", "ppo.batch_size=8", "ppo.micro_batch_size=4", "ppo.critic_warmup_updates=0"),
        *("ppo.num_eval_prompts=4", "ppo.eval_every=2", "ppo.samples_every=2", "ppo.max_response_tokens=8"),
        *("eval.num_prompts=8", "eval.max_response_tokens=4", 'eval.prompts=["How are you?"]'),
    ]


@pytest.fixture(scope="session")
def longer(small: list[str]) -> list[str]:
    """The small settings with an SFT that is long enough to be seen in the answers."""
    return [
        *small,
        "sft.max_steps=0",
        "sft.epochs=6",
        "sft.lr=1e-2",
        "eval.prompts=[english]",
        "eval.max_response_tokens=16",
    ]


@pytest.fixture(scope="session")
def small_run(take: Take, longer: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All four steps of the longer settings, done; for looking at: nothing may change it."""
    path = tmp_path_factory.mktemp("runs") / "small"
    for name in STEPS:
        take(name, path, *longer)
    return path


@pytest.fixture(scope="session")
def tiny_run(tiny: Tercet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished `tercet lm run --preset tiny`, for looking at: nothing may change it."""
    path = tmp_path_factory.mktemp("runs") / "tiny"
    result = tiny("run", path)
    assert result.exit_code == 0, result.output
    return path


@pytest.fixture
def disturbed() -> Callable[[LmConfig], Policy]:
    """Makes a policy that learns, whose weights or adapters are not those it began with."""

    def make(config: LmConfig) -> Policy:
        policy = load_policy(config, learns=True).eval()
        chance = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in policy.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.05 * torch.randn(parameter.shape, generator=chance))
        return policy

    return make
