"""PPO against known answers: closed forms, toy tasks, and its own invariants."""

from dataclasses import replace

import pytest
import torch

from engine.methods.online import Best, gather
from engine.methods.ppo import PPO, train_ppo
from engine.methods.settings import PPOConfig
from engine.training.passes import response_pass
from tests.engine.toys import TokenScorer

PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13], [4, 4]]
SMALL = PPOConfig(
    max_new_tokens=6, rank=4, missing_eos_penalty=0.0, improbable_penalty=0.0, reference_temperature=1.0
)  # fmt: skip


@pytest.fixture
def policy_roles(tiny_roles):
    tiny_roles.add("policy", rank=4)
    return tiny_roles


def experience(roles, config=SMALL, scorer=None, reference=None, prompts=PROMPTS):
    """A learner with its untrained value head, and one update's answers."""
    conversations = [[{"role": "user", "content": "w1"}]] * len(prompts)
    seeds = list(range(len(prompts)))
    return PPO(roles, config), gather(
        roles, reference, scorer or TokenScorer(len), conversations, prompts, seeds, 0.1, config
    )


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_in_the_first_minibatch_the_ratio_is_one(family_roles, temperature):
    # Fails with dropout left on, a temperature on one side only, or positions shifted by left padding.
    config = replace(SMALL, temperature=temperature)
    learner, batch = experience(family_roles, config)
    rows = torch.arange(len(PROMPTS))
    with family_roles.acting("policy", train=True) as model:
        log_probs, _ = response_pass(model, learner.head, batch.rollout, rows, temperature)
    mask = batch.rollout.response_mask
    ratio = torch.exp(log_probs.detach() - batch.rollout.log_probs)[mask]
    assert torch.allclose(ratio, torch.ones_like(ratio), atol=1e-4)
    # The untrained policy is the reference, so the KL of the first batch is zero too.
    assert torch.allclose(batch.reference_log_probs[mask], batch.rollout.log_probs[mask], atol=1e-4)


@pytest.mark.parametrize(("practice", "expected"), [(1.2, 0.9), (0.6, 0.6)])
def test_the_reference_counts_at_its_own_temperature_where_practice_is_warmer(policy_roles, practice, expected):
    _, batch = experience(policy_roles, replace(SMALL, temperature=practice, reference_temperature=0.9))
    rows, mask = torch.arange(len(PROMPTS)), batch.rollout.response_mask
    with torch.no_grad(), policy_roles.acting(None) as model:
        found, _ = response_pass(model, None, batch.rollout, rows, expected)
    assert torch.allclose(batch.reference_log_probs[mask], found[mask], atol=1e-5)
    apart = (batch.reference_log_probs[mask] - batch.rollout.log_probs[mask]).abs().max()
    assert (apart > 0.01) == (practice > expected)


def test_whichever_rows_share_a_minibatch_each_row_gives_the_same(policy_roles):
    learner, batch = experience(policy_roles)
    head = learner.head
    torch.nn.init.normal_(head.linear.weight)
    with torch.no_grad(), policy_roles.acting("policy") as model:
        together = response_pass(model, head, batch.rollout, torch.arange(4), 1.0)
        for row in range(4):
            alone = response_pass(model, head, batch.rollout, torch.tensor([row]), 1.0)
            for a, b in zip(together, alone, strict=True):
                assert torch.allclose(a[row], b[0], atol=1e-4)


def test_advantages_are_whitened_over_response_tokens_only(policy_roles):
    learner, batch = experience(policy_roles)
    mask = batch.rollout.response_mask
    assert not mask.all(), "answers of one length would prove nothing"
    _, advantages, _ = learner.estimate(batch)
    inside = advantages[mask]
    assert inside.mean().abs() < 1e-5
    assert (inside.square().mean() - 1).abs() < 1e-3
    assert (advantages[~mask] == 0).all()


def test_an_answer_without_an_end_or_without_words_pays_the_penalty(policy_roles):
    config = replace(SMALL, missing_eos_penalty=2.5)
    _, batch = experience(policy_roles, config, TokenScorer(lambda s: 0.75), prompts=PROMPTS * 40)
    finished, empty = batch.rollout.finished, batch.rollout.response_mask.sum(-1) == 1
    kinds = {"whole": finished & ~empty, "cut off": ~finished, "empty": finished & empty}
    assert all(rows.any() for rows in kinds.values()), "each kind must occur"
    assert (batch.scores[kinds["whole"]] == 0.75).all()
    # However well the scorer thought of them, they score below an average answer, which is 0.
    assert (batch.scores[kinds["cut off"]] == -2.5).all()
    assert (batch.scores[kinds["empty"]] == -2.5).all()
    # Nor is a policy that gives them chosen as the best: one token leaves no room for words and an end.
    question = [{"role": "user", "content": "w1"}]
    best = Best(policy_roles, TokenScorer(lambda s: 0.75), [question], replace(config, max_new_tokens=1))
    assert best.look() == -2.5


def test_steps_end_when_the_policy_has_moved_too_far(policy_roles):
    def steps_taken(learner, batch):
        figures = learner.learn(batch, seed=0)
        return figures, {int(state["step"]) for state in learner.steps.optimizer.state.values()}

    config = replace(SMALL, epochs=5, minibatches=2, stop_kl=0.02, learning_rate=0.05)
    figures, steps = steps_taken(*experience(policy_roles, config))
    assert figures["approximate_kl"] > config.stop_kl
    assert max(steps) < config.epochs * config.minibatches
    # With room to move, all ten steps are taken.
    _, steps = steps_taken(*experience(policy_roles, replace(config, stop_kl=1e9, learning_rate=1e-6)))
    assert steps == {10}


def test_only_the_policys_adapter_and_the_value_head_are_trained(policy_roles):
    policy_roles.add("reward", rank=4)
    before = {name: p.detach().clone() for name, p in policy_roles.peft.named_parameters()}
    train_ppo(policy_roles, TokenScorer(len), [[{"role": "user", "content": "w1"}]], replace(SMALL, updates=2))
    for name, p in policy_roles.peft.named_parameters():
        if ".policy." not in name:
            assert torch.equal(p, before[name]), name
    assert any(not torch.equal(p, before[n]) for n, p in policy_roles.peft.named_parameters() if ".policy." in n)
