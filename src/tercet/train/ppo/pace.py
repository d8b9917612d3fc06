"""The learning rate of the actor, adapted to how far its optimizer steps move the policy.

How far a step of a given learning rate moves a policy differs from environment to environment and from policy to
policy: with the scale of observations and actions, with the deviation of the exploration, and at the first steps of
Adam, which are of full size whatever the gradient. So the learning rate follows the measured KL (as in rsl_rl,
Rudin et al. 2022, arXiv:2109.11978, section 3.3). Here it starts low, and `ppo.lr` is its upper limit.
"""

from dataclasses import dataclass

FIRST, LEAST = 0.1, 0.01
RATE = 1.5  # of one adaptation


@dataclass
class Pace:
    """The share of `ppo.lr` that the actor now learns with."""

    share: float = FIRST

    def follow(self, kl: float, target: float) -> float:
        """Lower the share if the KL is above twice the target, raise it if below half; return the factor of change."""
        before = self.share
        if kl > 2.0 * target:
            self.share = max(LEAST, before / RATE)
        elif kl < target / 2.0:
            self.share = min(1.0, before * RATE)
        return self.share / before
