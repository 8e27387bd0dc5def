"""Steps of sampling are the model's own, whichever of them a machine takes: lean, packed or recorded."""

import gc
import weakref
from dataclasses import replace

import pytest
import torch

from engine.methods.online import gather
from engine.methods.ppo import PPO
from engine.models import states
from engine.models.load import load_base
from engine.models.roles import Roles
from engine.sampling import packed, ways
from engine.sampling.blocks import Linears
from engine.sampling.packed import Packed
from engine.sampling.recorded import RecordedSteps
from engine.sampling.rollout import rollout
from engine.sampling.settings import Sampling
from engine.sampling.steps import LeanSteps, OwnSteps
from engine.sampling.ways import steps_of
from tests.conftest import family_model
from tests.engine.toys import CONFIG, PROMPTS, TokenScorer, shake


@pytest.fixture(params=[LeanSteps, RecordedSteps])
def kind(request, monkeypatch):
    """The kind of step that models take here where they can: a CPU's, or a GPU's without a record."""
    monkeypatch.setitem(ways.WAYS, "cpu", (request.param,))
    return request.param


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("name", "more", "lean"),
    [
        ("Llama", {}, True),
        ("Llama", {"attention_bias": True, "mlp_bias": True}, True),
        ("Qwen2", {}, True),
        ("Mistral", {"sliding_window": None}, True),
        ("Mistral", {"sliding_window": 4}, False),
        ("Granite", {"residual_multiplier": 0.5}, False),
        ("Qwen3", {"head_dim": 8}, True),
        ("SmolLM3", {}, True),
        ("SmolLM3", {"no_rope_layers": [1, 0]}, False),
        ("Ministral3", {"head_dim": 8}, False),
    ],
)
def test_lean_steps_are_the_models_own(name, more, lean, dtype, kind):
    model = family_model(name, **more).to(dtype)
    bound = 1e-4 if dtype == torch.float32 else 0.04
    ids = torch.arange(3, 15).view(3, 4)
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[1, :2] = False
    with torch.no_grad():
        first, steps = steps_of(model, ids, mask, room=6)
        own = OwnSteps(model, ids, mask)
        assert isinstance(steps, kind) == lean
        assert torch.equal(first, own.first)
        for rows in (torch.tensor([2, 2, 0, 1]), torch.tensor([1, 0, 2]), torch.tensor([2, 1])):
            steps.keep(rows)
            own.keep(rows)
            for token in (5, 40):
                tokens = torch.arange(token, token + len(rows))
                expected = own.next(tokens)
                assert (steps.next(tokens) - expected).norm() <= bound * expected.norm()


def test_a_model_that_nobody_needs_leaves_memory_though_it_has_answered(monkeypatch):
    monkeypatch.setitem(ways.WAYS, "cpu", (RecordedSteps,))
    model = family_model("Llama")
    rollout(model, PROMPTS, 0, [1, 2, 3], Sampling(max_new_tokens=8), list(range(len(PROMPTS))))
    left = weakref.ref(model)
    del model
    gc.collect()
    assert left() is None


@pytest.mark.parametrize("precision", ["float32", "bf16", "float16", "nf4"])
def test_what_was_learned_is_in_every_pass(tiny_folder, precision, kind):
    """No pass goes by weights of before a step, whatever it keeps of them."""
    roles = Roles(load_base(str(tiny_folder), precision))
    roles.add("policy", rank=4)
    config = replace(CONFIG, learning_rate=0.05, stop_kl=1e9)
    learner, asked = PPO(roles, config), [[{"role": "user", "content": "w1"}]] * len(PROMPTS)
    scorer = TokenScorer(lambda ids: float(sum(ids) % 7))
    for update in range(2):
        batch = gather(roles, None, scorer, asked, PROMPTS, list(range(len(PROMPTS))), 0.1, config)
        with torch.no_grad():
            now, _ = learner.passes(batch, torch.arange(len(PROMPTS)))
        mask = batch.rollout.response_mask
        assert (now - batch.rollout.log_probs)[mask].abs().mean() < (1e-4 if precision in ("float32", "nf4") else 0.03)
        moved = (now - batch.reference_log_probs)[mask].abs().mean()
        assert (moved > 0.3) if update else (moved < 0.03)
        learner.learn(batch, update)


