"""Each formula of core/ is broken in turn, and the tests of its file must notice.

One process imports torch and forks once a break: a child sees a copy of the sources in which one piece of text is
replaced, and runs the tests of that file until the first fails.
"""

import gc
import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import Phase, given, is_hypothesis_test, settings
from hypothesis import strategies as st

HERE = Path(__file__).parent
SOURCES = HERE.parents[1] / "src"

BREAKS: dict[str, list[tuple[str, str]]] = {
    "masked": [
        ("full_precision(x).masked_fill(~mask, 0.0)", "full_precision(x) * mask"),
        ("full_precision(x).masked_fill(~mask, 0.0)", "full_precision(x).masked_fill(mask, 0.0)"),
        ("mask.sum() if count is None else count", "mask.sum()"),
        ("mask.sum() if count is None else count", "mask.numel() if count is None else count"),
        ("(zero_padding(x, mask) - masked_mean(x, mask)).square()", "zero_padding(x, mask).square()"),
        ("(zero_padding(x, mask) - masked_mean(x, mask)).square()", "(x - masked_mean(x, mask)).square()"),
        (".square(), mask)", ".square(), mask, count=mask.sum() - 1)"),
        (".rsqrt()", ".reciprocal()"),
        ("mask.flip(1).cumsum(1).flip(1)", "mask.cumsum(1)"),
        ("mask & (mask.flip(1)", "(mask.flip(1)"),
        ("(zero_padding(x, mask) - mean) *", "zero_padding(x, mask) *"),
        ("whitened if center else whitened + mean", "whitened + mean if center else whitened"),
        ("zero_padding(whitened if center else whitened + mean, mask)", "whitened if center else whitened + mean"),
        ("EPSILON = 1e-8", "EPSILON = 1e-1"),
        ("sum(dtype=torch.float64)", "sum(dtype=torch.float32)"),
    ],
    "precision": [
        ("torch.promote_types(x.dtype, torch.float32)", "x.dtype"),
        ("torch.promote_types(x.dtype, torch.float32)", "torch.float32"),
        ('frozenset({"mps"})', "frozenset()"),
        ("x.cpu() if x.device.type in WITHOUT_FP64 else x", "x.cpu().clone()"),
    ],
    "advantages": [
        ("mask & ~terminated)", "mask)"),
        ("mask & ~terminated)", "mask & ~(terminated | truncated))"),
        ("discounts.to(values.dtype) * next_values", "next_values"),
        ("- values\n", "+ values\n"),
        ("rewards + discounts", "discounts"),
        ("goes_on = ~(terminated | truncated)", "goes_on = ~terminated"),
        ("goes_on = ~(terminated | truncated)", "goes_on = ~truncated"),
        ("(discounts * lam)", "torch.full_like(discounts, lam)"),
        ("(discounts * lam)", "discounts"),
        ("(discounts * lam).to(values.dtype)", "discounts.to(values.dtype) * lam"),
        ("decays[:, t]", "decays[:, 0]"),
        ("zero_padding(following, goes_on[:, t])", "following"),
        ("zero_padding(rewards, mask), zero_padding(values, mask)", "rewards, zero_padding(values, mask)"),
        ("zero_padding(discounts, mask)", "discounts"),
        ("zero_padding(rewards, mask), zero_padding(values, mask)", "zero_padding(rewards, mask), values"),
        ("returns=advantages + values", "returns=advantages"),
        ("returns=advantages + values", "returns=advantages + rewards"),
        ("mask, lam=1.0).returns", "mask, lam=0.5).returns"),
        ("1.0 / (alpha * lengths)", "alpha / lengths"),
        ("1.0 / (alpha * lengths)", "1.0 / (alpha * mask.shape[1])"),
        (".clamp(min=0.0)", ""),
    ],
    "groups": [
        ("groups - groups.mean(1, keepdim=True)", "groups - groups.mean()"),
        ("groups - groups.mean(1, keepdim=True)", "groups"),
        (".masked_fill(is_equal(returns, group_size=group_size)[:, None], 0.0)", ""),
        ("group_size / (group_size - 1)", "(group_size - 1) / group_size"),
        ("group_size / (group_size - 1)", "1.0"),
        ("std(1, keepdim=True)", "std(1, keepdim=True, correction=0)"),
        ("std(1, keepdim=True)", "std()"),
        ("std(1, keepdim=True)", "var(1, keepdim=True)"),
        ("+ GROUP_EPSILON", ""),
        ("GROUP_EPSILON = 1e-4", "GROUP_EPSILON = 1e-8"),
        ("SAME = 1e-5", "SAME = 1e-9"),
        ("SAME = 1e-5", "SAME = 1e-1"),
        ("<= SAME", "< SAME"),
        ("SAME * groups.abs().amax(1)", "SAME * groups.amax(1)"),
        ("group_size < 2 or len(returns) % group_size", "len(returns) % group_size"),
        ("group_size < 2 or len(returns) % group_size", "group_size < 2"),
        ("full_precision(returns).detach()", "full_precision(returns)"),
        ("full_precision(returns).detach()", "returns.detach()"),
        (".view(-1, group_size)", ".view(group_size, -1).T"),
    ],
    "averages": [
        ("mask.float()", "torch.ones_like(mask, dtype=torch.float32)"),
        ("ones / ones.sum(1, keepdim=True).clamp(min=1.0)", "ones / ones.sum(1, keepdim=True)"),
        ("ones / ones.sum(1, keepdim=True).clamp(min=1.0)", "ones / mask.shape[1]"),
        ("return Weights(ones, ones)", "return Weights(ones, ones / ones.sum())"),
        ("ones / max_length, shares)", "ones / max_length, ones)"),
        ("ones / max_length, shares)", "ones, shares)"),
        ("ones / max_length, shares)", "ones / mask.shape[1], shares)"),
        ('shares if mean_over == "responses"', 'ones if mean_over == "responses"'),
    ],
    "importance": [
        ("k1(logprobs, sampler_logprobs)", "k1(sampler_logprobs, logprobs)"),
        ("k1(logprobs, sampler_logprobs)", "(logprobs - sampler_logprobs)"),
        (".masked_fill(~mask, 0.0)", ""),
        (".clamp(max=math.log(cap))", ""),
        (".clamp(max=math.log(cap))", ".clamp(max=cap)"),
        (".exp()", ""),
    ],
    "losses": [
        ("-torch.minimum(ratio * advantages", "-torch.maximum(ratio * advantages"),
        ("-torch.minimum(ratio * advantages", "torch.minimum(ratio * advantages"),
        ("torch.minimum(ratio * advantages, clipped * advantages)", "ratio * advantages"),
        ("torch.minimum(ratio * advantages, clipped * advantages)", "clipped * advantages"),
        ("1.0 - clip_range, 1.0 + high", "0.0, 1.0 + high"),
        ("1.0 - clip_range, 1.0 + high", "1.0 - clip_range, 100.0"),
        ("1.0 - clip_range, 1.0 + high", "1.0 - high, 1.0 + high"),
        ("1.0 - clip_range, 1.0 + high", "1.0 - clip_range, 1.0 + clip_range"),
        (
            "ratio_of_probabilities(logprobs, old_logprobs, mask, ratio_of)\n",
            "ratio_of_probabilities(logprobs, old_logprobs, mask)\n",
        ),
        ("old_logprobs, mask, ratio_of) - 1.0", "old_logprobs, mask) - 1.0"),
        ("mask.sum(1, keepdim=True).clamp(min=1) if", "mask.shape[1] if"),
        ('if ratio_of == "response_mean" else 1', 'if ratio_of == "response_mean" else 2'),
        ('if ratio_of == "response_mean" else 1', 'if ratio_of == "response_sum" else 1'),
        ("log_ratio.sum(1, keepdim=True) / num", "log_ratio.sum() / num"),
        ("return k2(logprobs, ref_logprobs)", "return k3(logprobs, ref_logprobs)"),
        ("return weight * k3(logprobs, ref_logprobs)", "return weight * k2(logprobs, ref_logprobs)"),
        ("return weight * k3(logprobs, ref_logprobs)", "return weight * k3(ref_logprobs, logprobs)"),
        ("return weight * k3(logprobs, ref_logprobs)", "return k3(logprobs, ref_logprobs)"),
        ('if estimator == "k3_weighted" else 1.0', 'if estimator == "k3" else 1.0'),
        ("mask) if estimator ==", "mask).detach() if estimator =="),
        ("zero_padding(logprobs, mask), zero_padding(ref_logprobs, mask)", "logprobs, ref_logprobs"),
        ("advantages = zero_padding(advantages, mask)\n", "pass\n"),
        ("k1(logprobs, old_logprobs).masked_fill(~mask, 0.0)", "k1(logprobs, old_logprobs)"),
        ("k1(logprobs, old_logprobs).masked_fill", "k1(old_logprobs, logprobs).masked_fill"),
        ("k1(logprobs, old_logprobs).masked_fill", "(logprobs - old_logprobs).masked_fill"),
        ("log_ratio.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)", "log_ratio"),
        ("values.clamp(old_values - clip_range, old_values + clip_range)", "values.clamp(-clip_range, clip_range)"),
        ("values.clamp(old_values - clip_range,", "values.clamp(old_values - 100.0,"),
        ("old_values + clip_range)", "old_values + 100.0)"),
        ("0.5 * torch.maximum", "torch.maximum"),
        ("0.5 * torch.maximum", "0.5 * torch.minimum"),
        ("(values - returns).square(), (clipped", "(clipped - returns).square(), (clipped"),
        ("zero_padding(old_values, mask)", "old_values"),
        ("zero_padding(returns, mask)", "returns"),
        ("full_precision(chosen) - full_precision(rejected)", "full_precision(rejected) - full_precision(chosen)"),
        (
            "- F.logsigmoid(margin)",
            "- F.sigmoid(margin).log()",
        ),
        ("(1.0 - preference) * margin", "0.0"),
        ("(1.0 - preference) * margin", "preference * margin"),
        (
            "zero_padding(chosen, mask) - zero_padding(rejected, mask)",
            "zero_padding(rejected, mask) - zero_padding(chosen, mask)",
        ),
        ("zero_padding(chosen, mask) - zero_padding(rejected, mask)", "chosen - rejected"),
        ("zero_padding(losses, mask).sum(1)", "losses.sum(1)"),
        ("mask.sum(1).clamp(min=1)", "mask.shape[1]"),
        ("mask.sum(1).clamp(min=1)", "mask.sum(1)"),
        ("(change > high) | (change < -clip_range)", "(change > high)"),
        ("(change > high) | (change < -clip_range)", "change.abs() > clip_range"),
        ("masked_mean(outside, mask, count=count)", "outside.mean()"),
        ("masked_mean(outside, mask, count=count)", "masked_mean(outside, mask)"),
        ("k3(old_logprobs, logprobs), mask, count=count", "k3(logprobs, old_logprobs), mask, count=count"),
        ("k3(old_logprobs, logprobs), mask, count=count", "k3(old_logprobs, logprobs), mask"),
        ("logprobs.detach(), old_logprobs.detach()", "logprobs, old_logprobs"),
    ],
    "chain": [
        ("min(FIRST_CLIP_RANGE, clip_range)", "FIRST_CLIP_RANGE"),
        ("FIRST_CLIP_RANGE = 0.01", "FIRST_CLIP_RANGE = 0.02"),
        ("CLIP_GROWTH = 3.0", "CLIP_GROWTH = 1.0"),
        ("torch.linspace(0.0, 1.0, num_steps)", "torch.linspace(1.0, 0.0, num_steps)"),
        ("else torch.ones(1)", "else torch.zeros(1)"),
        ("DISCOUNT = 0.99", "DISCOUNT = 0.9"),
        ("torch.arange(num_steps - 1, -1, -1.0)", "torch.arange(0.0, num_steps)"),
        (
            "advantages[..., None] * discounts(num_steps).to(advantages)",
            "advantages[..., None].expand_as(inner_logprobs)",
        ),
        (
            "clip_range_high=clip_ranges(num_steps, clip_range=clip_range_high)",
            "clip_range_high=clip_ranges(num_steps, clip_range=clip_range)",
        ),
        ("clip_range=clip_ranges(num_steps, clip_range=clip_range).to(advantages)", "clip_range=clip_range"),
        ("losses.sum(-1)", "losses.mean(-1)"),
        ("outside.float().mean(-1)", "outside.float().sum(-1)"),
        ("mask, count=count)", "mask)"),
        ("is_outside(ratio - 1.0, low, high)", "is_outside(ratio, low, high)"),
        ("is_outside(ratio - 1.0, low, high)", "is_outside(ratio - 1.0, low, low)"),
        ("mask.reshape(-1, 1)", "torch.ones_like(mask).reshape(-1, 1)"),
    ],
    "dpo": [
        ("beta * k1(logprobs, ref_logprobs)", "k1(logprobs, ref_logprobs)"),
        ("beta * k1(logprobs, ref_logprobs)", "beta * k1(ref_logprobs, logprobs)"),
        ("beta * k1(logprobs, ref_logprobs)", "beta * (logprobs - ref_logprobs)"),
        ("beta * k1(logprobs, ref_logprobs)", "beta * logprobs"),
        (".masked_fill(~mask, 0.0)", ""),
        (".masked_fill(~mask, 0.0)", " * mask"),
        (".sum(1)", ".mean(1)"),
        (".sum(1)", ".sum(1) / mask.sum(1)"),
        (".sum(1)", ".amax(1)"),
    ],
    "kl": [
        ("math.log(n) - (n - 1) / n", "math.log(n)"),
        ("math.log(n) - (n - 1) / n", "math.log(n) - 1"),
        ("math.log(n) - (n - 1) / n", "math.log2(n) - (n - 1) / n"),
        ("full_precision(logprobs) - full_precision(ref_logprobs)", "(ref_logprobs - logprobs).float()"),
        ("full_precision(logprobs) - full_precision(ref_logprobs)", "(logprobs - ref_logprobs).to(torch.float32)"),
        ("0.5 * k1(logprobs, ref_logprobs).square()", "k1(logprobs, ref_logprobs).square()"),
        ("torch.expm1(-d) + d", "torch.expm1(d) - d"),
        ("torch.expm1(-d) + d", "torch.exp(-d) - 1.0 + d"),
        (".clamp(min=-LOG_RATIO_LIMIT)", ""),
        ("(-kl_coef * k1", "(kl_coef * k1"),
        ("-kl_coef * k1(logprobs, ref_logprobs)", "-kl_coef * k3(logprobs, ref_logprobs)"),
        ("(-kl_coef * k1", "(-k1"),
        (".masked_fill(~mask, 0.0)\n", "\n"),
        ("= kl_penalties(logprobs, ref_logprobs, mask, kl_coef=kl_coef)", "= torch.zeros_like(logprobs)"),
        ("[:, None].where(is_last(mask), 0.0)", "[:, None] * is_last(mask)"),
        ("[:, None].where(is_last(mask), 0.0)", "[:, None].where(mask, 0.0)"),
        ("ADAPTATION_LIMIT = 0.2", "ADAPTATION_LIMIT = 0.3"),
        ("kl / target - 1.0", "kl / target"),
        ("kl / target - 1.0", "1.0 - kl / target"),
        ("error * num_samples / horizon", "error / horizon"),
        ("if ADAPTATION_LIMIT * num_samples >= horizon:", "if False:"),
    ],
    "categorical": [
        ("descending=True", "descending=False"),
        ("probs.cumsum(-1) - probs", "probs.cumsum(-1)"),
        ("before >= top_p[:, None]", "before > 1.0"),
        ("outside[:, 0] = False", ""),
        ("outside.scatter(-1, ordered.indices, outside)", "outside"),
        ("(full - highest).div_(temperature)", "(full - highest)"),
        ("if check and not torch.isfinite(total).all():", "if False:"),
        (".clamp(max=1.0 - 2.0**-53)", ""),
        ("_first(ends > thresholds[:, None])", "_first(ends >= thresholds[:, None])"),
        ("(ends - masses)[rows, block, None]", "ends[rows, block, None]"),
        ("block * _BLOCK + offset", "offset"),
        ("(full[rows, actions] - highest[:, 0]) / temperature", "full[rows, actions] - highest[:, 0]"),
        (" - total.log().to(full.dtype)", ""),
        ("highest - scaled.logsumexp(-1)", "highest"),
        ("if check and not torch.isfinite(logprobs).all():", "if False:"),
        ("torch.log_softmax(full_precision(some), -1)", "torch.log_softmax(some, -1)"),
        ("torch.log_softmax(full_precision(some), -1)", "full_precision(some)"),
        (".masked_fill(p == 0, 0.0)", ""),
        ("(p * (log_p - log_q)", "(log_q.exp() * (log_p - log_q)"),
        ("(p * (log_p - log_q)", "(p * (log_q - log_p)"),
        ("p == 0, 0.0)).sum(-1)", "p == 0, 0.0)).mean(-1)"),
        ("true.to(torch.uint8).argmax(-1)", "true.to(torch.uint8).sum(-1) - 1"),
        ("full_precision(logits) / temperature, -1)", "logits / temperature, -1)"),
        ("full_precision(logits) / temperature, -1)", "full_precision(logits), -1)"),
        ("torch.special.entr(log_probs.exp()).sum(-1)", "-(log_probs.exp() * log_probs).sum(-1)"),
        ("torch.special.entr(log_probs.exp()).sum(-1)", "torch.special.entr(log_probs.exp()).mean(-1)"),
        ("return ActionStatistics(log_probs.gather", "return ActionStatistics(log_probs.exp().gather"),
    ],
    "fused_categorical": [
        ("full if temperature == 1.0 else full / temperature", "full"),
        ("full if temperature == 1.0 else full / temperature", "full if temperature == 1.0 else full * temperature"),
        ("full if temperature == 1.0 else full / temperature", "full if temperature < 1.0 else full / temperature"),
        ("    full = full_precision(logits)\n    return", "    full = logits\n    return"),
        ("scaled.amax(-1, keepdim=True)", "scaled[:, :1]"),
        ("relative.gather(-1, actions) - total.log()", "relative.gather(-1, actions)"),
        ("(total.log() - mean)", "(mean - total.log())"),
        ("(total.log() - mean)", "(-mean)"),
        ("weights.mul_(_finite_(relative))", "weights.mul_(relative)"),
        (".sum(-1, keepdim=True) / total", ".sum(-1, keepdim=True)"),
        ("(highest + total.log())", "total.log()"),
        ("_finite_(log_probs).add_(entropy", "log_probs.add_(entropy"),
        ("_LEAST = -1e4", "_LEAST = torch.finfo(torch.float32).min"),
        ("_LEAST = -1e4", "_LEAST = -1.0"),
        (".add_(entropy[rows, None])", ""),
        (".mul_(grad_entropy[rows])", ""),
        (".neg_()", ""),
        (".add_(grad_logprobs[rows])\n", "\n"),
        ("scatter_add_(-1, actions[rows, None], grad_logprobs[rows])", "add_(0.0)"),
        (".div_(ctx.temperature)", ""),
        ("grad_logits[rows] = ", "grad_logits[:] = "),
        (
            "ctx.save_for_backward(logits, actions, entropy, log_totals)",
            "ctx.save_for_backward(logits.clone(), actions, entropy, log_totals)",
        ),
        ("slice(start, start + size)", "slice(start, start + size - 1)"),
    ],
    "low_rank": [
        ("hidden = x @ down.T", "hidden = 2 * x @ down.T"),
        ("linear(x, weight.to(x.dtype), bias)", "linear(x, weight.to(x.dtype))"),
        ("linear(x, weight.to(x.dtype), bias)", "linear(x, weight, bias)"),
        ("None if bias is None else bias.to(x.dtype)", "bias"),
        ("alpha=scale", "alpha=1.0"),
        ("(grad @ up).mul_(ctx.scale)", "grad @ up"),
        ("(grad @ weight.to(grad.dtype)).addmm_(low, down)", "grad @ weight.to(grad.dtype)"),
        ("(grad @ weight.to(grad.dtype)).addmm_(low, down)", "low @ down"),
        ("(grad.T @ hidden).mul_(ctx.scale)", "grad.T @ hidden"),
        ("None, None, low.T @ x", "grad.T @ x, None, low.T @ x"),
    ],
    "gaussian": [
        ("(full_precision(actions) - full_precision(mean))", "(full_precision(actions) + full_precision(mean))"),
        ("(full_precision(actions) - full_precision(mean))", "(actions - mean)"),
        ("torch.exp(-log_std)", "torch.exp(log_std)"),
        ("-(0.5 * z.square()", "(0.5 * z.square()"),
        ("-(0.5 * z.square()", "-(z.square()"),
        ("+ log_std + 0.5 * math.log(2.0 * math.pi)", "+ 0.5 * math.log(2.0 * math.pi)"),
        ("+ log_std + 0.5 * math.log(2.0 * math.pi)", "+ log_std"),
        ("math.log(2.0 * math.pi)).sum(-1)", "math.log(2.0 * math.pi)).mean(-1)"),
        ("(full_precision(log_std) + 0.5 * math.log(2.0 * math.pi * math.e)).sum()", "full_precision(log_std).sum()"),
        (
            "(full_precision(log_std) + 0.5 * math.log(2.0 * math.pi * math.e)).sum()",
            "(log_std + 0.5 * math.log(2.0 * math.pi * math.e)).sum()",
        ),
        ("math.log(2.0 * math.pi * math.e)).sum()", "math.log(2.0 * math.pi * math.e)).mean()"),
        ("full_precision(mean) - full_precision(ref_mean)", "mean - ref_mean"),
        ("full_precision(mean) - full_precision(ref_mean)", "full_precision(mean) + full_precision(ref_mean)"),
        ("log_std, ref_log_std = full_precision(log_std), full_precision(ref_log_std)\n", "pass\n"),
        ("torch.exp(2.0 * log_std) + distance", "torch.exp(2.0 * log_std)"),
        ("torch.exp(2.0 * log_std) + distance", "torch.exp(2.0 * ref_log_std) + distance"),
        ("torch.exp(-2.0 * ref_log_std)", "torch.exp(-2.0 * log_std)"),
        ("(ref_log_std - log_std + 0.5", "(log_std - ref_log_std + 0.5"),
        ("+ 0.5 * spread - 0.5)", "+ 0.5 * spread)"),
        ("+ 0.5 * spread - 0.5)", "+ spread - 0.5)"),
        ("+ 0.5 * spread - 0.5).sum(-1)", "+ 0.5 * spread - 0.5).mean(-1)"),
        ("mean + log_std.exp() * noise", "mean + log_std * noise"),
        ("mean + log_std.exp() * noise", "log_std.exp() * noise"),
    ],
    "agreement": [
        ("counts[word] * other_counts[word]", "counts[word] * counts[word]"),
        ("(same * num - by_chance) / (num * num - by_chance)", "(same * num - by_chance) / (num * num)"),
        ("(same * num - by_chance) / (num * num - by_chance)", "same / num"),
        ("if by_chance == num * num:", "if same == num:"),
        ("if len(first) != len(second) or not first:", "if False:"),
    ],
    "statistics": [
        ("scores[is_good], scores[~is_good]", "scores[~is_good], scores[is_good]"),
        ("if not len(good) or not len(bad):", "if not len(good):"),
        ("if not len(good) or not len(bad):", "if not len(bad):"),
        ("good[:, None] - bad[None, :]", "good[:, None] + bad[None, :]"),
        (
            "zero_padding(returns, mask) - zero_padding(values, mask), mask",
            "zero_padding(returns, mask) + zero_padding(values, mask), mask",
        ),
        (
            "zero_padding(returns, mask) - zero_padding(values, mask), mask",
            "zero_padding(returns, mask) - zero_padding(values, mask), mask | True",
        ),
        ("masked_var(returns, mask)", "masked_var(values, mask)"),
        ("1.0 - residual / total", "residual / total"),
        ("torch.where(total > 0, ", "torch.where(total >= 0, "),
        ("(residual == 0).to(total.dtype)", "torch.zeros_like(total)"),
        ("where_fp64_is(scores.detach()).double()", "scores.detach()"),
        ("(scores - mean).square().mean().sqrt()", "(scores - mean).square().mean()"),
        ("(scores - mean).square().mean().sqrt()", "scores.std()"),
        ("if not ROUNDING * abs(mean) < sigma <", "if not ROUNDING * abs(mean) <= sigma <"),
        ("ROUNDING * abs(mean) < sigma", "0.0 < sigma"),
        ("bias=-mean / sigma", "bias=-mean"),
        ("gain=1.0 / sigma", "gain=sigma"),
        ("(margins > 0).float()", "(margins >= 0).float()"),
        ("0.5 * (margins == 0).float()", "0.0"),
        ("margins.sigmoid().std(0, unbiased=False)", "margins.std(0, unbiased=False)"),
        ("margins.sigmoid().std(0, unbiased=False)", "margins.sigmoid().std(0)"),
        ("margins.sigmoid().std(0, unbiased=False)", "margins.sigmoid().std(1, unbiased=False)"),
        ("a - a.mean(), b", "a, b"),
        ("b - b.mean()", "b"),
        ("float(a.norm() * b.norm())", "float(a.norm())"),
        ("float(a @ b) / norm if norm else 0.0", "float(a @ b) / norm if norm else 1.0"),
        ("margins.abs().sigmoid()", "margins.sigmoid()"),
        ("margins.abs().sigmoid()", "margins.abs()"),
        ("predicted.argsort()", "margins.argsort()"),
        ("min(num_bins, len(margins))", "num_bins"),
    ],
    "selection": [
        ("scores.double()", "scores.half()"),
        ("scores.mean(1).argmax()", "scores.mean(1).argmin()"),
        ("num < 2", "num < 1"),
        ("torch.randperm(num, generator=generator)", "torch.arange(num)"),
        ("choosing.mean(1).argmax()", "scores.mean(1).argmax()"),
        ("choosing.mean(1).argmax()", "others.mean(1).argmax()"),
        ("order[num // 2 :]", "order"),
        ("others[best].mean()", "scores[best].mean()"),
        ("others[best].mean()", "choosing[chosen].mean()"),
        ("total / num_draws", "total"),
    ],
    "awr": [
        ("(full_precision(advantages) / beta)", "(full_precision(advantages) * beta)"),
        ("(full_precision(advantages) / beta)", "(full_precision(advantages))"),
        ("(full_precision(advantages) / beta)", "(advantages / beta)"),
        ("(full_precision(advantages) / beta)", "(-full_precision(advantages) / beta)"),
        (".clamp(max=math.log(cap))", ""),
        (".clamp(max=math.log(cap))", ".clamp(max=cap)"),
        (".clamp(max=math.log(cap)).exp()", ".exp().clamp(min=cap)"),
    ],
    "outcomes": [
        (" / alone)", ")"),
        ("torch.ones(1, dtype=torch.float64)", "-torch.ones(1, dtype=torch.float64)"),
        ("marks * torch.sigmoid(-marks * scores)", "marks * torch.sigmoid(marks * scores)"),
        ("marks * torch.sigmoid(-marks * scores)", "torch.sigmoid(-scores)"),
        ("(preferences - preferred) - scores", "(preferences - preferred)"),
        ("(preferences - preferred)", "(preferred - preferences)"),
        ("scatter_(1, pairs[:, :1], -1.0)", "scatter_(1, pairs[:, :1], 0.0)"),
        (".to(marks.dtype)", ""),
    ],
    "running": [
        ("new_mean - mean", "new_mean"),
        ("(1 - share) * variance +", "variance +"),
        ("+ share * new_variance", ""),
        ("+ share * (1 - share) * away.square()", ""),
        ("mean + share * away", "mean + away"),
        ("rewards[:, t] + gamma * before", "rewards[:, t] + before"),
        ("~ends[:, t]", "torch.ones_like(ends[:, t])"),
        ("~ends[:, t]", "ends[:, t]"),
    ],
    "noise": [
        ("exponent == 0 or len(white) < 2", "False"),
        ("frequencies[0] = frequencies[1]", "frequencies[0] = 1.0"),
        ("(-exponent / 2)", "(-exponent)"),
        ("counts[0] = 1.0", "pass"),
        ("if num % 2 == 0:", "if False:"),
        (".sum() / num).sqrt()", ".sum() / num)"),
        ("n=num", "n=num + num % 2"),
        (".to(white.dtype)", ""),
    ],
    "intervals": [
        ("(score > other)", "(score >= other)"),
        ("0.5 * (score == other)", "0.0"),
        ("for value in values):", "for value in values[:1]):"),
        ("1.0 / (1.0 + z * z / num)", "1.0"),
        ("mean + z * z / (2 * num)", "mean"),
        ("shrink * z * math.sqrt", "z * math.sqrt"),
        ("+ z * z / (4 * num * num)", ""),
        ("int(0.025 * num_resamples)", "int(0.05 * num_resamples)"),
        ("means[-1 - tail]", "means[-1]"),
        ("random.Random(seed)", "random"),
        ("k=len(values)", "k=1 + len(values) // 2"),
    ],
}


