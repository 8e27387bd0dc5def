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
from engine.models.heads import RewardHead
from engine.models.load import load_base
from engine.models.roles import Roles
from engine.sampling.answers import answer
from engine.sampling.settings import Sampling
from engine.training.passes import Encoded

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
    head = RewardHead(tiny_roles.width, gates=2)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    reward = RewardModel(tiny_roles, [("reward", head)])
    pairs = [Encoded([5, 6], [7, 8]), Encoded([9], [4]), Encoded([10, 11], [12])]
    alone = [reward.each([pair]).item() for pair in pairs]
    assert reward.each(pairs, batch=2).squeeze(-1).tolist() == pytest.approx(alone, abs=1e-4)
    ids, mask, places = reward.pad(pairs)
    assert reward.raw(ids, mask, places).squeeze(-1).tolist() == pytest.approx(alone, abs=1e-4)
    room = (~mask).sum(-1)
    left = [torch.stack([row.roll(int(n)) for row, n in zip(rows, room, strict=True)]) for rows in (ids, mask)]
    moved = reward.raw(*left, places + room.unsqueeze(-1))
    assert moved.squeeze(-1).tolist() == pytest.approx(alone, abs=1e-4)


def test_what_is_cut_off_a_long_row_leaves_both_places_inside_it(tiny_roles):
    reward = RewardModel(tiny_roles, [])
    after = len(reward.opener)
    _, _, whole = reward.pad([Encoded([5] * 6, [7, 8])])
    assert whole.tolist() == [[5, 7 + after]]
    ids, _, places = reward.pad([Encoded([5] * 6, [7, 8])], limit=4 + after)
    assert ids[0, :4].tolist() == [5, 5, 7, 8]
    assert places.tolist() == [[1, 3 + after]]
    _, _, places = reward.pad([Encoded([5], [7] * 9)], limit=4 + after)
    assert places.tolist() == [[0, 3 + after]]  # nothing of the question is left


@pytest.mark.parametrize("gates", [0, 2])
def test_only_gates_let_a_taste_turn_with_the_question(tiny_roles, gates):
    """To one question the first answer is better, to the other the second. The states after the answers do not say
    what was asked, so a head that is linear in them gets at most one of the two right."""
    generator = torch.Generator().manual_seed(1)
    questions, answers = (torch.randn(2, tiny_roles.width, generator=generator) for _ in range(2))
    asked, given = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    head = RewardHead(tiny_roles.width, gates=gates)
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-2)
    for _ in range(200):
        optimizer.zero_grad()
        scores = head(questions[asked], answers[given], torch.full((4,), 9)).view(2, 2)
        leads = (scores[:, 0] - scores[:, 1]) * torch.tensor([1, -1])
        torch.nn.functional.softplus(-leads).sum().backward()
        optimizer.step()
    assert bool((leads > 0.5).all()) == (gates > 0)


@pytest.mark.parametrize("told", [True, False])
def test_told_an_answers_length_it_learns_a_taste_for_short_ones_from_few(told, tiny_folder):
    """Fifty rankings; the words say nothing of what is liked."""
    rng = random.Random(0)

    def example():
        responses = [" ".join(f"w{rng.randrange(28)}" for _ in range(n)) for n in rng.sample(range(1, 25), 4)]
        return ranking(f"w{rng.randrange(28)} w{rng.randrange(28)}", responses, map(len, map(str.split, responses)))

    roles = Roles(load_base(str(tiny_folder)))
    config = RewardConfig(rank=4, min_steps=120, told_length=told)
    reward, _ = train_reward(roles, [example() for _ in range(50)], [], config)
    right, pairs = accuracy(reward, [example() for _ in range(60)])
    assert (right / pairs > 0.93) == told


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
    head = RewardHead(tiny_roles.width)
    torch.nn.init.normal_(head.weight)
    torch.nn.init.constant_(head.bias, 5.0)
    reward = RewardModel(tiny_roles, [("reward", head)])
    prompts = [[{"role": "user", "content": f"w{i}"}] for i in range(20)]
    sampling = Sampling(max_new_tokens=6)
    normalise(reward, None, None, prompts, sampling, seed=7)
    drawn = answer(tiny_roles, None, prompts, sampling, [7 + i for i in range(20)])
    scores = reward.scores(drawn)
    assert scores.mean().abs() < 1e-4
    assert float(scores.std()) == pytest.approx(1, abs=1e-3)


def test_a_policy_whose_answers_differ_little_is_scored_by_the_spread_of_the_reference(tiny_roles):
    for role in ("reward", "policy"):
        tiny_roles.add(role, rank=4)
    head = RewardHead(tiny_roles.width)
    torch.nn.init.normal_(head.weight)
    reward = RewardModel(tiny_roles, [("reward", head)])
    prompts = [[{"role": "user", "content": f"w{i}"}] for i in range(20)]
    sampling, seeds = Sampling(max_new_tokens=6), [7 + i for i in range(20)]
    narrower = []
    for scale in (0.02, 0.2, 1.0):  # policies further and further from the base
        torch.manual_seed(3)
        for parameter in tiny_roles.parameters("policy"):
            torch.nn.init.normal_(parameter, 0, scale)
        reward.mean, reward.std = 0.0, 1.0
        own, base = (reward.scores(answer(tiny_roles, role, prompts, sampling, seeds)) for role in ("policy", None))
        normalise(reward, "policy", None, prompts, sampling, seed=7)
        wanted = (float(own.mean()), float(max(own.std(), base.std())))
        assert (reward.mean, reward.std) == pytest.approx(wanted, rel=1e-4)
        narrower.append(bool(own.std() < base.std()))
    assert set(narrower) == {True, False}


def test_accuracy_counts_every_untied_pair(tiny_roles):
    tiny_roles.add("reward", rank=4)
    head = RewardHead(tiny_roles.width)
    torch.nn.init.normal_(head.weight)
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
