"""The pure functions against closed forms and slow definitions."""

import math

import pytest
import torch
from torch.nn.functional import logsigmoid

from engine.methods import losses


def random_mask(rows=4, time=6):
    lengths = torch.tensor([6, 3, 1, 5])[:rows]
    return torch.arange(time).expand(rows, time) < lengths.unsqueeze(1)


def test_ranking_loss_is_the_mean_over_rankings_of_the_mean_over_pairs():
    scores = torch.tensor([[0.3, -1.0, 2.0], [0.5, 0.1, 9.9]])
    ranks = torch.tensor([[2.0, 1.0, 3.0], [1.0, 2.0, 0.0]])
    mask = torch.tensor([[True, True, True], [True, True, False]])
    first = [(1, 0), (1, 2), (0, 2)]  # (better, worse) of the first ranking
    expected = torch.stack([
        torch.stack([-logsigmoid(scores[0, a] - scores[0, b]) for a, b in first]).mean(),
        -logsigmoid(scores[1, 0] - scores[1, 1]),
    ]).mean()  # fmt: skip
    assert torch.allclose(losses.ranking_losses(scores, ranks, mask).mean(), expected, atol=1e-6)


def test_a_tie_is_least_where_the_scores_are_equal():
    ranks, mask = torch.ones(1, 2), torch.ones(1, 2, dtype=torch.bool)
    scores = torch.tensor([[1.5, -0.5]], requires_grad=True)
    losses.ranking_losses(scores, ranks, mask).sum().backward()
    assert scores.grad[0, 0] > 0 > scores.grad[0, 1]
    equal = torch.tensor([[0.7, 0.7]], requires_grad=True)
    losses.ranking_losses(equal, ranks, mask).sum().backward()
    assert torch.allclose(equal.grad, torch.zeros(1, 2), atol=1e-7)


def test_a_padded_slot_of_a_ranking_takes_no_gradient():
    scores = torch.zeros(1, 3, requires_grad=True)
    mask = torch.tensor([[True, True, False]])
    losses.ranking_losses(scores, torch.tensor([[0.0, 1.0, 2.0]]), mask).sum().backward()
    assert scores.grad[0, 2] == 0
    assert scores.grad[0, 0] == pytest.approx(-0.5)


def test_accuracy_leaves_ties_out():
    scores = torch.tensor([[3.0, 2.0, 1.0]])
    mask = torch.ones(1, 3, dtype=torch.bool)
    assert losses.ranking_accuracy(scores, torch.tensor([[1.0, 1.0, 2.0]]), mask) == (2, 2)
    assert losses.ranking_accuracy(scores, torch.tensor([[2.0, 1.0, 3.0]]), mask) == (2, 3)


def test_whitening_counts_response_tokens_only():
    torch.manual_seed(0)
    mask = random_mask()
    values = torch.randn(4, 6) * 3 + 2
    poisoned = torch.where(mask, values, torch.tensor(1e6))
    white = losses.masked_whiten(poisoned, mask)
    inside = white[mask]
    assert inside.mean().abs() < 1e-5
    assert inside.var(unbiased=False) == pytest.approx(1.0, abs=1e-4)
    assert (white[~mask] == 0).all()


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0)])
def test_gae_equals_its_definition(gamma, lam):
    torch.manual_seed(1)
    mask = random_mask()
    rewards = torch.where(mask, torch.randn(4, 6), 0.0)
    values = torch.randn(4, 6)  # garbage behind the mask must not matter
    advantages, returns = losses.gae(rewards, values, mask, gamma, lam)
    for row in range(4):
        length = int(mask[row].sum())
        value = [*values[row, :length].tolist(), 0.0]
        delta = [float(rewards[row, t]) + gamma * value[t + 1] - value[t] for t in range(length)]
        for t in range(length):
            expected = sum((gamma * lam) ** (k - t) * delta[k] for k in range(t, length))
            assert float(advantages[row, t]) == pytest.approx(expected, abs=1e-5)
            assert float(returns[row, t]) == pytest.approx(expected + value[t], abs=1e-5)
    assert (advantages[~mask] == 0).all()


def test_the_score_lands_on_the_last_token_and_kl_on_every_one():
    mask = random_mask()
    log_probs, reference = torch.full((4, 6), -1.0), torch.full((4, 6), -1.5)
    rewards = losses.kl_rewards(log_probs, reference, mask, 0.2)
    rewards = losses.token_rewards(torch.tensor([1.0, 2.0, 3.0, 4.0]), rewards, mask)
    for row, length in enumerate([6, 3, 1, 5]):
        assert torch.allclose(rewards[row, : length - 1], torch.full((length - 1,), -0.1))
        assert float(rewards[row, length - 1]) == pytest.approx(row + 1 - 0.1)
        assert (rewards[row, length:] == 0).all()


def test_only_tokens_below_the_floor_pay_for_being_improbable():
    reference = torch.tensor([[math.log(0.5), math.log(0.01), math.log(0.001), math.log(1e-9)]])
    mask = torch.tensor([[True, True, True, False]])
    price = {"floor": 0.01, "penalty": 0.5}
    paid = torch.tensor([[0.0, 0.0, -0.5 * math.log(10), 0.0]])
    certain = torch.zeros_like(reference)
    assert torch.allclose(losses.improbable_rewards(certain, reference, mask, **price), paid, atol=1e-6)
    for nothing in ({"floor": 0.01, "penalty": 0.0}, {"floor": 0.0, "penalty": 1.0}):
        assert not losses.improbable_rewards(certain, reference, mask, **nothing).any()


