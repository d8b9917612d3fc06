"""What PPO trains: actor and critic with their optimizers."""

from dataclasses import dataclass, field, replace

from torch import nn
from torch.optim import Optimizer

from tercet.config.ppo import UpdateConfig
from tercet.train.loss_scale import LossScale
from tercet.train.optim import adamw
from tercet.train.ppo.pace import Pace
from tercet.types import ActorCritic


@dataclass(frozen=True)
class Learner:
    """The actor and, if the algorithm has one, the critic, with their optimizers, and in fp16 their loss scales."""

    actor_critic: ActorCritic
    actor: nn.Module
    critic: nn.Module | None
    actor_optimizer: Optimizer
    critic_optimizer: Optimizer | None
    scales: dict[str, LossScale] = field(
        default_factory=dict
    )  # by the names of `modules`; empty: losses are not scaled
    pace: Pace | None = None  # None: the actor's learning rate is that of the schedule

    @classmethod
    def of(
        cls,
        actor_critic: ActorCritic,
        actor: nn.Module,
        critic: nn.Module | None,
        config: UpdateConfig,
        *,
        scales_losses: bool = False,
        eight_bit: bool = False,
    ) -> "Learner":
        """Create a learner with new optimizers, whose moments may be in 8 bits."""
        critic_optimizer = adamw(critic, lr=config.critic_lr, eight_bit=eight_bit) if critic else None
        actor_optimizer = adamw(actor, lr=config.lr, eight_bit=eight_bit)
        pace = Pace() if config.update_kl else None
        learner = cls(actor_critic, actor, critic, actor_optimizer, critic_optimizer, pace=pace)
        return replace(learner, scales={name: LossScale() for name in learner.modules}) if scales_losses else learner

    @property
    def modules(self) -> dict[str, nn.Module]:
        """The networks by their names in a checkpoint."""
        return {"actor": self.actor} | ({"critic": self.critic} if self.critic else {})

    @property
    def optimizers(self) -> dict[str, Optimizer]:
        """The optimizers by the same names."""
        return {"actor": self.actor_optimizer} | ({"critic": self.critic_optimizer} if self.critic_optimizer else {})
