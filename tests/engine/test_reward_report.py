"""The reward model and its report on data from a known Bradley-Terry model."""

import random
from math import exp

import pytest
import torch

from engine.evaluation.reward_report import calibration, correlation, reward_report, self_agreement
from engine.feedback.examples import Ranking
from engine.methods import losses
from engine.methods.reward import ranking_scores, train_reward
from engine.methods.settings import RewardConfig
from engine.store import conversations, feedback

WORDS = [f"w{i}" for i in range(3, 15)]


def pair(a, b, a_wins):
    return Ranking((("user", "w1"),), (a, b), (0.0, 1.0) if a_wins else (1.0, 0.0), (True, True))


def drawn(truth, count, rng):
    """Comparisons in which a beats b with probability sigmoid(s_a - s_b)."""
    found = []
    for _ in range(count):
        a, b = rng.sample(WORDS, 2)
        found.append(pair(a, b, rng.random() < 1 / (1 + exp(truth[b] - truth[a]))))
    return found


def test_it_recovers_the_scores_its_data_came_from_and_is_calibrated(tiny_roles):
    rng = random.Random(0)
    truth = {w: rng.gauss(0, 1.2) for w in WORDS}
    config = RewardConfig(
        rank=8, epochs=5, batch=64, min_steps=0, learning_rate=2e-3, head_learning_rate=5e-3, weight_decay=0.0
    )
    reward, _ = train_reward(tiny_roles, drawn(truth, 4000, rng), [], config)
    everything = Ranking((("user", "w1"),), tuple(WORDS), tuple(range(12)), (True,) * 12)
    found = dict(zip(WORDS, ranking_scores(reward, [everything])[0], strict=True))
    apart = [(found[a] - found[b], truth[a] - truth[b]) for a in WORDS for b in WORDS if a < b]
    assert correlation(*zip(*apart, strict=True)) > 0.97
    fresh = drawn(truth, 4000, rng)
    report = reward_report(fresh, [[found[w] for w in r.responses] for r in fresh])
    assert report["calibration_error"] < 0.03
    ideal = sum(1 / (1 + exp(-abs(truth[r.responses[0]] - truth[r.responses[1]]))) for r in fresh) / len(fresh)
    assert report["accuracy"] == pytest.approx(ideal, abs=0.03)
    assert report["accuracy_low"] < report["accuracy"] < report["accuracy_high"]


def optimum(rankings):
    """The scores [items] at the least loss of (ranks by item, present items)."""
    scores = torch.zeros(4, requires_grad=True)
    ranks = torch.stack([r for r, _ in rankings])
    present = torch.stack([p for _, p in rankings])
    optimizer = torch.optim.LBFGS([scores], max_iter=200, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        each = losses.ranking_losses(scores.expand(len(ranks), 4), ranks, present)
        weight = present.sum(-1) * (present.sum(-1) - 1) / 2  # pairs: a mean over pairs, however they are grouped
        loss = (each * weight).sum() / weight.sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return (scores - scores.mean()).detach()


def row(ranks):
    """{item: rank} as tensors."""
    return (
        torch.tensor([float(ranks.get(i, 0)) for i in range(4)]),
        torch.tensor([i in ranks for i in range(4)]),
    )


def test_k_wise_rankings_and_ties_have_the_optimum_of_their_pairs():
    whole = [{0: 0, 1: 1, 2: 2, 3: 3}, {0: 1, 1: 0, 2: 3, 3: 2}, {0: 3, 1: 2, 2: 1, 3: 0}, {0: 0, 1: 1, 2: 3, 3: 2}]
    pairs = [{i: r[i], j: r[j]} for r in whole for i in range(4) for j in range(i)]
    assert torch.allclose(optimum([row(r) for r in whole]), optimum([row(p) for p in pairs]), atol=1e-4)
    tied = [*pairs, {0: 0, 1: 0}, {0: 0, 1: 0}]  # two ties are a win each way
    won = [*pairs, {0: 0, 1: 1}, {0: 1, 1: 0}]
    assert torch.allclose(optimum([row(p) for p in tied]), optimum([row(p) for p in won]), atol=1e-4)


def test_the_margin_moves_the_optimum_apart():
    wins = [row({0: 0, 1: 1})] * 3 + [row({0: 1, 1: 0})]
    ranks, present = (torch.stack(x) for x in zip(*wins, strict=True))
    found = []
    for margin in (0.0, 1.0):
        lead = torch.zeros(1, requires_grad=True)
        optimizer = torch.optim.Adam([lead], lr=0.05)
        for _ in range(1000):
            optimizer.zero_grad()
            scores = torch.cat([lead, torch.zeros(3)]).expand(4, 4)
            losses.ranking_losses(scores, ranks, present, margin).mean().backward()
            optimizer.step()
        found.append(float(lead.detach()))
    assert found[0] == pytest.approx(1.0986, abs=1e-2)  # log 3
    assert found[1] > found[0] + 0.5


def test_a_model_that_is_too_sure_is_found_out():
    rng = random.Random(1)
    honest = [lead if rng.random() < 1 / (1 + exp(-lead)) else -lead for lead in
              (rng.uniform(0, 3) for _ in range(20_000))]  # fmt: skip
    assert calibration(honest)[1] < 0.02
    assert calibration([3 * lead for lead in honest])[1] > 0.1


def test_the_report_names_the_worst_pairs_and_a_leaning_to_length():
    rankings = [Ranking((("user", "Q"),), ("a b c d", "a", "a b"), (0.0, 1.0, 2.0), (True,) * 3)]
    report = reward_report(rankings, [[4.0, 1.0, 2.0]])
    assert report["worst"] == [{"prompt": "Q", "better": "a", "worse": "a b", "lead": -1.0}]
    assert report["length_correlation"] == pytest.approx(1.0)
    assert (report["accuracy"], report["pairs"]) == (2 / 3, 3)
    empty = reward_report([], [])
    assert (empty["accuracy"], empty["pairs"], empty["calibration_error"]) == (None, 0, None)


def test_the_persons_agreement_with_themselves_is_the_ceiling(store, base_version):
    prompt = conversations.add_prompt(store, "Q", "chat")
    rows = [{"text": t, "tokens": 1, "seed": 0, "finish": "stop"} for t in "abc"]
    a, b, c = conversations.add_responses(store, prompt, base_version, {}, rows)
    feedback.add_ranking(store, prompt, [[a], [b], [c]])
    assert feedback.judged_twice(store) == []
    feedback.add_ranking(store, prompt, [[b], [a], [c]])
    assert self_agreement(feedback.judged_twice(store)) == (2, 3)
    feedback.undo(store)
    assert feedback.judged_twice(store) == []
