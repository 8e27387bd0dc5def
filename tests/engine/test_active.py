"""Choosing what to ask: what is uncertain, and not the same twice."""

import torch

from engine.methods.active import choose, most_telling, uncertainty
from engine.methods.reward import RewardModel
from engine.models.heads import RewardHead
from engine.models.states import states_at
from engine.sampling.answers import answer
from engine.sampling.settings import Sampling
from engine.training.passes import Encoded


def test_heads_that_differ_by_a_constant_agree_on_every_pair():
    scores = torch.tensor([[0.0], [1.0], [3.0]]) + torch.tensor([0.0, 5.0, -2.0])
    assert uncertainty(scores) < 1e-6
    assert uncertainty(torch.tensor([[0.0, 1.0], [1.0, 0.0]])) > 0.5


def test_the_uncertain_come_first_and_the_same_question_is_not_asked_twice():
    features = torch.tensor([[1.0, 0.0], [0.99, 0.01], [0.0, 1.0], [-1.0, -1.0]])
    assert choose([0.9, 0.8, 0.1, 0.1], torch.randn(4, 8), 1) == [0]
    first, second = choose([0.9, 0.8, 0.5, 0.1], features, 2)
    assert (first, second) == (0, 2)  # 1 is less sure than 2, but asks what 0 asked
    assert sorted(choose([0.1] * 4, features, 9)) == [0, 1, 2, 3]


def test_groups_the_heads_disagree_on_are_found(tiny_roles):
    tiny_roles.add("reward", rank=4)
    head = RewardHead(tiny_roles.width, 2)
    reward = RewardModel(tiny_roles, [("reward", head)])
    asked = [[{"role": "user", "content": f"w{i}"}] for i in range(1, 9)]
    groups = [answer(tiny_roles, None, [c] * 3, Sampling(max_new_tokens=5), [1, 2, 3]) for c in asked]
    pairs = [[Encoded(a.prompt_ids, a.ids) for a in g] for g in groups]
    # One head scores by a direction in which the answers of group 4 differ most, the other not at all.
    with torch.no_grad(), tiny_roles.acting("reward") as model:
        states = [states_at(model, *reward.pad(each))[:, 1] for each in pairs]
        apart = states[4][0] - states[4][1]
        head.weight[0, :-1] = apart / apart.norm()
    spread = [uncertainty(reward.each(each)) for each in pairs]
    assert most_telling(reward, groups, 1) == [max(range(8), key=spread.__getitem__)]
