"""Methods on stored feedback: known optima, and nothing that depends on how a batch is cut, padded or interrupted."""

import math
from dataclasses import replace

import pytest
import torch

from engine.errors import UserError
from engine.feedback.examples import Ranking, Valued
from engine.methods import dpo, ilql, kto, reward, sft
from engine.methods.settings import DPOConfig, ILQLConfig, KTOConfig, RewardConfig, SFTConfig
from engine.models.heads import RewardHead
from engine.models.load import load_base
from engine.models.roles import Roles
from engine.training.context import Stopped
from engine.training.fit import _accumulate
from engine.training.optimizers import Steps
from engine.training.parts import Parts
from engine.training.passes import Encoded
from tests.engine.toys import StopsAt, able_folder, next_token, policy_on

PROMPT = (("user", "w1 w2"),)


def ranking(prompt, responses, ranks):
    return Ranking((("user", prompt),), tuple(responses), tuple(ranks), (True,) * len(responses))


def valued(prompt, response, value, source="rating"):
    return Valued((("user", prompt),), response, value, source, True, round(2 * value + 3))


RANKINGS = [
    ranking("w1", ["w2 w3 w4", "w5", "w6 w7"], (0, 1, 2)),
    ranking("w8 w9 w10", ["w2", "w3 w3"], (1, 0)),
    ranking("w4", ["w11 w12", "w13", "w14 w15 w16 w17", "w18"], (0, 1, 1, 2)),
    ranking("w5 w6", ["w19", "w20 w21"], (0, 0)),
    ranking("w7 w7 w7", ["w22 w1", "w2"], (0, 1)),
]
VALUED = [
    valued(p, r, v)
    for p, r, v in [
        ("w1", "w2 w3 w4", 1.0), ("w1", "w5", -1.0), ("w8 w9 w10", "w2", 0.5), ("w4", "w11 w12", -0.5),
        ("w5 w6", "w19", 1.0), ("w7 w7 w7", "w22 w1 w3 w4", -1.0), ("w9", "w2 w2", 1.0),
    ]
]  # fmt: skip


def test_sft_learns_the_frequencies_of_what_it_copies(tmp_path):
    """The maximum of the likelihood is the data's own distribution; an answer is a word and its end."""
    roles = policy_on(able_folder(tmp_path), rank=16)
    shares = {"w3": 8, "w4": 4, "w5": 4}
    data = [Valued(PROMPT, word, 1.0, "edit", True) for word, n in shares.items() for _ in range(n)]
    sft.train_sft(roles, data, SFTConfig(epochs=120, batch=16, rank=16, learning_rate=5e-3))
    found = next_token(roles, "policy").exp()
    for word, n in shares.items():
        assert float(found[roles.tokenizer.convert_tokens_to_ids(word)]) == pytest.approx(n / 16, abs=0.03)


def test_dpo_sets_the_implicit_rewards_as_bradley_terry_would(tmp_path):
    """An answer that wins three times in four has an implicit reward log 3 above the other's (Rafailov, eq. 6)."""
    roles = policy_on(able_folder(tmp_path))
    data = [ranking("w1 w2", ["w3", "w4 w5"], order) for order in [(0, 1), (0, 1), (0, 1), (1, 0)]]
    config = DPOConfig(epochs=250, batch=4, beta=0.5, rank=8, learning_rate=2e-3)
    dpo.train_dpo(roles, data, config)
    prepared = dpo.prepare(roles, None, data[:1], 64)[0]
    with torch.no_grad():
        log_probs, _ = sft.answer_log_probs(roles, "policy", prepared.answers)
    implicit = config.beta * (log_probs.sum(-1) - torch.tensor(prepared.reference))
    assert float(implicit[0] - implicit[1]) == pytest.approx(math.log(3), abs=0.05)


def test_kto_says_more_of_the_good_and_less_of_the_bad(tmp_path):
    roles = policy_on(able_folder(tmp_path))
    data = [valued(f"w{i}", word, v) for i in range(8, 16) for word, v in (("w3", 1.0), ("w4", -1.0))]
    kto.train_kto(roles, data, KTOConfig(epochs=20, rank=8, learning_rate=2e-3))
    for prompt in ("w9", "w20"):  # one it was trained on, one it was not
        conversation = [{"role": "user", "content": prompt}]
        moved = next_token(roles, "policy", conversation) - next_token(roles, None, conversation)
        good, bad = (moved[roles.tokenizer.convert_tokens_to_ids(w)] for w in ("w3", "w4"))
        assert good > 0.5
        assert bad < -0.5


