"""The settings of PPO and its relatives, for language models and arms."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from tercet.config.section import MOST_ROWS, Section

Algorithm = Literal["ppo", "rloo", "grpo", "dr_grpo", "dapo", "gspo", "reinforce++"]
GROUPS = ("rloo", "grpo", "dr_grpo", "dapo", "gspo")  # compare the answers of a group

# what each algorithm changes of PPO's settings (PPO's own are the defaults of the fields); docs/algorithms.md
_PPO: dict[str, Any] = {  # Any: the values of fields
    "group_size": 1,
    "ratio_of": "token",
    "mean_over": "tokens",
    "clip_range": 0.2,
    "clip_range_high": 0.0,
    "kl_penalty": "reward",
    "whiten_advantages": True,
    "max_redraws": 0,
}
_GROUP = {"group_size": 8, "whiten_advantages": False}
SETTINGS: dict[str, dict[str, Any]] = {
    "ppo": _PPO,
    "rloo": _PPO | _GROUP,
    "grpo": _PPO | _GROUP | {"mean_over": "responses", "kl_penalty": "k3"},
    "dr_grpo": _PPO | _GROUP | {"mean_over": "max_length", "kl_penalty": "none"},
    "dapo": _PPO | _GROUP | {"clip_range_high": 0.28, "kl_penalty": "none", "max_redraws": 4},
    "gspo": _PPO
    | _GROUP
    | {
        "ratio_of": "response_mean",
        "mean_over": "responses",
        "clip_range": 3e-4,
        "clip_range_high": 4e-4,
        "kl_penalty": "none",
    },
    "reinforce++": _PPO,
}


def with_settings(tree: Any) -> Any:  # Any: raw YAML
    """Add the settings of the algorithm that a mapping of keys names; keys that it gives itself are kept."""
    name = tree.get("algorithm") if isinstance(tree, dict) else None
    return SETTINGS.get(name, {}) | tree if isinstance(name, str) else tree


class UpdateConfig(Section):
    """One PPO update (Schulman et al. 2017) on a rollout, or that of a relative."""

    algorithm: Algorithm = Field(default="ppo", description="`ppo` with a critic, or a relative without one: rloo, grpo, dr_grpo, dapo, gspo, reinforce++. It decides how advantages are computed, and sets group_size, ratio_of, mean_over, clip_range, clip_range_high, kl_penalty, whiten_advantages and max_redraws, which can be given after it (docs/algorithms.md).")
    group_size: int = Field(default=1, ge=1, le=MOST_ROWS, description="Responses to one prompt (on an arm, episodes from one start) that are compared with each other; at least 2 for rloo, grpo, dr_grpo, dapo and gspo, which set 8.")
    ratio_of: Literal["token", "response_mean", "response_sum"] = Field(default="token", description="The ratio that is clipped: of each token, or of a response, as exp of the mean or the sum of its log-ratios.")
    mean_over: Literal["tokens", "responses", "max_length"] = Field(default="tokens", description="The actor's loss is a mean over tokens, over the means of responses, or over responses of the longest allowed length.")
    kl_penalty: Literal["reward", "k2", "k3", "k3_weighted", "none"] = Field(default="reward", description="Where kl_coef is applied: to k1 in the reward, or to an estimator in the loss. k2 and k3_weighted have the gradient of the KL, k3 (GRPO) has that of the reverse KL.")
    max_redraws: int = Field(default=0, ge=0, le=1000, description="How often groups whose responses all have the same score are left out and drawn again, with other prompts (DAPO); 0 keeps them.")
    lr: float = Field(default=1e-5, gt=0, le=100, description="Learning rate of the actor, decayed linearly to 0.")
    critic_lr: float = Field(default=5e-6, gt=0, le=100, description="Learning rate of the critic, if there is one, decayed linearly to 0.")
    epochs: int = Field(default=2, ge=1, le=1000, description="Epochs per rollout.")
    num_minibatches: int = Field(default=2, ge=1, le=MOST_ROWS, description="Optimizer steps per epoch.")
    micro_batch_size: int = Field(default=8, ge=1, le=MOST_ROWS, description="Rows per forward and backward pass; gradients are accumulated over a minibatch.")
    gamma: float = Field(default=1.0, gt=0, le=1, description="Discount factor.")
    lam: float = Field(default=0.95, ge=0, le=1, description="Lambda of GAE: 1 uses full returns, 0 relies on the critic.")
    value_lam: float = Field(default=0.0, ge=0, le=1, description="Lambda of the critic's targets, such as 1 (VAPO); 0 uses lam.")
    lam_alpha: float = Field(default=0.0, ge=0, le=1e6, description="If above 0, the actor's lambda of a response is 1 - 1 / (lam_alpha * length) instead of lam, such as 0.05 (VAPO).")
    clip_range: float = Field(default=0.2, gt=0, description="PPO clip range epsilon: the ratio is clipped to [1 - epsilon, 1 + epsilon].")
    clip_range_high: float = Field(default=0.0, ge=0, description="Clip range above 1, if it differs from the one below; 0 uses clip_range.")
    value_clip_range: float = Field(default=0.2, gt=0, description="Values are clipped to this distance from those of the rollout; 0.2 assumes rewards of unit scale.")
    entropy_coef: float = Field(default=0.0, ge=0, le=1e6, description="Coefficient of the entropy bonus.")
    whiten_advantages: bool = Field(default=True, description="Normalise advantages to mean 0 and variance 1 over the whole rollout: those of tokens, or with groups those of responses.")
    max_grad_norm: float = Field(default=1.0, gt=0, description="Gradients are clipped to this norm.")
    kl_stop: float = Field(default=0.0, ge=0, description="End an update early if its mean KL per token from the rollout policy exceeds this; 0 disables it.")
    update_kl: float = Field(default=0.0, ge=0, le=100, description="Mean KL per token (on an arm, per action) from the rollout policy to which the actor's learning rate is adapted within an update: it starts at a tenth of lr, falls when a step finds more than twice this KL and rises when it finds less than half, up to lr. 0 keeps lr.")

    @property
    def has_critic(self) -> bool:
        """True if advantages need a critic."""
        return self.algorithm == "ppo"

    @property
    def compares_groups(self) -> bool:
        """True if advantages compare the responses of a group."""
        return self.algorithm in GROUPS

    @property
    def upper_clip_range(self) -> float:
        """The clip range of ratios above 1."""
        return self.clip_range_high or self.clip_range

    @property
    def is_kl_in_loss(self) -> bool:
        """True if the KL penalty is a term of the actor's loss."""
        return self.kl_penalty not in ("reward", "none")

    @model_validator(mode="before")
    @classmethod
    def _of_the_algorithm(cls, value: Any) -> Any:  # Any: raw YAML, before it is checked
        return with_settings(value)

    @model_validator(mode="after")
    def _kl_is_measured(self) -> Self:
        if self.update_kl and self.epochs == self.num_minibatches == 1:
            raise ValueError(f"update_kl={self.update_kl:g} adapts lr to the KL after the first optimizer step of an update, which epochs=1 and num_minibatches=1 do not have; set update_kl=0, or raise one of them")
        return self

    @model_validator(mode="after")
    def _groups_are_groups(self) -> Self:
        if self.compares_groups and self.group_size == 1:
            raise ValueError(
                f"algorithm={self.algorithm} compares the responses of a group, and one response has nothing to be "
                "compared with; set group_size to at least 2, or algorithm=reinforce++"
            )
        if self.max_redraws and not self.compares_groups:
            raise ValueError(f"max_redraws={self.max_redraws} is for groups, but algorithm={self.algorithm} has none")
        return self


class LoopConfig(UpdateConfig):
    """The loop of step 3: rollouts, updates and validations."""

    num_updates: int = Field(default=100, ge=1, le=MOST_ROWS, description="Number of updates, each on a new rollout.")
    critic_warmup_updates: int = Field(default=2, ge=0, le=MOST_ROWS, description="Initial updates in which only the critic is trained, if there is one.")
    ema_decay: float = Field(default=0.0, ge=0, lt=1, description="Decay of an exponential moving average of the actor, which is then validated and kept; 0 disables it.")
    max_kl: float = Field(default=15.0, gt=0, description="Maximum KL from the reference, in nats per episode, of the checkpoint that is kept.")
    eval_every: int = Field(default=5, ge=1, le=MOST_ROWS, description="Updates between validations, which select the best checkpoint.")
    checkpoint_every: int = Field(default=5, ge=1, le=MOST_ROWS, description="Updates between checkpoints.")
    keep_rollouts: int = Field(default=5, ge=0, le=MOST_ROWS, description="Number of rollouts that are saved for `tercet inspect DIR`, evenly spaced from the first to the last update.")
