"""Sample with Tercet and with transformers' `generate()` alternately in one process; print the ratio as JSON.

python benchmarks/generation.py --lengths fixed --batch 8
python benchmarks/generation.py --lengths real --batch 32
"""

import statistics

import torch
from ppo_step import config_of
from transformers import GenerationConfig, PreTrainedModel
from work import EOS, Moment, eos_of, make_eos_likely, most_tokens, parser, prompts, report, shape

from tercet.lm.models.roles import load_policy
from tercet.lm.sampling.generate import generate


def theirs(model: PreTrainedModel, asked: list[list[int]], eos_id: int, most: int) -> int:
    """Run `generate()` with plain sampling; return the number of sampled tokens up to EOS."""
    width = max(map(len, asked))
    ids = torch.tensor([[EOS] * (width - len(prompt)) + prompt for prompt in asked])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in asked])
    ends = eos_id if eos_id >= 0 else None
    settings = GenerationConfig(
        max_new_tokens=most, do_sample=True, top_k=0, top_p=1.0, temperature=1.0, eos_token_id=ends, pad_token_id=EOS
    )
    drawn = model.generate(ids, attention_mask=mask, generation_config=settings)[:, width:]
    before_end = (drawn != eos_id).cumprod(1).sum(1) if ends is not None else torch.full((len(asked),), most)
    return int((before_end + 1).clamp(max=drawn.shape[1]).sum())


def main() -> None:
    """Measure both in turn, in tokens per second, because sampled lengths are random."""
    settings = parser(__doc__ or "").parse_args()
    torch.set_num_threads(settings.threads)
    policy = load_policy(config_of(settings, shape(settings)))
    model, eos_id, most = policy.model, eos_of(settings), most_tokens(settings)
    model.generation_config.eos_token_id = None
    if settings.lengths == "real":
        make_eos_likely(model, settings.response)
    rows = []
    for index in range(settings.warmup + settings.iters):
        asked = prompts(settings, index)
        start = Moment.now()
        num_theirs = theirs(model, asked, eos_id, most)
        between = Moment.now()
        chance = torch.Generator().manual_seed(index)
        drawn = generate(model, asked, end_ids=[eos_id], max_tokens=most, temperature=1.0, generator=chance)
        end = Moment.now()
        their_rate = num_theirs / (between.wall - start.wall)
        our_rate = int(drawn.mask.sum()) / (end.wall - between.wall)
        rows.append(
            {
                "ours_s": end.wall - between.wall,
                "theirs_s": between.wall - start.wall,
                "ours_tokens_per_s": our_rate,
                "theirs_tokens_per_s": their_rate,
                "time_ratio": their_rate / our_rate,
                "other_cpus": end.others_since(start),
            }
        )
    ratios = [round(row["time_ratio"], 3) for row in rows[settings.warmup :]]
    report("generation", settings, rows[settings.warmup :], time_ratios=ratios, median_ratio=statistics.median(ratios))


if __name__ == "__main__":
    main()
