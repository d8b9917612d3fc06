"""The curves of a language run: the meaning of each and how it looks in a healthy run."""

from tercet.report.curves.both import EQUAL_GROUPS, PPO_GRADIENT_NORMS
from tercet.report.curves.plot import Line, Plot

SFT = (
    Plot(
        "SFT loss",
        "nats per token",
        "Negative log-likelihood of the human answers. It should fall fast, then flatten. The held-out perplexity "
        "above shows whether the model generalises.",
        [Line("sft/loss", "loss", "sft")],
    ),
    Plot(
        "SFT gradient norm",
        "before clipping",
        "It should stay steady. If it grows by orders of magnitude, the learning rate is too high.",
        [Line("sft/grad_norm", "norm", "sft")],
        bottom=0.0,
    ),
)


REWARD = (
    Plot(
        "Reward-model loss",
        "nats per pair",
        "Negative log-likelihood of the preferences. Chance is ln 2 = 0.69 (dashed). A value near 0 within one "
        "epoch means that the pairs are easy or memorised.",
        [Line("reward/loss", "loss", "other")],
        level=0.6931,
    ),
    Plot(
        "Accuracy on training batches",
        "share of pairs",
        "Share of pairs whose preferred answer scores higher, before the step on the batch. One half is chance "
        "(dashed). On human preference data, 0.6 to 0.75 is usual, because people do not agree much more often.",
        [Line("reward/accuracy", "accuracy", "other")],
        level=0.5,
    ),
    Plot(
        "Margin",
        "score difference",
        "Mean score of the preferred answer minus that of the other. It should grow, then settle. If it keeps "
        "growing while the accuracy does not, the model is overconfident.",
        [Line("reward/margin", "margin", "other")],
        level=0.0,
    ),
)


DPO = (
    Plot(
        "DPO loss",
        "nats per pair",
        "Negative log-likelihood of the preferences, with beta times the policy's log-ratio to the SFT policy as the "
        "score. It starts at ln 2 = 0.69 (dashed), because both policies are then the same.",
        [Line("dpo/loss", "loss", "other")],
        level=0.6931,
    ),
    Plot(
        "Accuracy on training batches",
        "share of pairs",
        "Share of pairs whose preferred answer has become more likely than the other, relative to the SFT policy. It "
        "starts at one half (dashed).",
        [Line("dpo/accuracy", "accuracy", "other")],
        level=0.5,
    ),
    Plot(
        "Implicit rewards",
        "beta times the log-ratio",
        "Of the preferred and of the other answers. Their difference, the margin, should grow. If both fall far, the "
        "policy gives up answers of either kind for others that no pair has.",
        [
            Line("dpo/margin", "margin", "other"),
            Line("dpo/reward_chosen", "preferred", "sft"),
            Line("dpo/reward_rejected", "other", "muted"),
        ],
        level=0.0,
    ),
    Plot(
        "KL to the reference",
        "nats per answer",
        "Distance of the policy from the SFT model, on answers that it samples to validation prompts. Nothing bounds "
        "it but beta and the number of steps.",
        [Line("dpo/validation_kl", "KL", "other")],
        bottom=0.0,
    ),
    Plot(
        "Gradient norm",
        "before clipping",
        "It should stay steady. If it grows by orders of magnitude, the learning rate is too high.",
        [Line("dpo/grad_norm", "norm", "other")],
        bottom=0.0,
    ),
)


