"""Win rates that carry their error bar."""

from math import sqrt


def wilson(wins: float, count: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95% Wilson score interval of a proportion (Wilson 1927). Half wins (ties) are allowed.

    With nothing counted the interval is (0, 1).
    """
    if count == 0:
        return 0.0, 1.0
    share = wins / count
    middle = share + z * z / (2 * count)
    spread = z * sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


def win_rate(differences: list[float], tie: float = 1e-9) -> dict[str, float]:
    """{"win_rate", "win_rate_low", "win_rate_high"} of after over before; a tie counts half.

    differences: after minus before, one number a prompt.
    """
    wins = sum(1.0 if d > tie else 0.5 if d >= -tie else 0.0 for d in differences)
    low, high = wilson(wins, len(differences))
    rate = wins / len(differences) if differences else 0.5
    return {"win_rate": rate, "win_rate_low": low, "win_rate_high": high}


def votes_to_decide(rate: float, count: int, most: int = 2000) -> int | None:
    """How many more votes at this rate until the 95% interval leaves out one half: 0 where it does already, None where
    `most` would not do."""
    for more in range(most):
        low, high = wilson(rate * (count + more), count + more)
        if count + more and (low > 0.5 or high < 0.5):
            return more
    return None
