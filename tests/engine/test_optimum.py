"""PPO and the policy gradient end where the optimum is known: closed forms and dynamic programming."""

import pytest
import torch

from engine.methods.ppo import train_ppo
from engine.methods.reinforce import train_reinforce
from engine.methods.settings import PPOConfig, ReinforceConfig
from tests.engine.toys import CONVERSATION, TokenScorer, able_folder, next_token, policy_on

REWARDS = torch.rand(32, generator=torch.Generator().manual_seed(6))  # of the 32 actions of one step


def train(method, roles, scorer, updates, episodes, rate, beta=0.0, tokens=1, **more):
    common = {
        "max_new_tokens": tokens, "updates": updates, "episodes": episodes, "learning_rate": rate,
        "kl_coefficient": beta, "kl_horizon": 1e12, "missing_eos_penalty": 0.0, "improbable_penalty": 0.0,
        "reference_temperature": 1.0, "minibatches": 1, "seed": updates, **more,
    }  # fmt: skip
    if method == "ppo":
        config = PPOConfig(**{"epochs": 2, "stop_kl": 1.0, "value_clip": 10.0, **common})
        return train_ppo(roles, scorer, [CONVERSATION], config)
    return train_reinforce(roles, scorer, [CONVERSATION], ReinforceConfig(**{"samples": 8, **common}))


@pytest.mark.parametrize(
    ("method", "beta", "surer"),
    [
        *((method, beta, 1.0) for method in ("ppo", "reinforce") for beta in (0.1, 2.0)),
        *(pytest.param(method, 0.5, 1.0, marks=pytest.mark.slow) for method in ("ppo", "reinforce")),
        ("ppo", 2.0, 0.6),
    ],
)
def test_under_the_kl_penalty_the_policy_becomes_the_tilted_reference(method, beta, surer, tmp_path):
    """argmax E[r] - beta KL(pi || ref) is ref(a) exp(r(a) / beta) / Z (Ziegler et al. 2019, section 2.1); here of
    the reference at its temperature, ref(a)^(1 / surer) / Z'."""
    roles = policy_on(able_folder(tmp_path))
    rewards = REWARDS * max(1.0, 2 * beta)  # large enough that the optimum is away from the reference
    scorer = TokenScorer(lambda tokens: rewards[tokens[-1]])
    # Whitening keeps the steps as long near the optimum as far from it, so the rate falls in stages.
    for updates, episodes, rate in [(30, 256, 2e-3), (30, 512, 3e-4), (12, 1024, 6e-5)]:
        train(method, roles, scorer, updates, episodes, rate, beta, reference_temperature=surer)
    reference, found = next_token(roles, None), next_token(roles, "policy")
    optimum = (reference / surer + rewards / beta).log_softmax(-1)
    divergence = float((found.exp() * (found - optimum)).sum())
    assert divergence < 0.02, f"{divergence:.4f} nats from the optimum"
    assert float((reference.exp() * (reference - optimum)).sum()) > 0.05, "the optimum must be away from the start"


@pytest.mark.parametrize(
    ("method", "more"),
    [("ppo", {}), *(("reinforce", {"baseline": b}) for b in ("none", "mean", "leave-one-out", "group"))],
)
def test_without_the_penalty_the_best_action_is_found(method, more, tmp_path):
    roles = policy_on(able_folder(tmp_path))
    train(method, roles, TokenScorer(lambda tokens: REWARDS[tokens[-1]]), 60, 256, 5e-3, **more)
    assert next_token(roles, None).exp()[REWARDS.argmax()] < 0.05
    assert next_token(roles, "policy").exp()[REWARDS.argmax()] > 0.95


@pytest.mark.parametrize("method", ["ppo", "reinforce"])
def test_a_reward_that_comes_late_is_earned(method, tmp_path):
    """Four tokens walk a random automaton; only where it ends pays. Dynamic programming says what can be had."""
    generator = torch.Generator().manual_seed(1)
    walk = torch.randint(6, (4, 6, 4), generator=generator)  # [step, state, token's class] -> state
    pay = torch.rand(6, generator=generator)

    def value(tokens):
        state = 0
        for step, token in enumerate(tokens[-4:]):
            state = int(walk[step, state, token % 4])
        return pay[state]

    best = pay.clone()
    for step in reversed(range(4)):
        best = best[walk[step]].max(-1).values
    roles = policy_on(able_folder(tmp_path))
    start = train(method, roles, TokenScorer(value), 1, 512, 1e-9, tokens=4)["reward"]
    end = train(method, roles, TokenScorer(value), 60, 256, 3e-3, tokens=4)["reward"]
    assert start < 0.75 * best[0], "the start must leave something to learn"
    assert end >= 0.95 * best[0]
