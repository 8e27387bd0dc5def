"""Win rates and comparisons."""

import pytest

from engine.evaluation.compare import compare
from engine.evaluation.winrate import wilson, win_rate
from engine.sampling.settings import Sampling


@pytest.mark.parametrize(
    ("wins", "count", "low", "high"),
    # Wilson intervals at 95% as published tables give them.
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (8, 10, 0.4902, 0.9433), (90, 100, 0.8256, 0.9448)],
)
def test_wilson(wins, count, low, high):
    assert wilson(wins, count) == pytest.approx((low, high), abs=5e-4)
    assert wilson(0, 0) == (0.0, 1.0)


def test_a_tie_is_half_a_win():
    assert win_rate([1.0, -1.0, 0.0, 0.0])["win_rate"] == 0.5
    assert win_rate([1.0, 0.0])["win_rate"] == 0.75
    assert win_rate([])["win_rate"] == 0.5


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