def test_rollouts_by_recorded_steps_are_the_models_own(monkeypatch):
    """Rows leave, the next step begins before the last is read, and a second batch stands where the first did."""
    model, sampling, found = family_model("Llama"), Sampling(max_new_tokens=20), {}
    for name, kinds in (("own", ()), ("recorded", (RecordedSteps,))):
        monkeypatch.setitem(ways.WAYS, "cpu", kinds)
        ways._ways.clear()
        found[name] = [
            rollout(model, prompts, 0, [1, 2, 3], sampling, list(range(len(prompts))), keep_states=True)
            for prompts in (PROMPTS * 2, PROMPTS[:3], PROMPTS * 3)
        ]
    assert found["own"][0].response_mask.sum(-1).unique().numel() > 4
    for own, recorded in zip(*found.values(), strict=True):
        assert torch.equal(own.response_ids, recorded.response_ids)
        for a, b in ((own.log_probs, recorded.log_probs), (own.states, recorded.states)):
            assert torch.allclose(a, b, atol=1e-4)


@pytest.mark.parametrize("precision", ["float32", "bf16", "float16", "nf4"])
def test_lean_steps_of_a_model_with_an_adapter_are_its_own(tiny_folder, precision, kind):
    roles = Roles(load_base(str(tiny_folder), precision))
    roles.add("policy", rank=4)
    shake(roles, "policy")
    ids = torch.arange(3, 11).view(2, 4)
    bound = {"bf16": 0.03, "float16": 0.005}.get(precision, 1e-4)
    with torch.no_grad(), roles.acting("policy") as model:
        _, steps = steps_of(model, ids, torch.ones_like(ids).bool(), 2)
        assert isinstance(steps, kind)
        expected = OwnSteps(model, ids, torch.ones_like(ids).bool()).next(ids[:, 0])
        found = steps.next(ids[:, 0])
        assert torch.allclose(found, expected, atol=bound * float(expected.abs().max()))
    with torch.no_grad(), roles.acting(None) as model:
        base = steps_of(model, ids, torch.ones_like(ids).bool(), 2)[1].next(ids[:, 0])
    assert (found - base).norm() > 0.1 * base.norm()  # the adapter matters


def test_small_float32_models_are_packed_and_no_others(tiny_folder, monkeypatch):
    def kinds(precision, short=False):
        roles = Roles(load_base(str(tiny_folder), precision))
        roles.add("policy", rank=4)
        if short:
            roles.recompute()
        ids = torch.arange(3, 11).view(2, 4)
        with torch.no_grad(), roles.acting("policy") as model:
            steps = LeanSteps(OwnSteps(model, ids, torch.ones_like(ids).bool()), 2)
        return {type(part) for block in steps.blocks for part in block.linears}, steps.head is not None

    assert kinds("float32") == ({Packed}, True)
    assert kinds("bf16") == kinds("nf4") == kinds("float32", short=True) == ({Linears}, False)
    monkeypatch.setattr(packed, "PACKED_BYTES", 100)
    assert kinds("float32") == ({Linears}, False)


def test_a_packed_head_gives_the_models_logits_and_steps_aside_where_there_is_more_to_them(tiny_roles):
    model, hidden = tiny_roles.base.model, torch.randn(3, tiny_roles.width)
    with torch.no_grad():
        assert torch.allclose(packed.packed_head(model)(hidden), states.logits_of(model, hidden), atol=1e-5)
    handle = model.get_output_embeddings().register_forward_hook(lambda _, inputs, out: out + 1)  # as a shift does
    assert packed.packed_head(model) is None
    handle.remove()
    model.config.final_logit_softcapping = 2.0
    assert packed.packed_head(model) is None
