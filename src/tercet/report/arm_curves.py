"""The curves of a robot arm's run, in plain words: what each one means and what a healthy one looks like."""

from tercet.report.curves import PPO_GRADIENT_NORMS, Line, Plot

BC = (
    Plot(
        "Cloning loss",
        "squared error of an action",
        "How far the policy's action is from the demonstrated one. It falls towards 0 on so few demonstrations, and "
        "that proves little: success on fresh starts, above, is what counts.",
        [Line("bc/loss", "loss", "sft")],
        bottom=0.0,
    ),
    Plot(
        "Cloning gradient norm",
        "before clipping",
        "How hard each batch pulls. Falling is healthy; growing by orders of magnitude means the learning rate is too "
        "high.",
        [Line("bc/grad_norm", "norm", "sft")],
        bottom=0.0,
    ),
)

REWARD = (
    Plot(
        "Reward-model loss",
        "nats a pair",
        "How surprised the ensemble is by which segment was preferred. A coin flip costs ln 2 = 0.69 (dashed).",
        [Line("reward/loss", "loss", "other")],
        level=0.6931,
    ),
    Plot(
        "Accuracy on training batches",
        "share of pairs",
        "How often the preferred segment was paid more, in each batch before it was learned from. After many passes it "
        "nears 1 on the pairs that were asked about; only held-out pairs say what was understood.",
        [Line("reward/accuracy", "accuracy", "other")],
        level=0.5,
    ),
)

PPO = (
    Plot(
        "Success",
        "share of episodes",
        "Episodes that end in success: those of each rollout, in which the policy explores, and as circles its mean "
        "action on validation starts that it never learns from; the highest circle within `ppo.max_kl` is kept.",
        [Line("ppo/success", "rollout"), Line("ppo/validation_score", "validation", "ink", dots=True)],
        bottom=0.0,
    ),
    Plot(
        "Reward",
        "sum over an episode",
        "What the steps earn by `ppo.reward`, and what is left after the price of leaving the reference. Both should "
        "rise and flatten. After a round of new judgements the reward is another one, and may jump.",
        [Line("ppo/score", "earned"), Line("ppo/reward", "after the price of KL", "sft")],
    ),
    Plot(
        "Actor loss",
        "clipped surrogate, an action",
        "Unlike an ordinary loss this one has no reason to fall: advantages are centred anew at every update, so it "
        "stays close to 0. Healthy is small and without spikes; progress shows in the success.",
        [Line("ppo/actor_loss", "actor loss")],
        level=0.0,
    ),
    Plot(
        "Critic loss",
        "squared error, a step",
        "How far the critic's forecast is off. It falls while the critic warms up, rises while the actor finds new "
        "ways, and should fall in the end.",
        [Line("ppo/critic_loss", "critic loss")],
        bottom=0.0,
    ),
    Plot(
        "KL to the reference",
        "nats an episode",
        "How far the policy has moved from where it started. It grows as long as something is learned; a steep climb "
        "without more success is how a policy that games its reward looks.",
        [Line("ppo/kl", "KL"), Line("ppo/validation_kl", "on validation starts", "ink", dots=True)],
        bottom=0.0,
    ),
    Plot(
        "Entropy",
        "nats an action",
        "How widely the policy explores. A slow fall is the price of getting better. It is that of a density, so it "
        "may be negative.",
        [Line("ppo/entropy", "entropy")],
    ),
    Plot(
        "Clip fraction",
        "share of actions",
        "How many actions hit the clip of the ratio. A few per cent to 25% is healthy; always 0 means steps too small "
        "to matter, far above 0.3 steps too large.",
        [Line("ppo/clip_fraction", "clip fraction")],
        bottom=0.0,
    ),
    Plot(
        "Explained variance",
        "of the returns, by the critic",
        "1 is a perfect forecast, 0 no better than a constant (dashed). It sags towards 0 where all episodes earn the "
        "same, for then there is little to explain.",
        [Line("ppo/explained_variance", "explained variance")],
        level=0.0,
    ),
)

MORE_PPO = (
    Plot(
        "Dense reward",
        "sum over an episode",
        "The environment's own measure of how well it goes. PPO sees it only where `ppo.reward.dense` is set; beside a "
        "learned reward it shows whether that reward means what was meant.",
        [Line("ppo/dense", "dense reward")],
    ),
    Plot(
        "Approximate KL of an update",
        "nats an action",
        "How far each update moved the policy from the one that acted. Around 0.01 is a normal step; `ppo.kl_stop` "
        "ends an update that goes further.",
        [Line("ppo/approx_kl", "approximate KL")],
        bottom=0.0,
    ),
    PPO_GRADIENT_NORMS,
    Plot(
        "Price of KL",
        "kl_coef",
        "What one nat of distance costs; it falls to 0 over `ppo.kl_anneal_updates`.",
        [Line("ppo/kl_coef", "kl_coef")],
        bottom=0.0,
    ),
    Plot("Learning rate", "actor", "Falls to 0 over the run.", [Line("ppo/lr", "lr")], bottom=0.0),
)
