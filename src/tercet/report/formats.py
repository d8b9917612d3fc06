"""Numbers as a reader wants them."""

from collections.abc import Sequence

from tercet.core.intervals import Interval


def percent(share: float) -> str:
    """0.873 -> 87%; tenths where whole per cents would say all or none."""
    whole = f"{100 * share:.0f}%"
    return f"{100 * share:.1f}%" if whole in ("0%", "100%") and share not in (0, 1) else whole


def interval(rate: Interval) -> str:
    """The 95 % interval in words."""
    return f"95% interval {percent(rate.low)} to {percent(rate.high)}"


def num(value: float | None, digits: int = 3) -> str:
    """Three significant digits, no exponent where a person would not write one; a dash for nothing."""
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
    """A score, with two decimals so that a column of them lines up."""
    return "–" if value is None else f"{value:,.2f}".replace("-", "−")


def signed(value: float | None) -> str:
    """A difference of scores, with its sign."""
    return "–" if value is None else ("+" if value > 0 else "") + score(value)


def duration(seconds: float | None) -> str:
    """75 -> 1 min 15 s."""
    if not seconds:
        return ""
    whole, minutes = round(seconds), round(seconds / 60)
    if whole < 60:
        return f"{whole} s"
    if whole < 600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def listed(parts: Sequence[str]) -> str:
    """a, b and c."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}" if parts else ""


def shares(values: Sequence[float | None]) -> list[float]:
    """Each value's place between the lowest (0) and the highest (1); one half where there is no spread."""
    known = [value for value in values if value is not None]
    low, high = (min(known), max(known)) if known else (0.0, 0.0)
    return [0.5 if value is None or high == low else (value - low) / (high - low) for value in values]