def test_in_proportional_odds_the_cuts_divide_the_grades():
    """Answers graded 1 and 5 in shares 1:3 and 3:1 end log 9 apart on the scale, whatever the cuts."""
    from engine.methods.losses import ordinal_losses

    scores = torch.zeros(2, requires_grad=True)
    cut = torch.zeros(1, requires_grad=True)
    grades = torch.tensor([1, 2, 2, 2, 1, 1, 1, 2])
    owner = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    optimizer = torch.optim.Adam([scores, cut], lr=0.05)
    for _ in range(2000):
        optimizer.zero_grad()
        ordinal_losses(scores[owner], grades, cut).mean().backward()
        optimizer.step()
    assert float((scores[0] - scores[1]).detach()) == pytest.approx(math.log(9), abs=0.01)
    # Every grade's probability: they add up to one.
    cuts = torch.tensor([-1.0, 0.2, 0.3, 2.0])
    total = sum(torch.exp(-ordinal_losses(torch.tensor([0.7]), torch.tensor([g]), cuts)) for g in range(1, 6))
    assert float(total) == pytest.approx(1.0, abs=1e-6)


def objective_of(method, roles):
    """(objective, examples, parameters) of each method, on the untrained policy."""
    if method == "reward":
        config = RewardConfig(heads=3)
        head = RewardHead(roles.width, 3, gates=2)
        for parameter in head.parameters():
            torch.nn.init.normal_(parameter)
        model = reward.RewardModel(roles, [("policy", head)])
        objective = reward.FeedbackObjective(model, config)
        return objective, [*RANKINGS, *VALUED], [*roles.parameters("policy"), *head.parameters(), objective.gaps]
    if method == "sft":
        return sft.Imitation(roles), [sft.encode(roles, v, 64) for v in VALUED], roles.parameters("policy")
    if method == "dpo":
        return dpo.DirectPreference(roles, 0.1), dpo.prepare(roles, None, RANKINGS, 64), roles.parameters("policy")
    if method == "kto":
        return kto.KahnemanTversky(roles, KTOConfig()), kto.prepare(roles, None, VALUED, 64), roles.parameters("policy")
    objective = ilql.ImplicitQ(roles, ILQLConfig())
    for head in (objective.shift.q1, objective.shift.q2):
        torch.nn.init.normal_(head.outer.weight)
    examples = [ilql.Trajectory(sft.encode(roles, v, 64), v.value) for v in VALUED]
    return objective, examples, [*roles.parameters("policy"), *objective.shift.q1.parameters()]


@pytest.mark.parametrize("method", ["reward", "sft", "dpo", "kto", "ilql"])
def test_no_cut_and_no_order_of_a_batch_changes_loss_or_gradient(method, tiny_roles):
    # The examples' lengths differ, so every cut pads differently.
    tiny_roles.add("policy", rank=4)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in tiny_roles.parameters("policy"):
            p.add_(0.05 * torch.randn(p.shape, generator=generator))
    objective, examples, parameters = objective_of(method, tiny_roles)
    steps = Steps(torch.optim.SGD(parameters, lr=0.0), 1.0, half=False)
    found = []
    for order, micro in [(1, 0), (1, 1), (1, 3), (-1, 2)]:
        for p in parameters:
            p.grad = None
        figures = _accumulate(objective, examples[::order], Parts(micro), steps)
        found.append((figures, [p.grad.clone() for p in parameters]))
    for figures, gradients in found[1:]:
        assert figures == pytest.approx(found[0][0], abs=1e-5)
        for a, b in zip(gradients, found[0][1], strict=True):
            assert torch.allclose(a, b, atol=1e-5)


