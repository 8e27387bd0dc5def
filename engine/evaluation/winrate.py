"""Win rates that carry their error bar."""

from collections.abc import Sequence
from math import inf, lgamma, log, sqrt
from statistics import fmean, stdev

Z = 1.959964  # standard errors on either side that hold 95% of a normal distribution


def wilson(wins: float, count: float) -> tuple[float, float]:
    """The 95% Wilson score interval of a proportion (Wilson 1927). Half wins (ties) are allowed.

    With nothing counted the interval is (0, 1).
    """
    if count == 0:
        return 0.0, 1.0
    share = wins / count
    middle = share + Z * Z / (2 * count)
    spread = Z * sqrt(share * (1 - share) / count + Z * Z / (4 * count * count))
    scale = 1 + Z * Z / count
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


def wilson_in_groups(groups: Sequence[tuple[float, int]]) -> tuple[float, float]:
    """The same of a proportion counted in groups (wins, count) that are alike within, such as the pairs of one ranking.

    Wilson's interval with as many independent counts as give the variance seen between groups (the design effect, Kish
    1965, section 8.2; Korn and Graubard 1998).
    """
    groups = [group for group in groups if group[1]]
    won, count, effect = sum(w for w, _ in groups), sum(n for _, n in groups), 1.0
    if len(groups) > 1 and 0 < won < count:
        share = won / count
        between = sum((w - share * n) ** 2 for w, n in groups) * len(groups) / (len(groups) - 1)
        effect = max(1.0, between / (count * share * (1 - share)))
    return wilson(won / effect, count / effect)


def wins(differences: list[float], tie: float = 1e-9) -> float:
    """How many of the differences, after minus before, are won; a tie counts half."""
    return sum(1.0 if d > tie else 0.5 if d >= -tie else 0.0 for d in differences)


def win_rate(differences: list[float], tie: float = 1e-9) -> dict[str, float]:
    """{"win_rate", "win_rate_low", "win_rate_high"} of after over before; a tie counts half.

    differences: after minus before, one number a prompt.
    """
    won = wins(differences, tie)
    low, high = wilson(won, len(differences))
    rate = won / len(differences) if differences else 0.5
    return {"win_rate": rate, "win_rate_low": low, "win_rate_high": high}


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95% interval of a mean of independent values, such as one difference a prompt, by the normal approximation.

    With fewer than two values it is all numbers.
    """
    if len(values) < 2:
        return -inf, inf
    middle, spread = fmean(values), Z * stdev(values) / sqrt(len(values))
    return middle - spread, middle + spread


def _evidence(wins: float, count: int, share: float) -> float:
    """The log of how much likelier the votes are with a win rate drawn evenly from 0 to 1 than with `share`."""
    even = lgamma(wins + 1) + lgamma(count - wins + 1) - lgamma(count + 2)
    return even - wins * log(share) - (count - wins) * log(1 - share)


SURE = log(20)  # 1 / 0.05


def confidence_sequence(wins: float, count: int) -> tuple[float, float]:
    """A 95% interval of a proportion that holds at every count at once: for one who looks after each vote and stops
    when it suits.

    All shares against which the evidence, with an even prior over what else it may be, is below 20 (Robbins 1970, with
    Ville's inequality). Half wins are allowed: the likelihood ratio is convex in the vote, so that its mean is at most
    that of votes of 0 and 1 (as in Hoeffding 1963). With nothing counted the interval is (0, 1).
    """

    def edge(inside: float, outside: float) -> float:
        for _ in range(50):
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if _evidence(wins, count, middle) < SURE else (inside, middle)
        return outside

    if count == 0:
        return 0.0, 1.0
    return edge(wins / count, 0.0) if wins else 0.0, edge(wins / count, 1.0) if wins < count else 1.0


def votes_to_decide(rate: float, count: int, most: int = 2000) -> int | None:
    """How many more votes at this rate until the confidence sequence leaves out one half: 0 where it does already, None
    where `most` would not do."""
    for more in range(most):
        if _evidence(rate * (count + more), count + more, 0.5) >= SURE:
            return more
    return None