PPO = (
    Plot(
        "Reward",
        "mean score of an answer",
        "The score of the answers, and the reward after the penalty for unfinished answers and the KL penalty in the "
        "reward. Both should rise and flatten. Circles are scores on validation prompts, on which PPO is not trained; "
        "they should rise too.",
        [
            Line("ppo/score", "score"),
            Line("ppo/reward", "reward, after penalties", "sft"),
            Line("ppo/validation_score", "validation", "ink", dots=True),
        ],
    ),
    Plot(
        "Clipped scores",
        "share of answers",
        "All answers with a score beyond ±`ppo.reward_clip` get the same reward. The share should be near 0. Near "
        "1, the reward no longer distinguishes answers.",
        [Line("ppo/reward_clip_fraction", "clipped")],
        bottom=0.0,
    ),
    Plot(
        "Actor loss",
        "clipped surrogate, per token",
        "This loss is not expected to fall: advantages have mean 0 in every update or group, so it starts each "
        "update at 0 and stays close to it. It should be small and without spikes. The reward shows the progress.",
        [Line("ppo/actor_loss", "actor loss")],
        level=0.0,
    ),
    Plot(
        "Critic loss",
        "squared error, per token",
        "Squared error of the predicted return. It should fall and stay low. It may rise for a while when the "
        "actor finds new kinds of answers.",
        [Line("ppo/critic_loss", "critic loss")],
        bottom=0.0,
    ),
    Plot(
        "KL to the reference",
        "nats per answer",
        "Distance of the policy from the SFT model. It starts at 0 and should level off. A steep rise late in the "
        "run is a sign of reward hacking.",
        [Line("ppo/kl", "KL"), Line("ppo/validation_kl", "on validation prompts", "ink", dots=True)],
        bottom=0.0,
    ),
    Plot(
        "Entropy",
        "nats per token",
        "Mean entropy of the policy per token. A slow fall is normal. A drop to near 0 means that the policy gives "
        "the same answer to every prompt.",
        [Line("ppo/entropy", "entropy")],
    ),
    Plot(
        "Clip fraction",
        "share of tokens",
        "Share of tokens whose ratio is clipped. A few per cent to 20% is normal. Always 0 means that steps are "
        "too small, far above 0.3 that they are too large.",
        [Line("ppo/clip_fraction", "clip fraction")],
        bottom=0.0,
    ),
    EQUAL_GROUPS,
    Plot(
        "Explained variance",
        "of the returns, by the critic",
        "1 is a perfect prediction, 0 is no better than a constant (dashed). It should rise above 0 and stay "
        "there. Noise at the beginning is normal.",
        [Line("ppo/explained_variance", "explained variance")],
        level=0.0,
    ),
    Plot(
        "Answer length",
        "tokens",
        "A reward model that favours length teaches the policy to write long answers. If length and reward rise "
        "together, check the reward for length bias.",
        [Line("ppo/response_length", "length")],
    ),
    Plot(
        "Finished answers",
        "share that ended with EOS",
        "The other answers reached the length limit and got the penalty for it. The share should stay high or rise.",
        [Line("ppo/eos_fraction", "finished")],
        bottom=0.0,
    ),
)


MORE_PPO = (
    Plot(
        "Approximate KL of an update",
        "nats per token",
        "KL of each update from the policy that sampled the answers. Around 0.01 is normal; above 0.1 is too large.",
        [Line("ppo/approx_kl", "approximate KL")],
        bottom=0.0,
    ),
    PPO_GRADIENT_NORMS,
    Plot(
        "Mismatch of the sampler",
        "nats per token",
        "Mean difference between the log-probabilities of the engine that sampled the answers and those of the policy. "
        "About 1e-4 in fp32 and 0.01 in bf16 is rounding.",
        [Line("ppo/sampler_mismatch", "mismatch")],
        bottom=0.0,
    ),
    Plot(
        "KL term of the loss",
        "nats per token",
        "The estimate of the KL from the reference that is added to the loss, without its coefficient.",
        [Line("ppo/kl_loss", "KL term")],
        bottom=0.0,
    ),
    Plot(
        "KL coefficient",
        "kl_coef",
        "Coefficient of the KL penalty. It is constant, or with `ppo.kl_target` adapted until the KL reaches the "
        "target.",
        [Line("ppo/kl_coef", "kl_coef")],
    ),
    Plot("Learning rate", "actor", "It decays to 0 over the run.", [Line("ppo/lr", "lr")]),
)
