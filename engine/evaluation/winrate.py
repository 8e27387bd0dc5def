"""Win rates that carry their error bar."""

from math import inf, lgamma, log, sqrt


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


def _evidence(wins: float, count: int, share: float) -> float:
    """The log of how much likelier the votes are with a win rate drawn evenly from 0 to 1 than with `share`."""
    if (share == 0 and wins) or (share == 1 and wins < count):
        return inf
    even = lgamma(wins + 1) + lgamma(count - wins + 1) - lgamma(count + 2)
    return even - (wins * log(share) if wins else 0.0) - ((count - wins) * log(1 - share) if wins < count else 0.0)


SURE = log(20)  # 1 / 0.05


def confidence_sequence(wins: float, count: int) -> tuple[float, float]:
    """A 95% interval of a proportion that holds at every count at once: for one who looks after each vote and stops
    when it suits.

    All shares against which the evidence, with an even prior over what else it may be, is below 20 (Robbins 1970, with
    Ville's inequality). Half wins are allowed: the likelihood ratio is convex in the vote, so that its mean is at most
    that of votes of 0 and 1 (as in Hoeffding 1963). With nothing counted the interval is (0, 1).
    """

    def edge(inside: float, outside: float) -> float:
        if _evidence(wins, count, outside) < SURE:
            return outside
        for _ in range(50):
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if _evidence(wins, count, middle) < SURE else (inside, middle)
        return outside

    if count == 0:
        return 0.0, 1.0
    return edge(wins / count, 0.0), edge(wins / count, 1.0)


def votes_to_decide(rate: float, count: int, most: int = 2000) -> int | None:
    """How many more votes at this rate until the confidence sequence leaves out one half: 0 where it does already, None
    where `most` would not do."""
    for more in range(most):
        if _evidence(rate * (count + more), count + more, 0.5) >= SURE:
            return more
    return None
