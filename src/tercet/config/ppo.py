"""The settings of PPO, for language models and arms."""

from pydantic import Field

from tercet.config.section import MOST_ROWS, Section


class UpdateConfig(Section):
    """One PPO update (Schulman et al. 2017) on a rollout."""

    lr: float = Field(default=1e-5, gt=0, le=100, description="Learning rate of the actor, decayed linearly to 0.")
    critic_lr: float = Field(default=5e-6, gt=0, le=100, description="Learning rate of the critic, decayed linearly to 0.")
    epochs: int = Field(default=2, ge=1, le=1000, description="Epochs per rollout.")
    num_minibatches: int = Field(default=2, ge=1, le=MOST_ROWS, description="Optimizer steps per epoch.")
    micro_batch_size: int = Field(default=8, ge=1, le=MOST_ROWS, description="Rows per forward and backward pass; gradients are accumulated over a minibatch.")
    gamma: float = Field(default=1.0, gt=0, le=1, description="Discount factor.")
    lam: float = Field(default=0.95, ge=0, le=1, description="Lambda of GAE: 1 uses full returns, 0 relies on the critic.")
    clip_range: float = Field(default=0.2, gt=0, description="PPO clip range epsilon: the ratio is clipped to [1 - epsilon, 1 + epsilon].")
    value_clip_range: float = Field(default=0.2, gt=0, description="Values are clipped to this distance from those of the rollout; 0.2 assumes rewards of unit scale.")
    entropy_coef: float = Field(default=0.0, ge=0, le=1e6, description="Coefficient of the entropy bonus.")
    whiten_advantages: bool = Field(default=True, description="Normalise advantages to mean 0 and variance 1 over the whole rollout.")
    max_grad_norm: float = Field(default=1.0, gt=0, description="Gradients are clipped to this norm.")
    kl_stop: float = Field(default=0.0, ge=0, description="End an update early if its mean KL per token from the rollout policy exceeds this; 0 disables it.")


class LoopConfig(UpdateConfig):
    """The loop of step 3: rollouts, updates and validations."""

    num_updates: int = Field(default=100, ge=1, le=MOST_ROWS, description="Number of updates, each on a new rollout.")
    critic_warmup_updates: int = Field(default=2, ge=0, le=MOST_ROWS, description="Initial updates in which only the critic is trained.")
    ema_decay: float = Field(default=0.0, ge=0, lt=1, description="Decay of an exponential moving average of the actor, which is then validated and kept; 0 disables it.")
    max_kl: float = Field(default=15.0, gt=0, description="Maximum KL from the reference, in nats per episode, of the checkpoint that is kept.")
    eval_every: int = Field(default=5, ge=1, le=MOST_ROWS, description="Updates between validations, which select the best checkpoint.")
    checkpoint_every: int = Field(default=5, ge=1, le=MOST_ROWS, description="Updates between checkpoints.")