def test_what_the_reference_says_itself_costs_an_answer_little_however_long_it_is():
    """Nats below the floor that the policy has raised cost 1 each; of the others a long answer pays HABIT in all."""
    reference = torch.full((4, 300), math.log(0.001))
    mask = torch.arange(300) < torch.tensor([[300], [200], [100], [0]])
    price = {"floor": 0.01, "penalty": 1.0}
    paid = losses.improbable_rewards(reference, reference, mask, **price)
    assert float(paid.sum(-1).mean()) == pytest.approx(-losses.HABIT, abs=1e-5)
    assert torch.allclose(paid[mask], paid[0, 0])
    raised = reference.clone()
    raised[0, 7] = math.log(0.9)  # beyond the floor, ten times what the reference gives it
    raised[1, 7] = math.log(0.003)  # three times that
    raised[2, 7] = math.log(0.0001)  # less probable than before is not raised
    more = losses.improbable_rewards(raised, reference, mask, **price)
    assert float(more[0, 7]) == pytest.approx(-math.log(10), abs=1e-5)
    rest = math.log(10 / 3) / math.log(10) * float(more[1, 8])
    assert float(more[1, 7]) == pytest.approx(-math.log(3) + rest, abs=1e-5)
    assert float(more[2, 7]) == pytest.approx(float(more[2, 8]), abs=1e-6)
    # Short ones pay for all, as they would without a limit: 0.2 nats below in the mean.
    few = torch.tensor([[math.log(0.01) - 0.4, 0.0], [0.0, 0.0]])
    assert float(losses.improbable_rewards(few, few, torch.ones(2, 2).bool(), **price).sum()) == pytest.approx(-0.4)


def test_policy_loss_clips_only_where_clipping_lowers_the_surrogate():
    mask = torch.ones(1, 4, dtype=torch.bool)
    ratio = torch.tensor([[1.5, 1.5, 0.5, 0.5]])
    advantages = torch.tensor([[1.0, -1.0, 1.0, -1.0]])
    log_probs = ratio.log().requires_grad_()
    loss = losses.policy_loss(log_probs, torch.zeros(1, 4), advantages, mask, 0.2)
    assert float(loss) == pytest.approx(-(1.2 - 1.5 + 0.5 - 0.8) / 4)
    loss.backward()
    assert (log_probs.grad != 0).tolist() == [[False, True, True, False]]


def test_value_loss_is_held_within_the_clip_of_the_old_values():
    mask = torch.ones(1, 2, dtype=torch.bool)
    values = torch.tensor([[1.0, 0.1]], requires_grad=True)
    loss = losses.value_loss(values, torch.zeros(1, 2), torch.tensor([[1.0, 0.1]]), mask, 0.2)
    # The first moved past the clip: its error counts from 0.2, and pushes no further.
    assert float(loss) == pytest.approx(0.5 * 0.64 / 2)
    loss.backward()
    assert values.grad[0, 0] == 0


@pytest.mark.parametrize("function", ["policy", "value", "kl"])
def test_padding_never_enters_a_mean(function):
    torch.manual_seed(2)
    mask = random_mask()
    a, b, c = (torch.randn(4, 6) * 0.1 for _ in range(3))
    dirty = [torch.where(mask, x, torch.tensor(37.0)) for x in (a, b, c)]
    run = {
        "policy": lambda x, y, z: losses.policy_loss(x, y, z, mask, 0.2),
        "value": lambda x, y, z: losses.value_loss(x, y, z, mask, 0.2),
        "kl": lambda x, y, z: losses.approximate_kl(x, y, mask),
    }[function]
    assert torch.allclose(run(a, b, c), run(*dirty), atol=1e-6)


def test_approximate_kl_agrees_with_the_exact_one():
    torch.manual_seed(3)
    old, new = torch.log_softmax(torch.randn(8), 0), torch.log_softmax(torch.randn(8), 0)
    tokens = torch.multinomial(old.exp(), 200_000, replacement=True)
    mask = torch.ones(1, 200_000, dtype=torch.bool)
    estimate = losses.approximate_kl(new[tokens].unsqueeze(0), old[tokens].unsqueeze(0), mask)
    exact = (old.exp() * (old - new)).sum()
    assert float(estimate) == pytest.approx(float(exact), rel=0.02)


def test_the_kl_controller_steers_towards_its_target():
    controller = losses.AdaptiveKL(0.1, target=6.0, horizon=100)
    controller.update(12.0, 10)
    assert controller.coefficient == pytest.approx(0.1 * 1.02)
    controller.update(3.0, 10)
    assert controller.coefficient == pytest.approx(0.1 * 1.02 * 0.98)
    controller.update(6.0, 10)
    assert controller.coefficient == pytest.approx(0.1 * 1.02 * 0.98)
    # A plant whose KL falls as the coefficient rises settles at the target.
    kl = 0.0
    for _ in range(2000):
        kl = 1.0 / controller.coefficient
        controller.update(kl, 10)
    assert kl == pytest.approx(6.0, rel=0.01)
    assert math.isclose(controller.coefficient, 1 / 6, rel_tol=0.01)
