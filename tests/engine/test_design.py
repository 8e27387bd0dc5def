"""Which answers to ask about: what tells most of a linear liking, beside what was asked before."""

from itertools import combinations

import pytest
import torch

from engine.methods.design import APART, Design, most_telling_answers
from engine.models.chat import next_turn
from engine.sampling.answers import answer
from engine.sampling.settings import Sampling
from engine.training.passes import Encoded
from tests.engine.toys import shake


def of_one_spread(seed, answers=6, width=3):
    """States whose mean square, less their mean, is 1/2: two differ by 1, so that the prior's variance is APART^2."""
    states = torch.randn(answers, width, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
    states = states - states.mean(0)
    return states / (2 * states.square().sum(-1).mean()).sqrt()


def information(chosen):
    """Of a ranking of `chosen` [k, width] with no order likelier than another: a quarter for each pair."""
    pairs = [a - b for a, b in combinations(chosen, 2)]
    return sum(torch.outer(pair, pair) for pair in pairs) / 4


@pytest.mark.parametrize("count", [2, 3, 4])
def test_the_pair_and_then_each_other_is_what_adds_most_to_the_determinant_of_what_is_known(count):
    design = Design()
    known = torch.eye(3, dtype=torch.double) / APART**2
    for seed in range(6):
        states = of_one_spread(seed)
        taken = list(max(combinations(range(6), 2), key=lambda p: torch.logdet(known + information(states[list(p)]))))
        while len(taken) < count:
            left = [i for i in range(6) if i not in taken]
            taken.append(max(left, key=lambda i: torch.logdet(known + information(states[[*taken, i]]))))
        assert design.choose(states, count) == sorted(taken)
        known = known + information(states[taken])


def test_what_was_asked_about_gives_way_to_what_was_not():
    far, near = torch.tensor([[5.0, 0.0], [-5.0, 0.0]]), torch.tensor([[0.0, 3.0], [0.0, -3.0]])
    design = Design()
    shown = [design.choose(torch.cat([far, near]), 2) for _ in range(2)]
    assert shown == [[0, 1], [2, 3]]
    assert Design().choose(torch.cat([far, near]), 2) == [0, 1]


def test_the_scale_of_the_states_changes_nothing():
    one, hundred = Design(), Design()
    for seed in range(5):
        states = torch.randn(9, 4, generator=torch.Generator().manual_seed(seed)) + 3
        assert one.choose(states, 4) == hundred.choose(100 * states, 4)


def test_of_like_answers_one_is_shown_and_every_other_kind(tiny_roles):
    prompt, alike, others = [5, 6], [7, 8, 9, 1], ([20, 1], [15, 16, 17, 18, 1])
    answers = [Encoded(prompt, ids) for ids in (alike, alike, others[0], alike, others[1], alike)]
    assert most_telling_answers(Design(), tiny_roles, answers, 3) == [0, 2, 4]
    assert most_telling_answers(Design(), tiny_roles, answers, 9) == [0, 1, 2, 3, 4, 5]
    assert len(most_telling_answers(Design(), tiny_roles, answers[:1] * 5, 4)) == 4  # nothing to tell apart


def test_what_is_read_is_what_the_base_says_after_each_answer_whatever_their_lengths(tiny_roles):
    tiny_roles.add("policy", rank=4)
    shake(tiny_roles, "policy")  # whose states are others
    prompt, model = [5, 6], tiny_roles.peft.get_base_model()
    drawn = answer(
        tiny_roles, None, [[{"role": "user", "content": "w1"}]] * 12, Sampling(max_new_tokens=9), list(range(12))
    )
    answers = [Encoded(prompt, a.ids) for a in drawn]
    after = next_turn(tiny_roles.tokenizer)
    with torch.no_grad(), tiny_roles.acting(None):
        rows = [torch.tensor([[*prompt, *a.answer, *after]]) for a in answers]
        states = torch.stack([model.get_decoder()(input_ids=row)[0][0, -1] for row in rows])
    assert most_telling_answers(Design(), tiny_roles, answers, 4) == Design().choose(states, 4) != [0, 1, 2, 3]
