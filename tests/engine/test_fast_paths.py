"""Speed never by doing less: what the fast paths compute is what one plain padded pass over everything gives."""

import math

import pytest
import torch
from transformers import MambaConfig, MambaForCausalLM

from engine.errors import UserError
from engine.methods import losses
from engine.methods.online import gather
from engine.methods.ppo import PPO
from engine.methods.reward import RewardModel
from engine.models import replayed, states
from engine.models.heads import RewardHead
from engine.models.layout import lay_out
from engine.models.load import load_base
from engine.models.roles import Roles
from engine.models.token_log_probs import token_log_probs
from engine.sampling.rollout import rollout
from engine.sampling.settings import Sampling
from engine.sampling.ways import check
from engine.training.passes import Encoded, response_pass
from tests.conftest import family_model, tiny_tokenizer
from tests.engine.toys import CONFIG, PROMPTS, TokenScorer, shake


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


@pytest.fixture(params=["side by side", "played", "padded"])
def way(request, monkeypatch):
    """Rows as one long row, as they are or in one of a size that is recorded on a GPU; and each padded to the longest,
    as where attention cannot be replaced."""
    if request.param == "padded":
        monkeypatch.setattr(states, "_fits_side_by_side", lambda *_: False)
    if request.param == "played":
        monkeypatch.setattr(replayed, "DEVICES", {"cpu"})
        monkeypatch.setattr(replayed, "BEFORE", 0)
    return request.param


@pytest.fixture
def setting(family_roles, way):
    roles = family_roles
    shake(roles, "policy")
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
    learner.steps.optimizer.register_step_pre_hook(lambda *_: fast.extend(p.grad.clone() for p in trained))
    learner.learn(batch, 0)
    assert max(float(g.abs().max()) for g in plain) > 1e-3
    for a, b in zip(fast, plain, strict=True):
        assert torch.allclose(a, b, atol=1e-4)


def test_rewards(family_roles, way):
    roles = family_roles
    roles.add("reward", rank=4)
    shake(roles, "reward")
    head = RewardHead(roles.width, gates=3, scale=0.3)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(3))
    reward = RewardModel(roles, [("reward", head)], mean=0.3, std=1.7)
    fast = reward.each([Encoded(prompt, [3, 9]) for prompt in PROMPTS])
    for prompt, found in zip(PROMPTS, fast, strict=True):
        ids = torch.tensor([[*prompt, 3, 9, *reward.opener]])
        with torch.no_grad(), roles.acting("reward") as model:
            hidden = model(input_ids=ids, output_hidden_states=True).hidden_states[-1][0]
        question, after = hidden[len(prompt) - 1], hidden[-1]
        gates = torch.tanh(head.asked @ (question / question.square().mean().sqrt()))
        length = 192**0.5 * math.log(2 / 16)
        seen = torch.cat([0.3 * after, torch.tensor([length])])
        score = (head.weight[0] + gates @ head.turned[0]) @ seen + head.bias[0]
        assert torch.allclose(found, (score - 0.3) / 1.7, rtol=1e-4, atol=1e-4)


def test_rows_stand_side_by_side_wherever_attention_can_be_replaced(family_roles):
    model = family_roles.base.model
    assert states._same(model, family_roles.base.device)
    assert states._fits_side_by_side(model, 20, family_roles.base.device)