def trained(method, folder, checkpoints, context=None):
    """All that `method` trained, from a fresh load of the base."""
    roles = Roles(load_base(str(folder)))
    common = {"epochs": 4, "min_steps": 0, "batch": 3, "rank": 4}
    to = checkpoints
    if method == "reward":
        model, _ = reward.train_reward(
            roles, RANKINGS, [], RewardConfig(heads=2, adapters=2, **common), context, VALUED, to
        )
        adapters = [p for role, _ in model.members for p in roles.parameters(role)]
        return adapters + [p for _, head in model.members for p in head.parameters()]
    roles.add("policy", rank=4, seed=9)
    if method == "sft":
        sft.train_sft(roles, VALUED, SFTConfig(**common), context, to)
    elif method == "dpo":
        dpo.train_dpo(roles, RANKINGS, DPOConfig(**common), None, context, to)
    elif method == "kto":
        kto.train_kto(roles, VALUED, KTOConfig(**common), None, context, to)
    else:
        ilql.train_ilql(roles, VALUED, ILQLConfig(**common), context, to)
        return roles.parameters("policy") + list(roles.shifts["policy"].parameters())
    return roles.parameters("policy")


@pytest.mark.parametrize("method", ["reward", "sft", "dpo", "kto", "ilql"])
def test_stopped_at_any_step_and_resumed_it_ends_as_if_never_stopped(method, tmp_path, tiny_folder):
    whole = trained(method, tiny_folder, None)
    again = trained(method, tiny_folder, tmp_path / "again")
    assert all(torch.equal(a, b) for a, b in zip(whole, again, strict=True))  # same seed, same run to the last bit
    for step in (1, 4, 7):
        folder = tmp_path / str(step)
        with pytest.raises(Stopped):
            trained(method, tiny_folder, folder, StopsAt(step))
        resumed = trained(method, tiny_folder, folder)
        assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True)), f"stopped at step {step}"


def test_each_head_of_an_ensemble_weighs_the_feedback_its_own_way(tiny_roles):
    rankings = [ranking(f"w{i}", ["w2 w3", "w4"], (i % 3 == 0, i % 3 != 0)) for i in range(5, 20)]
    config = RewardConfig(heads=4, rank=4, epochs=8, min_steps=0)
    model, _ = reward.train_reward(tiny_roles, rankings, [], config)
    each = model.each([Encoded([5, 6], [7]), Encoded([8], [9])])
    assert each.shape == (2, 4)
    assert (each.std(-1) > 1e-3).all()
    cautious = replace(model, pessimism=1.5)
    assert torch.allclose(cautious.summed_up(each), each.mean(-1) - 1.5 * each.std(-1))


def test_what_cannot_teach_is_refused_with_the_way_out(tiny_roles):
    tiny_roles.add("policy", rank=4)
    with pytest.raises(UserError, match="Edit an answer"):
        sft.train_sft(tiny_roles, [], SFTConfig())
    with pytest.raises(UserError, match="Rank or edit"):
        dpo.train_dpo(tiny_roles, [ranking("w1", ["w2", "w3"], (0, 0))], DPOConfig())
    with pytest.raises(UserError, match="thumb"):
        kto.train_kto(tiny_roles, [v for v in VALUED if v.value > 0], KTOConfig())
    with pytest.raises(UserError, match="worth"):
        ilql.train_ilql(tiny_roles, [VALUED[0]], ILQLConfig())


def test_what_is_worth_copying_is_edits_high_ratings_and_the_best_of_rankings():
    answers = [
        Valued(PROMPT, "edited", 1.0, "edit", True), Valued(PROMPT, "replaced", -1.0, "edit", True),
        Valued(PROMPT, "five", 1.0, "rating", True, 5), Valued(PROMPT, "four", 0.5, "rating", True, 4),
        Valued(PROMPT, "three", 0.0, "rating", True, 3), Valued(PROMPT, "first", 1.0, "ranking", True),
        Valued(PROMPT, "second", 0.0, "ranking", True), Valued(PROMPT, "first", 1.0, "rating", True, 5),
    ]  # fmt: skip
    assert [v.response for v in sft.worth_copying(answers, SFTConfig())] == ["edited", "five", "four", "first"]


def test_little_feedback_is_gone_through_more_often_and_much_less_often():
    config = DPOConfig(epochs=3, batch=8, min_steps=24)
    assert [config.steps(examples) for examples in (1, 8, 9, 64, 80)] == [24, 24, 24, 24, 30]
    limited = DPOConfig(epochs=3, batch=8, min_steps=24, max_steps=40)
    assert [limited.steps(examples) for examples in (1, 80, 104, 112, 160, 168, 800)] == [24, 30, 39, 28, 40, 21, 100]
