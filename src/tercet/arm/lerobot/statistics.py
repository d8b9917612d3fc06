"""meta/stats.json: minimum, maximum, mean, standard deviation and quantiles of every feature."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
_MAX_PICTURES = 50  # per episode, evenly spread
_PIXEL_STRIDE = 4

Stats = Mapping[str, NDArray]  # one number per entry of the feature; `count` (1,) is the number of rows


def of_numbers(values: NDArray) -> Stats:
    """Compute the statistics of rows (t, n)."""
    rows = values.astype(np.float64)
    quantiles = np.quantile(rows, list(QUANTILES.values()), axis=0)
    moments = {"min": rows.min(0), "max": rows.max(0), "mean": rows.mean(0), "std": rows.std(0)}
    return {**moments, "count": np.array([len(rows)]), **dict(zip(QUANTILES, quantiles, strict=True))}


def of_pictures(pictures: Sequence[NDArray[np.uint8]]) -> Stats:
    """Compute the statistics per channel, (3, 1, 1), from 0 to 1, on a sample of pictures and pixels."""
    chosen = np.linspace(0, len(pictures) - 1, min(len(pictures), _MAX_PICTURES)).round().astype(int)
    pixels = np.concatenate([pictures[i][::_PIXEL_STRIDE, ::_PIXEL_STRIDE].reshape(-1, 3) for i in chosen])
    stats = of_numbers(pixels / 255.0)
    shaped = {name: value.reshape(3, 1, 1) for name, value in stats.items() if name != "count"}
    return {**shaped, "count": np.array([len(chosen)])}


def merge(parts: Sequence[Stats]) -> Stats:
    """Merge the statistics of parts: moments exactly (Chan et al. 1979), quantiles as the widest of the parts."""
    counts = np.stack([part["count"] for part in parts]).astype(np.float64)
    weights = counts / counts.sum(0)
    weights = weights.reshape(len(parts), *[1] * parts[0]["mean"].ndim)
    means = np.stack([part["mean"] for part in parts])
    mean = (weights * means).sum(0)
    variance = (weights * (np.stack([part["std"] for part in parts]) ** 2 + (means - mean) ** 2)).sum(0)
    merged = {
        "min": np.min([part["min"] for part in parts], 0),
        "max": np.max([part["max"] for part in parts], 0),
        "mean": mean,
        "std": np.sqrt(variance),
        "count": counts.sum(0).astype(np.int64),
    }
    for name, share in QUANTILES.items():
        widest = np.min if share <= 0.5 else np.max
        merged[name] = widest([part[name] for part in parts], 0)
    return merged
