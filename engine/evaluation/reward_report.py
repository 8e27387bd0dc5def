"""How far a reward model can be trusted: accuracy, calibration, a leaning to length, its worst mistakes."""

import statistics
from collections.abc import Sequence
from itertools import combinations
from math import exp

from engine.evaluation.winrate import wilson_in_groups
from engine.feedback.examples import Ranking

BINS = 5  # of the favourite's probability, from 1/2 to 1
WORST = 5


def pairs_of(rankings: Sequence[Ranking], scores: Sequence[Sequence[float]]) -> list[tuple[Ranking, int, int, float]]:
    """(ranking, place of the better, of the worse, lead of the better's score) of every untied pair."""
    found = []
    for ranking, row in zip(rankings, scores, strict=True):
        for i, j in combinations(range(len(ranking.responses)), 2):
            if ranking.ranks[i] != ranking.ranks[j]:
                better, worse = (i, j) if ranking.ranks[i] < ranking.ranks[j] else (j, i)
                found.append((ranking, better, worse, row[better] - row[worse]))
    return found


def calibration(leads: Sequence[float]) -> tuple[list[dict], float]:
    """(reliability curve, expected calibration error) of a Bradley-Terry model (Guo et al. 2017, eq. 3).

    leads: score of the preferred less score of the other, before normalisation, one a pair. The model gives its
    favourite of a pair the probability sigmoid(|lead|); the curve holds that against how often the favourite was
    preferred.
    """
    bins: list[list[tuple[float, float]]] = [[] for _ in range(BINS)]
    for lead in leads:
        sure = 1 / (1 + exp(-min(abs(lead), 700.0)))
        won = 1.0 if lead > 0 else 0.5 if lead == 0 else 0.0
        bins[min(int((sure - 0.5) * 2 * BINS), BINS - 1)].append((sure, won))
    curve, error = [], 0.0
    for inside in bins:
        if inside:
            predicted, observed = (sum(x) / len(inside) for x in zip(*inside, strict=True))
            curve.append({"predicted": predicted, "observed": observed, "pairs": len(inside)})
            error += abs(predicted - observed) * len(inside) / len(leads)
    return curve, error


def correlation(xs: Sequence[float], ys: Sequence[float]) -> float | None:
    """Pearson's r; None where one of the two does not vary."""
    try:
        return statistics.correlation(xs, ys)
    except statistics.StatisticsError:
        return None


def self_agreement(judgements: Sequence[tuple[dict[int, float], dict[int, float]]]) -> tuple[int, int]:
    """(pairs ordered the same both times, pairs) over rankings of the same answers given twice, as {response: rank}.

    The ceiling for any model of the person. A pair tied either time is left out.
    """
    same = pairs = 0
    for first, second in judgements:
        for a, b in combinations(sorted(first.keys() & second.keys()), 2):
            before, after = first[a] - first[b], second[a] - second[b]
            if before and after:
                pairs += 1
                same += (before > 0) == (after > 0)
    return same, pairs


def reward_report(
    rankings: Sequence[Ranking], scores: Sequence[Sequence[float]], twice: Sequence[tuple[dict, dict]] = ()
) -> dict:
    """What `scores` (before normalisation) of held-out rankings say about the model that gave them."""
    pairs = pairs_of(rankings, scores)
    leads = [lead for *_, lead in pairs]
    right = sum(lead > 0 for lead in leads)
    by_prompt: dict[tuple, list[bool]] = {}
    for ranking, *_, lead in pairs:
        by_prompt.setdefault(ranking.prompt, []).append(lead > 0)
    low, high = wilson_in_groups([(sum(won), len(won)) for won in by_prompt.values()])
    curve, error = calibration(leads)
    flat = [(s, len(text.split())) for r, row in zip(rankings, scores, strict=True)
            for s, text in zip(row, r.responses, strict=True)]  # fmt: skip
    wrong = sorted((p for p in pairs if p[3] < 0), key=lambda p: p[3])[:WORST]
    same, judged = self_agreement(twice)
    return {
        "pairs": len(leads),
        "accuracy": right / len(leads) if leads else None,
        "accuracy_low": low,
        "accuracy_high": high,
        "calibration": curve,
        "calibration_error": error if leads else None,
        "length_correlation": correlation([s for s, _ in flat], [float(n) for _, n in flat]),
        "worst": [
            {"prompt": r.prompt[-1][1], "better": r.responses[b], "worse": r.responses[w], "lead": lead}
            for r, b, w, lead in wrong
        ],
        "self_agreement": same / judged if judged else None,
        "self_agreement_pairs": judged,
    }
