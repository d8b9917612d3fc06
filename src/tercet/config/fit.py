"""The settings of a supervised step, for language models and arms."""

from pydantic import Field

from tercet.config.section import MOST_ROWS, Section


class FitConfig(Section):
    """A supervised step."""

    lr: float = Field(default=1e-5, gt=0, le=100, description="Peak learning rate, with linear warm-up and linear decay to 0.")
    epochs: int = Field(default=1, ge=1, le=10_000, description="Number of epochs.")
    max_steps: int = Field(
        default=0, ge=0, le=MOST_ROWS, description="Maximum number of optimizer steps; 0 runs all epochs."
    )
    batch_size: int = Field(default=32, ge=1, le=MOST_ROWS, description="Examples per optimizer step.")
    micro_batch_size: int = Field(
        default=8, ge=1, le=MOST_ROWS, description="Examples per forward and backward pass; gradients are accumulated up to batch_size."
    )
    weight_decay: float = Field(default=0.0, ge=0, le=100, description="Weight decay of AdamW, applied to matrices only.")
    warmup_fraction: float = Field(
        default=0.05, ge=0, lt=1, description="Fraction of the steps used for learning-rate warm-up."
    )
    max_grad_norm: float = Field(default=1.0, gt=0, description="Gradients are clipped to this norm.")
    checkpoint_every: int = Field(default=50, ge=1, le=MOST_ROWS, description="Steps between checkpoints.")
    num_eval: int = Field(default=512, ge=1, le=MOST_ROWS, description="Maximum number of held-out examples per set for evaluation.")