def test_a_model_that_carries_state_otherwise_is_padded():
    """A causal convolution looks across the seam between two rows, which the first look at a model finds out."""
    torch.manual_seed(0)
    model = MambaForCausalLM(MambaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2)).eval()
    model.config._attn_implementation = "sdpa"
    assert not states._same(model, torch.device("cpu"))


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("Lfm2", {"layer_types": ["conv", "full_attention"]}),
        ("Qwen3Next", {
            "head_dim": 8, "full_attention_interval": 2, "linear_num_key_heads": 2, "linear_num_value_heads": 2,
            "linear_key_head_dim": 8, "linear_value_head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2,
            "moe_intermediate_size": 24,
        }),
        ("NemotronH", {
            "layers_block_type": ["mamba", "attention"], "head_dim": 8, "mamba_num_heads": 8, "mamba_head_dim": 8,
            "ssm_state_size": 8, "n_groups": 1,
        }),
        ("GptOss", {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2}),
        ("Phimoe", {"num_local_experts": 4}),
    ],
)  # fmt: skip
def test_log_probs_of_families_that_keep_more_than_keys_or_choose_among_experts(name, more, tmp_path):
    """Of each answer for itself, without padding, by the model's own pass."""
    family_model(name, **more).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    roles = Roles(load_base(str(tmp_path)))
    roles.add("policy", rank=4)
    shake(roles, "policy")
    with torch.no_grad(), roles.acting("policy") as model:
        drawn = rollout(model, PROMPTS, 0, [2, *range(20, 30)], Sampling(max_new_tokens=12), list(range(len(PROMPTS))))
    lengths = drawn.response_mask.sum(-1)
    assert lengths.unique().numel() > 1  # rows left the batch
    with torch.no_grad(), roles.acting("policy") as model:
        passed, _ = response_pass(model, None, drawn, torch.arange(len(PROMPTS)), 1.0)
        for row, prompt in enumerate(PROMPTS):
            ids = drawn.tokens(row)
            logits = model(input_ids=torch.tensor([prompt + ids]), use_cache=False).logits[0, len(prompt) - 1 : -1]
            plain = torch.log_softmax(logits.float(), -1)[torch.arange(len(ids)), ids]
            for found in (drawn.log_probs, passed):
                assert torch.allclose(found[row, : len(ids)], plain, atol=1e-4)


@pytest.mark.parametrize(
    "model",
    [
        lambda: MambaForCausalLM(MambaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2)),
        lambda: family_model("Llama4Text", head_dim=8, num_local_experts=2),  # its decoder gives logits, not states
    ],
)
def test_a_model_that_writes_otherwise_than_it_reads_is_refused(model):
    with pytest.raises(UserError, match="cannot be used"):
        check(model().eval())


def test_rows_longer_than_a_window_are_padded(family_roles, monkeypatch):
    config = family_roles.base.model.config.get_text_config()
    monkeypatch.setattr(config, "sliding_window", 8, raising=False)
    assert states._fits_side_by_side(family_roles.base.model, 8, family_roles.base.device)
    assert not states._fits_side_by_side(family_roles.base.model, 9, family_roles.base.device)


def rows_of(lists, width=9):
    """(ids, mask) [rows, time] with some rows padded on the left and some on the right."""
    ids = torch.zeros(len(lists), width, dtype=torch.long)
    mask = torch.zeros_like(ids, dtype=torch.bool)
    for i, row in enumerate(lists):
        start = 0 if i % 2 else width - len(row)
        ids[i, start : start + len(row)] = torch.tensor(row)
        mask[i, start : start + len(row)] = True
    return ids, mask


ALIKE = [[5, 6, 7, 8], [5, 6, 9], [4, 6, 7], [5, 6, 7, 8, 9, 3], [5], [5, 6, 7, 8], [12, 3, 3, 3, 3, 3, 4], [4, 6]]


def test_what_rows_begin_alike_with_is_laid_out_once():
    layout = lay_out(*rows_of(ALIKE))
    beginnings = {tuple(row[: i + 1]) for row in ALIKE for i in range(len(row))}
    assert len(layout.ids) == len(beginnings) < sum(map(len, ALIKE))
    _, mask = rows_of(ALIKE)
    for row, nodes, kept in zip(ALIKE, layout.nodes, mask, strict=True):
        assert layout.ids[nodes[kept]].tolist() == row
        assert layout.positions[nodes[kept]].tolist() == list(range(len(row)))
    sources = torch.cat([group.flatten() for group in layout.groups])
    assert sources[layout.cells].tolist() == list(range(len(layout.ids)))  # where attention's result is picked up


