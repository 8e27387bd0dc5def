"""Choosing what to ask: what is uncertain, and not the same twice."""

import torch

from engine.methods.active import choose, most_different, most_telling, uncertainty
from engine.methods.reward import RewardModel
from engine.models.chat import next_turn
from engine.models.heads import RewardHead
from engine.models.states import states_at
from engine.sampling.answers import answer
from engine.sampling.settings import Sampling
from engine.training.passes import Encoded
from tests.engine.toys import shake


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


def test_of_like_answers_one_is_shown_and_every_other_kind(tiny_roles):
    prompt, alike, others = [5, 6], [7, 8, 9, 1], ([20, 1], [15, 16, 17, 18, 1])
    answers = [Encoded(prompt, ids) for ids in (alike, alike, others[0], alike, others[1], alike)]
    assert most_different(tiny_roles, answers, 3) == [0, 2, 4]
    assert most_different(tiny_roles, answers, 9) == [0, 1, 2, 3, 4, 5]


def test_what_lies_apart_is_what_the_base_says_after_each_answer_whatever_their_lengths(tiny_roles):
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
    apart = torch.nn.functional.normalize(states - states.mean(0), dim=-1)
    taken = [0]
    while len(taken) < 4:  # the farthest from the nearest that is taken, by the angle
        taken.append(int((apart @ apart[taken].T).amax(-1).argmin()))
    assert most_different(tiny_roles, answers, 4) == sorted(taken)


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
