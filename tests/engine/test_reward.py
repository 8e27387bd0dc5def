"""The reward model against known answers, and what it learns from."""

import copy
import math
import random
from dataclasses import replace

import pytest
import torch

from engine.errors import UserError
from engine.feedback.examples import Ranking, split_by_prompt
from engine.methods.reward import RewardModel, accuracy, normalise, train_reward
from engine.methods.settings import RewardConfig
from engine.models.chat import next_turn
from engine.models.roles import ScalarHead
from engine.sampling.answers import answer
from engine.sampling.settings import Sampling
from engine.training.batches import pad_right

CONFIG = RewardConfig(rank=4, epochs=10, batch=4, min_steps=0, learning_rate=5e-3, head_learning_rate=1e-2)


def ranking(prompt, responses, ranks):
    return Ranking((("user", prompt),), tuple(responses), tuple(ranks), (True,) * len(responses))


def test_two_answers_of_which_one_wins_three_times_in_four_are_log_three_apart(tiny_roles):
    """Bradley-Terry's maximum likelihood: P(a beats b) = sigmoid(s_a - s_b) = 3/4."""
    rankings = [ranking("w1", ["w2 w3", "w4"], order) for order in [(0, 1), (0, 1), (0, 1), (1, 0)]]
    config = replace(CONFIG, epochs=80, weight_decay=0.0, learning_rate=1e-3)
    reward, _ = train_reward(tiny_roles, rankings, [], config)
    scores = reward.score_texts([([{"role": "user", "content": "w1"}], text, True) for text in ("w2 w3", "w4")])
    assert float(scores[0] - scores[1]) == pytest.approx(math.log(3), abs=0.1)


def test_a_tie_draws_two_scores_together(tiny_roles):
    rankings = [ranking("w1", ["w2 w3", "w4", "w5"], (0, 0, 1))] * 4
    reward, _ = train_reward(tiny_roles, rankings, [], replace(CONFIG, epochs=30))
    first, tied, last = reward.score_texts(
        [([{"role": "user", "content": "w1"}], text, True) for text in ("w2 w3", "w4", "w5")]
    ).tolist()
    assert abs(first - tied) < 0.3 * (min(first, tied) - last)


def test_it_learns_a_rule_and_applies_it_to_prompts_it_never_saw(tiny_roles):
    rng = random.Random(0)

    def example():
        responses = [" ".join(f"w{rng.randrange(10)}" for _ in range(5)) for _ in range(4)]
        ranks = [-r.split().count("w7") for r in responses]  # the more often w7, the better
        return ranking(f"w{rng.randrange(10, 28)} w{rng.randrange(10, 28)}", responses, ranks)

    everything = [example() for _ in range(120)]
    train, test = split_by_prompt(everything, 0.25)
    _, figures = train_reward(tiny_roles, train, test, CONFIG)
    assert figures["held_out_pairs"] > 30
    assert figures["held_out_accuracy"] >= 0.95


def test_rankings_that_prefer_nothing_are_refused(tiny_roles):
    with pytest.raises(UserError, match="better"):
        train_reward(tiny_roles, [ranking("w1", ["w2", "w3"], (0, 0))], [], CONFIG)


def test_the_score_is_read_off_the_last_real_token_wherever_the_padding_is(tiny_roles):
    tiny_roles.add("reward", rank=4)
    head = ScalarHead(tiny_roles.width)
    torch.nn.init.normal_(head.linear.weight)
    reward = RewardModel(tiny_roles, [("reward", head)])
    rows = [[5, 6, 7, 8], [9], [10, 11]]
    alone = [reward.raw(*pad_right([row], 0)).item() for row in rows]
    ids, mask = pad_right(rows, 0)
    assert reward.raw(ids, mask).squeeze(-1).tolist() == pytest.approx(alone, abs=1e-4)
    left = torch.tensor([[5, 6, 7, 8], [0, 0, 0, 9], [0, 0, 10, 11]])
    left_mask = torch.tensor([[1, 1, 1, 1], [0, 0, 0, 1], [0, 0, 1, 1]], dtype=torch.bool)
    assert reward.raw(left, left_mask).squeeze(-1).tolist() == pytest.approx(alone, abs=1e-4)
    opened = [reward.raw(*pad_right([row + reward.opener], 0)).item() for row in rows]
    assert reward.summed_up(reward.each(rows, batch=2)).tolist() == pytest.approx(opened, abs=1e-4)


def test_the_score_is_read_where_the_next_turn_opens(pocket_base, tiny_roles):
    opens = next_turn(pocket_base.tokenizer)
    assert pocket_base.tokenizer.convert_ids_to_tokens(opens) == ["<|user|>"]
    # Where a model has no template of its own, the plain one serves: "\nUser: " stands between the turns.
    assert RewardModel(tiny_roles, []).opener == next_turn(tiny_roles.tokenizer) != []
    broken = copy.copy(pocket_base.tokenizer)
    broken.chat_template = "{{ raise_exception('one turn only') }}"
    assert next_turn(broken) == []


def test_scores_are_normalised_on_answers_of_the_starting_policy(tiny_roles):
    tiny_roles.add("reward", rank=4)
    head = ScalarHead(tiny_roles.width)
    torch.nn.init.normal_(head.linear.weight)
    torch.nn.init.constant_(head.linear.bias, 5.0)
    reward = RewardModel(tiny_roles, [("reward", head)])
    prompts = [[{"role": "user", "content": f"w{i}"}] for i in range(20)]
    sampling = Sampling(max_new_tokens=6)
    normalise(reward, None, prompts, sampling, seed=7)
    drawn = answer(tiny_roles, None, prompts, sampling, [7 + i for i in range(20)])
    scores = reward.scores(drawn)
    assert scores.mean().abs() < 1e-4
    assert float(scores.std()) == pytest.approx(1, abs=1e-3)


def test_accuracy_counts_every_untied_pair(tiny_roles):
    tiny_roles.add("reward", rank=4)
    head = ScalarHead(tiny_roles.width)
    torch.nn.init.normal_(head.linear.weight)
    reward = RewardModel(tiny_roles, [("reward", head)])
    rankings = [ranking(f"w{i}", ["w1 w2", "w3", f"w{i} w4 w5"][: 2 + i % 2], range(2 + i % 2)) for i in range(9)]
    right, pairs = accuracy(reward, rankings)
    assert pairs == sum(3 if len(r.responses) == 3 else 1 for r in rankings)
    # Turned round, exactly the other pairs are right.
    turned = [replace(r, ranks=tuple(-x for x in r.ranks)) for r in rankings]
    assert accuracy(reward, turned) == (pairs - right, pairs)


def test_the_split_is_by_prompt_and_always_the_same():
    rankings = [ranking(f"prompt {i % 40}", ["a", "b"], (0, 1)) for i in range(120)]
    train, test = split_by_prompt(rankings, 0.2)
    assert {r.prompt for r in train}.isdisjoint({r.prompt for r in test})
    assert len(train) + len(test) == 120
    assert 2 <= len({r.prompt for r in test}) <= 16
    # More feedback never moves a prompt to the other side.
    more, _ = split_by_prompt([*rankings, ranking("a new one", ["a", "b"], (0, 1))], 0.2)
    assert {r.prompt for r in train} <= {r.prompt for r in more}


@pytest.mark.parametrize("count", [2, 3, 5])
def test_few_prompts_still_leave_something_on_both_sides(count):
    for start in range(0, 60, count):
        rankings = [ranking(f"prompt {start + i}", ["a", "b"], (0, 1)) for i in range(count)]
        train, test = split_by_prompt(rankings, 0.15)
        assert train
        assert test
