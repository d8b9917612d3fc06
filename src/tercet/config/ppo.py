"""The numbers of PPO that a language model and an arm share."""

from pydantic import Field

from tercet.config.section import MOST_ROWS, Section


class UpdateConfig(Section):
    """One PPO update (Schulman et al. 2017): how often, how far and how carefully the rollout is learned from."""

    lr: float = Field(default=1e-5, gt=0, le=100, description="The actor's learning rate, annealed linearly to 0 over the run.")
    critic_lr: float = Field(default=5e-6, gt=0, le=100, description="The critic's learning rate, annealed likewise.")
    epochs: int = Field(default=2, ge=1, le=1000, description="Passes over one rollout.")
    num_minibatches: int = Field(default=2, ge=1, le=MOST_ROWS, description="Optimizer steps in one pass over a rollout.")
    micro_batch_size: int = Field(default=8, ge=1, le=MOST_ROWS, description="Rows in one forward and backward; the rest is accumulated.")
    gamma: float = Field(default=1.0, gt=0, le=1, description="Discount of later rewards.")
    lam: float = Field(default=0.95, ge=0, le=1, description="GAE's lambda: 1 trusts returns, 0 trusts the critic.")
    clip_range: float = Field(default=0.2, gt=0, description="How far the ratio of probabilities may pay off from 1.")
    value_clip_range: float = Field(default=0.2, gt=0, description="How far a value may pay off from the rollout's; 0.2 presupposes rewards of unit scale.")
    entropy_coef: float = Field(default=0.0, ge=0, le=1e6, description="Weight of the entropy bonus.")
    whiten_advantages: bool = Field(default=True, description="Shift and scale advantages to mean 0, variance 1 over the whole batch.")
    max_grad_norm: float = Field(default=1.0, gt=0, description="Longer gradients are shortened to this norm.")
    kl_stop: float = Field(default=0.0, ge=0, description="Leave an update when its mean KL a token from the rollout's policy exceeds this; 0: never.")


class LoopConfig(UpdateConfig):
    """The whole of step 3: rollout and update in turn, measured on the way."""

    num_updates: int = Field(default=100, ge=1, le=MOST_ROWS, description="Rollouts, each followed by an update.")
    critic_warmup_updates: int = Field(default=2, ge=0, le=MOST_ROWS, description="Updates in which the critic alone learns.")
    ema_decay: float = Field(default=0.0, ge=0, lt=1, description="Exponential moving average of the actor, which is then measured and kept; 0: off.")
    max_kl: float = Field(default=15.0, gt=0, description="A checkpoint further than this from the reference, in nats an episode, is never the best.")
    eval_every: int = Field(default=5, ge=1, le=MOST_ROWS, description="Updates between validations, which choose the best checkpoint.")
    checkpoint_every: int = Field(default=5, ge=1, le=MOST_ROWS, description="Updates between checkpoints.")
