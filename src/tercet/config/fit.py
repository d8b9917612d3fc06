"""The numbers of a supervised step that a language model and an arm share."""

from pydantic import Field

from tercet.config.section import MOST_ROWS, Section


class FitConfig(Section):
    """A supervised step."""

    lr: float = Field(default=1e-5, gt=0, le=100, description="Peak learning rate; linear warm-up, then linear to 0.")
    epochs: int = Field(default=1, ge=1, le=10_000, description="Passes over the data.")
    max_steps: int = Field(
        default=0, ge=0, le=MOST_ROWS, description="At most so many optimizer steps; 0: as many as the epochs hold."
    )
    batch_size: int = Field(default=32, ge=1, le=MOST_ROWS, description="Examples an optimizer step learns from.")
    micro_batch_size: int = Field(
        default=8, ge=1, le=MOST_ROWS, description="Examples in one forward and backward; the rest is accumulated."
    )
    weight_decay: float = Field(default=0.0, ge=0, le=100, description="AdamW's weight decay, on matrices alone.")
    warmup_fraction: float = Field(
        default=0.05, ge=0, lt=1, description="Share of the steps in which the learning rate rises."
    )
    max_grad_norm: float = Field(default=1.0, gt=0, description="Longer gradients are shortened to this norm.")
    checkpoint_every: int = Field(default=50, ge=1, le=MOST_ROWS, description="Steps between checkpoints.")
    num_eval: int = Field(default=512, ge=1, le=MOST_ROWS, description="Held-out examples of each set that are measured.")
