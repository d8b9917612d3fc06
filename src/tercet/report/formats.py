"""Formats of numbers in the report."""

from collections.abc import Sequence

from tercet.core.intervals import Interval


def percent(share: float) -> str:
    """Format 0.873 as 87%; use tenths if whole per cents would give 0% or 100%."""
    whole = f"{100 * share:.0f}%"
    return f"{100 * share:.1f}%" if whole in ("0%", "100%") and share not in (0, 1) else whole


def interval(rate: Interval) -> str:
    """Format a 95 % interval."""
    return f"95% interval {percent(rate.low)} to {percent(rate.high)}"


def num(value: float | None, digits: int = 3) -> str:
    """Format three significant digits, with an exponent only for very large or small numbers; None is a dash."""
    if value is None:
        return "–"
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e6:
        return f"{value:.{digits - 1}e}".replace("e-0", "e-").replace("e+0", "e").replace("-", "−")
    whole = len(str(int(abs(value))))
    decimals = max(0, digits - whole) if abs(value) >= 1 else digits - 1 + (abs(value) < 0.1) + (abs(value) < 0.01)
    return f"{value:,.{decimals}f}".replace("-", "−")


def score(value: float | None) -> str:
    """Format a score with two decimals, so that a column is aligned."""
    return "–" if value is None else f"{value:,.2f}".replace("-", "−")


def signed(value: float | None) -> str:
    """Format a difference of scores with its sign."""
    return "–" if value is None else ("+" if value > 0 else "") + score(value)


def duration(seconds: float | None) -> str:
    """Format 75 as 1 min 15 s."""
    if not seconds:
        return ""
    whole, minutes = round(seconds), round(seconds / 60)
    if whole < 60:
        return f"{whole} s"
    if whole < 600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def listed(parts: Sequence[str]) -> str:
    """Join names as in `a, b and c`."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}" if parts else ""


def shares(values: Sequence[float | None]) -> list[float]:
    """Scale values so that the lowest is 0 and the highest 1; all are 0.5 if they are equal."""
    known = [value for value in values if value is not None]
    low, high = (min(known), max(known)) if known else (0.0, 0.0)
    return [0.5 if value is None or high == low else (value - low) / (high - low) for value in values]
