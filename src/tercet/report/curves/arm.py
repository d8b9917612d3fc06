"""The curves of an arm's run: the meaning of each and how it looks in a healthy run."""

from tercet.report.curves.both import EQUAL_GROUPS, PPO_GRADIENT_NORMS
from tercet.report.curves.plot import Line, Plot

BC = (
    Plot(
        "Cloning loss",
        "squared error of an action",
        "Squared distance from the demonstrated action. With few demonstrations it falls towards 0, which shows "
        "little. Success on fresh starts, above, is the relevant measure.",
        [Line("bc/loss", "loss", "sft")],
        bottom=0.0,
    ),
    Plot(
        "Cloning gradient norm",
        "before clipping",
        "It should fall. If it grows by orders of magnitude, the learning rate is too high.",
        [Line("bc/grad_norm", "norm", "sft")],
        bottom=0.0,
    ),
)

REWARD = (
    Plot(
        "Reward-model loss",
        "nats per pair",
        "Negative log-likelihood of the preferences. Chance is ln 2 = 0.69 (dashed).",
        [Line("reward/loss", "loss", "other")],
        level=0.6931,
    ),
    Plot(
        "Accuracy on training batches",
        "share of pairs",
        "Share of pairs whose preferred segment has the higher reward, before the step on the batch. After many "
        "epochs it approaches 1 on training pairs. Only held-out pairs show generalisation.",
        [Line("reward/accuracy", "accuracy", "other")],
        level=0.5,
    ),
)

PPO = (
    Plot(
        "Success",
        "share of episodes",
        "Share of episodes that end in success: in rollouts, with exploration, and as circles with the mean action "
        "on validation starts. The highest circle within `ppo.max_kl` is kept.",
        [
            Line("ppo/success", "rollout"),
            Line("ppo/reached", "at some step of a rollout", "sft"),
            Line("ppo/validation_score", "validation", "ink", dots=True),
        ],
        bottom=0.0,
    ),
    Plot(
        "Reward",
        "sum over an episode",
        "Sum of `ppo.reward`, before and after the KL penalty. Both should rise and flatten. After a round of new "
        "judgements the reward changes and may jump.",
        [Line("ppo/score", "earned"), Line("ppo/reward", "after the KL penalty", "sft")],
    ),
    Plot(
        "Actor loss",
        "clipped surrogate, per action",
        "This loss is not expected to fall: advantages have mean 0 in every update or group, so it starts each "
        "update at 0 and stays close to it. It should be small and without spikes. Success shows the progress.",
        [Line("ppo/actor_loss", "actor loss")],
        level=0.0,
    ),
    Plot(
        "Critic loss",
        "squared error, per step",
        "Squared error of the predicted return. It falls while the critic warms up, rises while the actor finds "
        "new behaviour, and should fall in the end.",
        [Line("ppo/critic_loss", "critic loss")],
        bottom=0.0,
    ),
    Plot(
        "KL to the reference",
        "nats per episode",
        "Distance of the policy from its initial state. It grows while the policy learns. A steep rise without "
        "more success is a sign of reward hacking.",
        [Line("ppo/kl", "KL"), Line("ppo/validation_kl", "on validation starts", "ink", dots=True)],
        bottom=0.0,
    ),
    Plot(
        "Entropy",
        "nats per action",
        "Amount of exploration. A slow fall is normal. It is the entropy of a density, so it can be negative.",
        [Line("ppo/entropy", "entropy")],
    ),
    Plot(
        "Clip fraction",
        "share of actions",
        "Share of actions, or of the steps of a denoising chain, whose ratio is clipped. A few per cent to 25% is "
        "normal. Always 0 means that steps are too small, far above 0.3 that they are too large.",
        [Line("ppo/clip_fraction", "clip fraction")],
        bottom=0.0,
    ),
    EQUAL_GROUPS,
    Plot(
        "Explained variance",
        "of the returns, by the critic",
        "1 is a perfect prediction, 0 is no better than a constant (dashed). It falls towards 0 when all episodes "
        "have the same return, because there is little variance to explain.",
        [Line("ppo/explained_variance", "explained variance")],
        level=0.0,
    ),
)

RETURN = Plot(  # in place of the success
    "Return",
    "sum over an episode",
    "Sum of the environment's own reward over an episode: in rollouts, with exploration, and as circles with the mean "
    "action on validation starts. The highest circle within `ppo.max_kl` is kept.",
    [Line("ppo/episode_return", "rollout"), Line("ppo/validation_score", "validation", "ink", dots=True)],
)

MORE_PPO = (
    Plot(
        "Does the reward prefer success?",
        "share of pairs",
        "Of an episode of the rollout that succeeds and one that fails, how often the successful one has the higher "
        "`ppo/score`, and how often the higher mean `progress`, which the default judge compares. 0.5 (dashed) is "
        "chance: PPO then cannot learn success from this reward, nor the reward model from this judge. Rollouts in "
        "which all episodes succeed, or none, have no point.",
        [
            Line("ppo/score_ranks_success", "by the reward"),
            Line("ppo/progress_ranks_success", "by `progress`", "sft"),
        ],
        level=0.5,
        bottom=0.0,
    ),
    Plot(
        "Dense reward",
        "sum over an episode",
        "The environment's own reward. PPO uses it only with `ppo.reward.dense`. Compare it with a learned reward "
        "to see whether that reward measures the task.",
        [Line("ppo/dense", "dense reward")],
    ),
    Plot(
        "Approximate KL of an update",
        "nats per action",
        "KL of each update from the policy that acted. Around 0.01 is normal. `ppo.kl_stop` ends an update that "
        "goes further.",
        [Line("ppo/approx_kl", "approximate KL")],
        bottom=0.0,
    ),
    PPO_GRADIENT_NORMS,
    Plot(
        "Reward scale",
        "divides the rewards",
        "Standard deviation of the discounted sums of rewards over all rollouts so far (`ppo.scale_rewards`). It "
        "should settle as the policy does.",
        [Line("ppo/reward_scale", "scale")],
        bottom=0.0,
    ),
    Plot(
        "KL coefficient",
        "kl_coef",
        "Coefficient of the KL penalty; it decays to 0 over `ppo.kl_anneal_updates`.",
        [Line("ppo/kl_coef", "kl_coef")],
        bottom=0.0,
    ),
    Plot("Learning rate", "actor", "It decays to 0 over the run.", [Line("ppo/lr", "lr")], bottom=0.0),
)