def copy_of_core(folder: Path) -> Path:
    """core/ under `folder`, importable from there as tercet.core."""
    core = folder / "tercet" / "core"
    shutil.copytree(SOURCES / "tercet" / "core", core, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "tercet" / "__init__.py").touch()
    return core


def planted(path: Path, old: str, new: str) -> str:
    """The text of the module at `path` with `new` in the place of `old`."""
    text = path.read_text()
    assert text.count(old) == 1, f"{path.name}: {old!r} stands there {text.count(old)} times; adapt the planted break"
    return text.replace(old, new)


def file_of_tests(module: str) -> str:
    return str(HERE / f"test_{module}.py")


def exit_codes(jobs: list[tuple[str, str]]) -> list[int]:
    """What pytest says of each (folder of sources, file of tests)."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    environment["OMP_NUM_THREADS"] = "1"  # a fork of a process with a pool of threads may hang
    run = subprocess.run(
        [sys.executable, __file__], input=json.dumps(jobs), env=environment, capture_output=True, text=True, check=True
    )
    return json.loads(run.stdout)


@pytest.mark.parametrize("module", sorted(BREAKS))
def test_every_planted_break_has_its_one_place(module: str):
    for old, new in BREAKS[module]:
        planted(SOURCES / "tercet" / "core" / f"{module}.py", old, new)


@pytest.mark.slow
def test_every_planted_break_fails_a_test_and_the_real_sources_fail_none(tmp_path: Path):
    """Both in one process, because most of its time may go into starting it."""
    copy_of_core(tmp_path / "whole")
    whole = [(str(tmp_path / "whole"), tests) for tests in sorted({file_of_tests(module) for module in BREAKS})]
    jobs, breaks = [], [(module, *pair) for module, pairs in BREAKS.items() for pair in pairs]
    for index, (module, old, new) in enumerate(breaks):
        path = copy_of_core(tmp_path / str(index)) / f"{module}.py"
        path.write_text(planted(path, old, new))
        jobs.append((str(tmp_path / str(index)), file_of_tests(module)))
    codes = exit_codes([*whole, *jobs])
    assert codes[: len(whole)] == [pytest.ExitCode.OK] * len(whole)  # else the breaks would prove nothing
    survivors = [
        f"{module}.py: {old!r} -> {new!r} (pytest's exit code {code})"
        for (module, old, new), code in zip(breaks, codes[len(whole) :], strict=True)
        if code != pytest.ExitCode.TESTS_FAILED
    ]
    assert not survivors, "\n".join(survivors)


class QuickFirst:
    """Put the tests of hypothesis last: most breaks turn a test red that takes a hundredth of their time."""

    @staticmethod
    def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
        items.sort(key=lambda item: is_hypothesis_test(item.obj))


def run_in_fork(folder: str, tests: str) -> int:
    child = os.fork()
    if child == 0:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        sys.path.insert(0, folder)
        bare = f"-x --tb=no --assert=plain -c {os.devnull} --noconftest --import-mode=importlib -p no:cacheprovider"
        os._exit(pytest.main([tests, "--rootdir", folder, *bare.split()], plugins=[QuickFirst]))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> None:
    # once, in front of the forks: whatever the tests import except tercet, which each fork has to find for itself
    for name in ("jaxtyping", "numpy.random", "torch.distributions", "torch.testing"):
        importlib.import_module(name)
    torch.testing.assert_close(torch.zeros(1), torch.zeros(1))  # its first call imports for seconds
    quick = settings(derandomize=True, deadline=None, database=None, max_examples=10, phases=[Phase.generate])
    settings.register_profile("breaks", quick)
    settings.load_profile("breaks")
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    given(st.integers(), st.floats())(lambda number, real: None)()  # what hypothesis does only once takes it a second
    gc.freeze()  # or each fork would go through all of torch's objects again and again
    print(json.dumps([run_in_fork(folder, tests) for folder, tests in json.load(sys.stdin)]))


if __name__ == "__main__":
    main()
