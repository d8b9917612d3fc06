"""Curves that language models and the arm have in common."""

from tercet.report.curves.plot import Line, Plot

EQUAL_GROUPS = Plot(
    "Groups of equal scores",
    "share of groups",
    "Groups in which all answers to a prompt, or all episodes from a start, have the same score. Nothing is learned "
    "from them. A share near 1 means that they are too easy or too hard, or that the reward cannot tell them apart.",
    [Line("ppo/equal_groups", "equal groups")],
    bottom=0.0,
)


PPO_GRADIENT_NORMS = Plot(
    "Gradient norms",
    "before clipping",
    "Of the actor, and of the critic if there is one. They should stay steady.",
    [Line("ppo/actor_grad_norm", "actor"), Line("ppo/critic_grad_norm", "critic", "sft")],
    bottom=0.0,
)