def test_states_and_gradients_of_rows_that_begin_alike(family_roles):
    roles = family_roles
    shake(roles, "policy")
    ids, mask = rows_of(ALIKE)
    wanted = mask & (torch.rand(mask.shape, generator=torch.Generator().manual_seed(4)) < 0.4)
    trained = roles.parameters("policy")
    with roles.acting("policy", train=True) as model:
        found = states.real_states(model, ids, mask, wanted)
        plain = states._padded(model, ids, mask, wanted)
        weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(5))
        gradients = [torch.autograd.grad((weights * x.square()).sum(), trained) for x in (found, plain)]
    assert torch.allclose(found, plain, atol=1e-4)
    scale = max(float(g.abs().max()) for g in gradients[1])
    for a, b in zip(*gradients, strict=True):
        assert torch.allclose(a, b, atol=1e-5 * max(scale, 1))


@pytest.mark.parametrize(("temperature", "at_a_time"), [(1.0, 1 << 25), (0.7, 1 << 25), (0.7, 150), (1.0, 1)])
def test_token_log_probs_and_their_gradient(family_roles, temperature, at_a_time, monkeypatch):
    monkeypatch.setattr("engine.models.token_log_probs.LOGITS", at_a_time)
    model = family_roles.base.model
    family_roles.base.model.get_output_embeddings().requires_grad_(False)
    hidden = torch.randn(6, family_roles.width, requires_grad=True)
    ids = torch.tensor([3, 1, 0, 31, 7, 7])
    weights = torch.tensor([1.0, -2.0, 0.5, 0.0, 3.0, 1.0])
    fast = token_log_probs(model, hidden, ids, temperature)
    assert type(fast.grad_fn).__name__ == "_LogProbsBackward"
    plain = torch.log_softmax(model.get_output_embeddings()(hidden) / temperature, -1)[torch.arange(6), ids]
    assert torch.allclose(fast, plain, atol=1e-5)
    fast_gradient, gradient = (torch.autograd.grad((weights * x).sum(), hidden)[0] for x in (fast, plain))
    assert torch.allclose(fast_gradient, gradient, atol=1e-5 * float(gradient.abs().max()))


def test_log_probs_of_improbable_tokens_stay_finite(tiny_roles):
    tiny_roles.add("policy")
    hidden = 1e3 * torch.randn(4, tiny_roles.width)
    logits = tiny_roles.base.model.get_output_embeddings()(hidden)
    least = logits.argmin(-1)
    found = token_log_probs(tiny_roles.base.model, hidden, least)
    assert torch.isfinite(found).all()
    assert torch.allclose(found, torch.log_softmax(logits, -1)[torch.arange(4), least])


@pytest.mark.parametrize("way", ["side by side", "padded"], indirect=True)  # played passes keep all there is
def test_blocks_computed_again_on_the_way_back_give_the_same_gradients(family_roles, way):
    family_roles.add("value", rank=4, seed=1)
    for role in ("policy", "value"):
        shake(family_roles, role)
    weights = [*family_roles.parameters("policy"), *family_roles.parameters("value")]
    ids = torch.tensor([[5, 6, 7, 8], [5, 6, 9, 9]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]], dtype=torch.bool)
    states.real_states(family_roles.base.model, ids, mask)  # tries once which way can be gone
    calls = []
    handles = [m.register_forward_hook(lambda *_: calls.append(1)) for m in family_roles._layers]
    found = []
    for again in (False, True):
        if again:
            family_roles.recompute()
        calls.clear()
        loss = 0.0
        for role in ("policy", "value"):  # each is computed again as itself, whoever acted last
            with family_roles.acting(role, train=True) as model:
                loss = loss + states.real_states(model, ids, mask).square().sum()
        with torch.no_grad(), family_roles.acting(None) as model:
            states.real_states(model, ids, mask)
        gradients = torch.autograd.grad(loss, weights)
        found.append((len(calls), loss.detach(), *gradients))
    for handle in handles:
        handle.remove()
    (once, *kept), (twice, *recomputed) = found
    assert 1.4 * once < twice <= 1.67 * once  # of three passes, the two with gradients twice, up to what none needs
    assert all(torch.equal(a, b) for a, b in zip(kept, recomputed, strict=True))
