"""Win rates and comparisons."""

import itertools
import math
import random

import pytest

from engine.evaluation.compare import compare
from engine.evaluation.winrate import confidence_sequence, votes_to_decide, wilson, wilson_in_groups, win_rate
from engine.sampling.settings import Sampling


@pytest.mark.parametrize(
    ("wins", "count", "low", "high"),
    # Wilson intervals at 95% as published tables give them.
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (8, 10, 0.4902, 0.9433), (90, 100, 0.8256, 0.9448)],
)
def test_wilson(wins, count, low, high):
    assert wilson(wins, count) == pytest.approx((low, high), abs=5e-4)
    assert wilson(0, 0) == (0.0, 1.0)


def test_groups_that_are_alike_within_count_as_fewer():
    assert wilson_in_groups([(1, 1)] * 8 + [(0, 1)] * 2) == pytest.approx(wilson(8, 10), abs=0.02)
    # Six pairs of each ranking that are right or wrong together say as much as one pair, but for G / (G - 1).
    together = wilson_in_groups([(6, 6)] * 16 + [(0, 6)] * 4)
    assert together == pytest.approx(wilson(16 * 19 / 20, 19), abs=1e-9)
    # Groups more alike than chance has them count no more than their pairs.
    assert wilson_in_groups([(3, 4)] * 10) == wilson(30, 40)
    assert wilson_in_groups([(4, 4)] * 5) == wilson(20, 20) and wilson_in_groups([]) == (0.0, 1.0)


def test_an_interval_of_rankings_covers_the_truth_as_often_as_it_says():
    """Rankings of four, some harder than others: about 95% of the intervals hold, of those of single pairs fewer do."""
    rng = random.Random(0)

    def ranking():
        noise = 0.8 * math.exp(rng.gauss(0, 0.7))
        true = [rng.gauss(0, 1) for _ in range(4)]
        seen = [x + rng.gauss(0, noise) for x in true]
        pairs = list(itertools.combinations(range(4), 2))
        return sum((true[i] - true[j]) * (seen[i] - seen[j]) > 0 for i, j in pairs), len(pairs)

    def held(interval, truth, trials=1000):
        found = (interval([ranking() for _ in range(20)]) for _ in range(trials))
        return sum(low <= truth <= high for low, high in found) / trials

    many = [ranking() for _ in range(40_000)]
    truth = sum(right for right, _ in many) / sum(pairs for _, pairs in many)
    assert 0.92 < held(wilson_in_groups, truth) < 0.98
    assert held(lambda g: wilson(sum(w for w, _ in g), sum(n for _, n in g)), truth) < 0.91


def test_a_tie_is_half_a_win():
    assert win_rate([1.0, -1.0, 0.0, 0.0])["win_rate"] == 0.5
    assert win_rate([1.0, 0.0])["win_rate"] == 0.75
    assert win_rate([])["win_rate"] == 0.5


def ever_wrong(interval, rate, ties, votes):
    """The chance, exactly, that after some vote up to `votes` the interval leaves out the true win rate, for one who
    looks after each; votes are ties with chance `ties` and have the mean `rate`."""
    chances = {1.0: rate - ties / 2, 0.5: ties, 0.0: 1 - rate - ties / 2}
    standing, wrong = {0.0: 1.0}, 0.0
    for count in range(1, votes + 1):
        after = {}
        for wins, chance in standing.items():
            for vote, share in chances.items():
                after[wins + vote] = after.get(wins + vote, 0.0) + chance * share
        standing = {}
        for wins, chance in after.items():
            low, high = interval(wins, count)
            if low <= rate <= high:
                standing[wins] = chance
            else:
                wrong += chance
    return wrong


@pytest.mark.parametrize(("rate", "ties"), [(0.5, 0.0), (0.5, 0.4), (0.7, 0.2), (0.9, 0.0)])
def test_the_interval_of_votes_holds_for_one_who_looks_after_each(rate, ties):
    assert ever_wrong(confidence_sequence, rate, ties, 100) <= 0.05


def test_an_interval_for_one_look_does_not():
    assert ever_wrong(wilson, 0.5, 0.0, 100) > 0.25


def test_the_interval_of_votes_at_known_points():
    assert confidence_sequence(0, 0) == (0.0, 1.0)
    low, high = confidence_sequence(8, 8)  # B(9, 1) / p^8 = 20
    assert (low, high) == (pytest.approx((1 / 180) ** (1 / 8)), 1.0)
    assert confidence_sequence(3, 10) == pytest.approx(tuple(1 - x for x in reversed(confidence_sequence(7, 10))))
    low, high = confidence_sequence(5_000, 10_000)
    assert 0.45 < low < wilson(5_000, 10_000)[0] and wilson(5_000, 10_000)[1] < high < 0.55


def test_how_many_more_votes_would_decide():
    assert votes_to_decide(1.0, 7) == 1 and votes_to_decide(1.0, 8) == 0 and votes_to_decide(0.0, 8) == 0
    assert votes_to_decide(0.5, 40) is None
    more = votes_to_decide(0.7, 20)
    low, _ = confidence_sequence(0.7 * (20 + more), 20 + more)
    before, _ = confidence_sequence(0.7 * (19 + more), 19 + more)
    assert before < 0.5 < low


def test_a_model_compared_with_itself_ties_everywhere(tiny_roles):
    tiny_roles.add("after", rank=4)  # a new adapter changes nothing
    prompts = [[{"role": "user", "content": f"w{i}"}] for i in range(6)]
    items, result = compare(tiny_roles, None, "after", prompts, Sampling(max_new_tokens=8), 5, None)
    assert all(i.before.text == i.after.text for i in items)
    assert result["kl"] == pytest.approx(0, abs=1e-3)
    assert "win_rate" not in result  # nobody judged


def test_the_judge_and_the_kl_see_the_difference(tiny_roles):
    import torch

    tiny_roles.add("after", rank=4)
    with torch.no_grad():
        for p in tiny_roles.parameters("after"):
            p.add_(torch.randn_like(p) * 0.1)

    class Longer:
        def scores(self, answers):
            return torch.tensor([float(len(a.prompt_ids + a.ids)) for a in answers])

    prompts = [[{"role": "user", "content": f"w{i}"}] for i in range(20)]
    items, result = compare(tiny_roles, None, "after", prompts, Sampling(max_new_tokens=12), 5, Longer())
    wins = sum(
        1.0 * (len(i.after.ids) > len(i.before.ids)) + 0.5 * (len(i.after.ids) == len(i.before.ids)) for i in items
    )
    assert result["win_rate"] == pytest.approx(wins / 20)
    assert result["kl"] > 0.1
    assert result["length_after"] == pytest.approx(sum(len(i.after.ids) for i in items) / 20)
