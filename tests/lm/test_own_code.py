"""Code that a model's folder brings runs where model.trust_remote_code says so, and nowhere else: nobody is asked."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import Result
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, dynamic_module_utils

from tercet.config.lm import ModelConfig
from tercet.errors import InputError
from tercet.lm.models.configs import config_at
from tercet.lm.models.roles import can_be_narrowed, can_be_unpadded
from tercet.lm.models.weights import load_causal, load_judge, load_scorer
from tercet.lm.text.ends import Ends
from tercet.lm.text.tokenizers import byte_tokenizer, load_tokenizer, read_tokenizer

Tercet = Callable[..., Result]
Take = Callable[..., Path]

_SHAPE_CODE = """
from pathlib import Path

from transformers import OPTConfig

Path({mark!r}).touch()


class OddConfig(OPTConfig):
    model_type = {kind!r}
"""
_CODE = """
from transformers import OPTForCausalLM, OPTModel

from .odd_shape import OddConfig


class OddModel(OPTModel):
    config_class = OddConfig


class OddForCausalLM(OPTForCausalLM):
    config_class = OddConfig

    def __init__(self, config):
        super().__init__(config)
        self.model = OddModel(config)
        self.post_init()
"""
_AUTO_MAP = {
    "AutoConfig": "odd_shape.OddConfig",
    "AutoModel": "odd.OddModel",
    "AutoModelForCausalLM": "odd.OddForCausalLM",
}
_SHAPE = {"vocab_size": 260, "hidden_size": 16, "ffn_dim": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
_SHAPE |= {"word_embed_proj_dim": 16, "max_position_embeddings": 512, "pad_token_id": 0, "eos_token_id": 2}


class Folder:
    """A model of an architecture that only its own code knows; `has_run` tells whether that code was run."""

    def __init__(self, path: Path, kind: str = "odd", auto_map: dict[str, str] = _AUTO_MAP) -> None:
        self.path, self.mark = path, path.parent / f"{path.name} has run"
        torch.manual_seed(0)
        plain = AutoModelForCausalLM.from_config(AutoConfig.for_model("opt", **_SHAPE))
        plain.save_pretrained(path)
        byte_tokenizer().save_pretrained(path)
        (path / "odd_shape.py").write_text(_SHAPE_CODE.format(mark=str(self.mark), kind=kind))
        (path / "odd.py").write_text(_CODE)
        self.change("config.json", model_type=kind, auto_map=auto_map, architectures=["OddForCausalLM"])

    def change(self, name: str, **settings: object) -> None:
        file = self.path / name
        file.write_text(json.dumps((json.loads(file.read_text()) if file.exists() else {}) | settings))

    @property
    def has_run(self) -> bool:
        return self.mark.exists()

    def config(self, trust: bool) -> ModelConfig:
        return ModelConfig(path=str(self.path), trust_remote_code=trust)


@pytest.fixture
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in [name for name in sys.modules if name.startswith("transformers_modules")]:
        monkeypatch.delitem(sys.modules, name)
    return Folder(tmp_path / "odd")


WAYS: dict[str, Callable[[Folder], object]] = {
    "policy": lambda odd: load_causal(odd.config(False), seed=0),
    "reward model": lambda odd: load_scorer(odd.config(False), seed=0),
    "judge": lambda odd: load_judge(str(odd.path)),
    "shape": lambda odd: config_at(odd.config(False)),
    "shape for a plan": lambda odd: config_at(odd.config(False), offline=True),
}


@pytest.mark.parametrize("way", WAYS)
def test_without_the_key_a_model_with_code_is_refused_and_nobody_is_asked(
    way: str, odd: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # what somebody types who wants to be done with it
    with pytest.raises(InputError, match=r"brings Python code of its own.*model\.trust_remote_code=true") as caught:
        WAYS[way](odd)
    assert str(odd.path) in str(caught.value) and not odd.has_run


def test_without_the_key_no_other_file_of_the_folder_runs_code(odd: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    (odd.path / "generation_config.json").unlink()
    assert Ends.of(byte_tokenizer(), "hh", str(odd.path)).ids == (2,)
    assert len(load_tokenizer(odd.config(False))) == 259  # the tokenizer itself needs no code
    odd.change("tokenizer_config.json", tokenizer_class="Odd", auto_map={"AutoTokenizer": ["odd.Odd", None]})
    (odd.path / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"brings Python code of its own.*model\.trust_remote_code=true"):
        load_tokenizer(odd.config(False))
    with pytest.raises(InputError, match="brings Python code of its own"):
        read_tokenizer(str(odd.path))
    # an architecture that transformers has is read by transformers' own code, and generate.py beside it is not read
    for name in ("processor_config.json", "preprocessor_config.json", "generation_config.json", "adapter.json"):
        odd.change(name, auto_map={"AutoProcessor": "odd.OddConfig"}, custom_generate=str(odd.path))
    (odd.path / "custom_generate").mkdir()
    (odd.path / "custom_generate" / "generate.py").write_text((odd.path / "odd_shape.py").read_text())
    odd.change("config.json", model_type="opt")
    assert type(load_causal(odd.config(False), seed=0)).__name__ == "OPTForCausalLM"
    assert not odd.has_run


def test_kernels_and_pickles_are_code_too(odd: Folder, tmp_path: Path) -> None:
    odd.change("config.json", model_type="opt", attn_implementation="somebody/kernel")
    with pytest.raises(InputError, match=r"kernels of a repository \('somebody/kernel' in its config.json\)"):
        load_causal(odd.config(False), seed=0)
    odd.change("config.json", attn_implementation="eager")
    adapters = tmp_path / "adapters"
    get_peft_model(load_causal(odd.config(False), seed=0), LoraConfig(target_modules=["q_proj"])).save_pretrained(
        adapters
    )
    file = adapters / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": str(odd.path)}))
    for folder, name in ((adapters, "adapter_model"), (odd.path, "model")):
        weights = folder / f"{name}.safetensors"
        weights.rename(tmp_path / weights.name)
        pickled = folder / ("adapter_model.bin" if folder == adapters else "pytorch_model.bin")
        torch.save({"a": _Evil(str(odd.mark))}, pickled)
        with pytest.raises(InputError, match="Weights only load failed"):
            load_causal(ModelConfig(path=str(folder)), seed=0)
        pickled.unlink()
        (tmp_path / weights.name).rename(weights)
    assert not odd.has_run


class _Evil:
    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.mark!r}",)


def test_nobody_is_asked_where_transformers_calls_itself(odd: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    for read in (AutoConfig, AutoTokenizer, AutoModelForCausalLM):
        odd.change("tokenizer_config.json", tokenizer_class="Odd", auto_map={"AutoTokenizer": ["odd.Odd", None]})
        with pytest.raises(ValueError, match="trust_remote_code"):
            read.from_pretrained(odd.path)  # without a word on trust
    assert not odd.has_run


def test_with_the_key_the_code_builds_policy_and_reward_model(odd: Folder) -> None:
    policy, scorer = load_causal(odd.config(True), seed=0), load_scorer(odd.config(True), seed=0)
    assert odd.has_run and type(policy).__name__ == "OddForCausalLM" and type(scorer.base_model).__name__ == "OddModel"
    plain = AutoModelForCausalLM.from_config(AutoConfig.for_model("opt", **_SHAPE))
    plain.load_state_dict(policy.state_dict())
    ids = torch.tensor([[5, 6, 7]])
    assert torch.allclose(policy.eval()(ids).logits, plain.eval()(ids).logits, atol=1e-6)


def test_what_is_known_of_an_architecture_is_not_taken_for_known_of_somebodys_code(odd: Folder) -> None:
    named_opt = load_causal(Folder(odd.path.parent / "named_opt", "opt").config(True), seed=0)
    assert type(named_opt).__name__ == "OddForCausalLM"
    assert not can_be_unpadded(named_opt) and not can_be_narrowed(named_opt)


def test_code_that_raises_or_lacks_a_part_is_one_error(odd: Folder) -> None:
    code = (odd.path / "odd.py").read_text()
    (odd.path / "odd.py").write_text(code + "\n1 / 0\n")
    with pytest.raises(InputError, match="its own code raised ZeroDivisionError"):
        load_causal(odd.config(True), seed=0)
    (odd.path / "odd.py").write_text("import not_there_at_all\n" + code)
    with pytest.raises(InputError, match=r"its own code raised ImportError: .*not_there_at_all"):
        load_causal(odd.config(True), seed=0)
    part = Folder(odd.path.parent / "part", "odder", {k: v for k, v in _AUTO_MAP.items() if k != "AutoModel"})
    with pytest.raises(InputError, match="its auto_map has no AutoModel"):
        load_scorer(part.config(True), seed=0)


def test_a_run_trains_saves_the_code_and_follows_its_own_key(
    odd: Folder, tercet: Tercet, take: Take, small: list[str], tmp_path: Path
) -> None:
    run, settings = tmp_path / "trusted", [*small, f"model.path={odd.path}", "sft.max_steps=1", "reward.max_steps=1"]
    with pytest.raises(InputError, match=r"model\.path: .*trust_remote_code=true"):
        take("sft", tmp_path / "run", *settings)
    assert not odd.has_run
    for step in ("sft", "reward"):
        take(step, run, *settings, "model.trust_remote_code=true")
    for saved in (run / "sft" / "model", run / "reward" / "model"):
        for file in ("odd.py", "odd_shape.py"):
            assert (saved / file).read_text() == (odd.path / file).read_text()
        assert json.loads((saved / "config.json").read_text())["auto_map"] == _AUTO_MAP
        for load in (load_causal, load_scorer)[saved.parent.name == "reward" :]:
            assert load(ModelConfig(trust_remote_code=True), seed=0, path=str(saved)) is not None
            with pytest.raises(InputError, match="brings Python code of its own"):
                load(ModelConfig(), seed=0, path=str(saved))
    (run / "config.yaml").write_text((run / "config.yaml").read_text().replace("code: true", "code: false"))
    (run / "run.json").unlink()
    chat = tercet("lm", "chat", str(run), "--stage", "sft")
    assert chat.exit_code == 2 and "trust_remote_code=true" in chat.stderr


@pytest.mark.slow
def test_a_person_at_a_terminal_is_not_asked(odd: Folder, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    os.write(ours, b"y\n" * 20)
    command = [sys.executable, "-c", "from tercet.cli import main; main()", "lm", "sft", "--preset", "tiny"]
    command += [f"model.path={odd.path}", "--out", str(tmp_path / "run")]
    done = subprocess.run(command, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2 and "trust_remote_code=true" in done.stderr and not odd.has_run
