"""Speed never by doing less: what the fast paths compute is what one plain padded pass over everything gives."""

import pytest
import torch

from engine.methods import losses
from engine.methods.online import gather
from engine.methods.ppo import PPO
from engine.methods.reward import RewardModel
from engine.methods.settings import PPOConfig
from engine.models import states
from engine.models.roles import ScalarHead
from tests.engine.toys import TokenScorer

PROMPTS = [[5, 6, 7, 8, 9, 10, 11], [4], [12, 3], [7, 7, 7, 7], [9, 4, 5], [6]]
CONFIG = PPOConfig(max_new_tokens=12, rank=4, epochs=1, minibatches=1, max_grad_norm=1e9, temperature=0.9)


def shaken(roles, role):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in roles.parameters(role):
            p.add_(0.1 * torch.randn(p.shape, generator=generator))


def padded(drawn):
    """(ids, mask, positions) of prompts padded on the left and answers on the right, in one batch."""
    ids = torch.cat([drawn.prompt_ids, drawn.response_ids], -1)
    mask = torch.cat([drawn.prompt_mask, drawn.response_mask], -1).long()
    return ids, mask, (mask.cumsum(-1) - 1).clamp_min(0)


def plain_pass(model, drawn, temperature):
    """(log-probs [rows, response time], hidden states before each response token) by the model's own forward pass."""
    ids, mask, positions = padded(drawn)
    out = model(input_ids=ids, attention_mask=mask, position_ids=positions, output_hidden_states=True, use_cache=False)
    start = drawn.prompt_ids.shape[1] - 1
    log_softmax = torch.log_softmax(out.logits[:, start:-1].float() / temperature, -1)
    return log_softmax.gather(-1, drawn.response_ids.unsqueeze(-1)).squeeze(-1), out.hidden_states[-1][:, start:-1]


@pytest.fixture(params=["side by side", "padded"])
def way(request, monkeypatch):
    """Rows as one long row, and each padded to the longest, as where attention cannot be replaced."""
    if request.param == "padded":
        monkeypatch.setattr(states, "_fits_side_by_side", lambda *_: False)
    return request.param


@pytest.fixture
def setting(family_roles, way):
    roles = family_roles
    shaken(roles, "policy")
    learner = PPO(roles, CONFIG)
    torch.nn.init.normal_(learner.head.linear.weight, std=0.3, generator=torch.Generator().manual_seed(2))
    asked = [[{"role": "user", "content": "w1"}]] * len(PROMPTS)
    scorer = TokenScorer(lambda ids: float(sum(ids) % 7))
    batch = gather(roles, None, scorer, asked, PROMPTS, list(range(len(PROMPTS))), 0.1, CONFIG)
    assert batch.rollout.response_mask.sum(-1).unique().numel() > 1  # ragged
    return roles, learner, batch


def test_log_probs_of_sampling_and_of_the_reference(setting):
    roles, _, batch = setting
    mask = batch.rollout.response_mask
    for role, fast in (("policy", batch.rollout.log_probs), (None, batch.reference_log_probs)):
        with torch.no_grad(), roles.acting(role) as model:
            plain, _ = plain_pass(model, batch.rollout, CONFIG.temperature)
        assert torch.allclose(fast[mask], plain[mask], atol=1e-4)


def test_values_and_advantages(setting):
    roles, learner, batch = setting
    mask = batch.rollout.response_mask
    values, advantages, returns = learner.estimate(batch)
    with torch.no_grad(), roles.acting("policy") as model:
        _, hidden = plain_pass(model, batch.rollout, CONFIG.temperature)
        plain = learner.head(hidden).squeeze(-1)
    assert torch.allclose(values[mask], plain[mask], atol=1e-4)
    rewards = losses.token_rewards(batch.scores, batch.token_rewards, mask)
    expected = torch.zeros_like(plain)
    for row in range(len(mask)):  # GAE by its definition: a sum of discounted errors (Schulman et al. 2015, eq. 16)
        count = int(mask[row].sum())
        for at in range(count):
            for later in range(at, count):
                after = plain[row, later + 1] if later + 1 < count else 0.0
                error = rewards[row, later] + CONFIG.gamma * after - plain[row, later]
                expected[row, at] += (CONFIG.gamma * CONFIG.lam) ** (later - at) * error
    assert torch.allclose(returns[mask], (expected + plain)[mask], atol=1e-4)
    kept = expected[mask]
    whitened = (kept - kept.mean()) / kept.std(correction=0)
    assert torch.allclose(advantages[mask], whitened, atol=1e-4)


def test_gradients_of_a_ppo_step(setting):
    roles, learner, batch = setting
    drawn, mask = batch.rollout, batch.rollout.response_mask
    # A policy that has moved since it answered, so that ratios are not all one.
    with torch.no_grad():
        for p in roles.parameters("policy"):
            p.mul_(1.05)
    values, advantages, returns = learner.estimate(batch)
    trained = roles.parameters("policy")
    with roles.acting("policy", train=True) as model:
        log_probs, hidden = plain_pass(model, drawn, CONFIG.temperature)
    loss = losses.policy_loss(log_probs, drawn.log_probs, advantages, mask, CONFIG.clip)
    fitted = learner.head(hidden).squeeze(-1)
    loss = loss + CONFIG.value_weight * losses.value_loss(fitted, values, returns, mask, CONFIG.value_clip)
    plain = torch.autograd.grad(loss, trained)
    fast = []
    learner.optimizer.register_step_pre_hook(lambda *_: fast.extend(p.grad.clone() for p in trained))
    learner.learn(batch, 0)
    assert max(float(g.abs().max()) for g in plain) > 1e-3
    for a, b in zip(fast, plain, strict=True):
        assert torch.allclose(a, b, atol=1e-4)


def test_rewards(family_roles, way):
    roles = family_roles
    roles.add("reward", rank=4)
    shaken(roles, "reward")
    head = ScalarHead(roles.width)
    torch.nn.init.normal_(head.linear.weight, generator=torch.Generator().manual_seed(3))
    reward = RewardModel(roles, [("reward", head)], mean=0.3, std=1.7)
    rows = [[*prompt, 3, 9] for prompt in PROMPTS]
    fast = reward.each(rows)
    for row, found in zip(rows, fast, strict=True):
        ids = torch.tensor([[*row, *reward.opener]])
        with torch.no_grad(), roles.acting("reward") as model:
            hidden = model(input_ids=ids, output_hidden_states=True).hidden_states[-1][:, -1]
        assert torch.allclose(found, (head(hidden)[0] - 0.3) / 1.7, atol=1e-4)


def test_rows_stand_side_by_side_wherever_attention_can_be_replaced(family_roles):
    model = family_roles.base.model
    assert states._same(model, family_roles.base.device)
    assert states._fits_side_by_side(model, 20, family_roles.base.device)


def test_a_model_that_carries_state_otherwise_is_padded():
    """A causal convolution looks across the seam between two rows, which the first look at a model finds out."""
    from transformers import MambaConfig, MambaForCausalLM

    torch.manual_seed(0)
    model = MambaForCausalLM(MambaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2)).eval()
    model.config._attn_implementation = "sdpa"
    assert not states._same(model, torch.device("cpu"))


def test_rows_longer_than_a_window_are_padded(family_roles, monkeypatch):
    config = family_roles.base.model.config.get_text_config()
    monkeypatch.setattr(config, "sliding_window", 8, raising=False)
    assert states._fits_side_by_side(family_roles.base.model, 8, family_roles.base.device)
    assert not states._fits_side_by_side(family_roles.base.model, 9, family_roles.base.device)
