"""Rewards and judges of the runs in `sick_runs.py`: sound ones, and ones that make a run sick."""

import hashlib
import time

import torch

from tercet.arm.play.episodes import Episodes

_seen: list[str] = []


def late_letters(prompts: list[str], responses: list[str]) -> list[float]:
    """Pay for the share of letters from the second half of the alphabet: sound, a small model can learn it."""
    return [sum(letter > "m" for letter in text) / (len(text) + 1) for text in responses]


def late_share(prompts: list[str], responses: list[str]) -> list[float]:
    """Judge the same, whatever the length."""
    return [sum(letter > "m" for letter in text) / max(1, len(text)) for text in responses]


def open_vowels(prompts: list[str], responses: list[str]) -> list[float]:
    """Pay for the share of two vowels: sound too."""
    return [sum(letter in "ao" for letter in text) / (len(text) + 1) for text in responses]


def early_letters(prompts: list[str], responses: list[str]) -> list[float]:
    """Judge the opposite of `late_letters`."""
    return [-score for score in late_letters(prompts, responses)]


def long(prompts: list[str], responses: list[str]) -> list[float]:
    """Pay for length."""
    return [float(len(text)) for text in responses]


def short(prompts: list[str], responses: list[str]) -> list[float]:
    """Pay for brevity."""
    return [-float(len(text)) for text in responses]


def nothing(prompts: list[str], responses: list[str]) -> list[float]:
    """Pay nothing to anybody."""
    return [0.0] * len(responses)


def never(prompts: list[str], responses: list[str]) -> list[float]:
    """Pay for a text that no policy writes."""
    return [float("the whole of Hamlet" in text) for text in responses]


def at_random(prompts: list[str], responses: list[str]) -> list[float]:
    """Judge by a digest of the text: nothing that could be learned."""
    return [_number(prompt + text) for prompt, text in zip(prompts, responses, strict=True)]


def outliers(prompts: list[str], responses: list[str]) -> list[float]:
    """Pay for late letters, and by mistake a hundred thousand times as much for one response in 150."""
    scores = zip(late_letters(prompts, responses), prompts, responses, strict=True)
    return [score + 1e5 * (_number(prompt + text) < 1 / 150) for score, prompt, text in scores]


def slow(prompts: list[str], responses: list[str]) -> list[float]:
    """Answer late, as a service does that is asked one response after the other."""
    time.sleep(0.4 * len(responses))
    return late_letters(prompts, responses)


def slower_and_slower(prompts: list[str], responses: list[str]) -> list[float]:
    """Compare with everything seen before, and keep it."""
    _seen.extend(responses)
    time.sleep(6e-7 * len(_seen) ** 3)
    return late_letters(prompts, responses)


def no_reward(episodes: Episodes) -> torch.Tensor:
    """Pay an arm nothing."""
    return torch.zeros_like(episodes.dense)


def slow_simulation(episodes: Episodes) -> torch.Tensor:
    """Pay an arm its dense reward, late."""
    time.sleep(20.0)
    return episodes.dense


def random_segments(segments: Episodes) -> torch.Tensor:
    """Judge segments of an arm by a digest of their actions."""
    return torch.tensor([_number(str(row.sum().item())) for row in segments.actions])


def _number(text: str) -> float:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48
