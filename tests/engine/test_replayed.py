"""Passes as they are recorded on a GPU, here computed without a record: in rows of one size, in memory that stays."""

import gc
import weakref

import pytest
import torch

from engine.models import replayed, states
from engine.models.load import load_base
from engine.models.replayed import BEFORE, roomy
from engine.models.roles import Roles
from tests.conftest import family_model
from tests.engine.toys import shake


@pytest.fixture(autouse=True)
def on_a_gpu(monkeypatch):
    monkeypatch.setattr(replayed, "DEVICES", {"cpu"})


@pytest.fixture
def roles(tiny_folder):
    return roles_of(tiny_folder)


def roles_of(folder):
    roles = Roles(load_base(str(folder)))
    for i, role in enumerate(("policy", "value")):
        roles.add(role, rank=4, seed=i)
        shake(roles, role)
    return roles


@pytest.fixture
def plays(monkeypatch):
    """The sizes of the passes that are played, in order."""
    found, play = [], replayed.Pass.play

    def counted(self, work):
        found.append(tuple(self.layout.groups[0].shape))
        return play(self, work)

    monkeypatch.setattr(replayed.Pass, "play", counted)
    return found


def batch(width, seed):
    ids = torch.randint(3, 30, (5, width), generator=torch.Generator().manual_seed(seed))
    ids[1, :4] = ids[0, :4]
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[2, width // 2 :] = False
    mask[3, :3] = False
    return ids, mask


def loss_of(roles, role, ids, mask, way=states.real_states):
    with roles.acting(role, train=True) as model:
        found = way(model, ids, mask, mask)
        return (found.square() * torch.linspace(-1, 1, found.shape[-1])).sum()


def test_a_pass_takes_shorter_rows_and_weights_that_changed(roles, plays):
    trained = roles.parameters("policy")
    for i, width in enumerate((30, 29, 28, 27, 30)):
        rows = batch(width, i)
        fast, plain = (loss_of(roles, "policy", *rows, way=way) for way in (states.real_states, states._padded))
        gradients = [torch.autograd.grad(loss, trained) for loss in (fast, plain)]
        assert torch.allclose(fast, plain, rtol=1e-4)
        for a, b in zip(*gradients, strict=True):
            assert torch.allclose(a, b, atol=1e-4 * float(b.abs().max()))
        shake(roles, "policy", 0.1)
    assert plays == [(5, 32)] * (5 - BEFORE)


def test_gradients_add_up_over_parts(roles, plays):
    trained = roles.parameters("policy")
    parts = [batch(width, seed) for seed, width in enumerate((30, 30, 30, 50, 50, 50, 30))]
    expected = torch.autograd.grad(sum(loss_of(roles, "policy", *rows, way=states._padded) for rows in parts), trained)
    for rows in parts:
        loss_of(roles, "policy", *rows).backward()
    assert plays == [(5, 32), (5, 64), (5, 32)]
    for p, gradient in zip(trained, expected, strict=True):
        assert torch.allclose(p.grad, gradient, atol=1e-4 * float(gradient.abs().max()))


def test_a_pass_that_has_not_gone_back_is_not_overwritten(roles, plays):
    rows, trained = batch(30, 0), [*roles.parameters("policy"), *roles.parameters("value")]
    for role in ("policy", "value") * BEFORE:
        loss_of(roles, role, *rows)
    losses = [
        sum(loss_of(roles, role, *batch(30, seed), way=way) for seed in (1, 2) for role in ("policy", "value"))
        for way in (states._padded, states.real_states)
    ]
    assert len(plays) == 1  # of four; the others would lie where it keeps what it needs for its way back
    with torch.no_grad(), roles.acting(None) as model:  # goes nowhere, and so never in the way
        for _ in range(BEFORE + 1):
            states.real_states(model, *rows)
    assert len(plays) == 2
    plain, fast = (torch.autograd.grad(loss, trained, retain_graph=True) for loss in losses)
    for a, b in zip(fast, plain, strict=True):
        assert torch.allclose(a, b, atol=1e-4 * float(b.abs().max()))
    with pytest.raises(RuntimeError, match="only once"):
        torch.autograd.grad(losses[1], trained)


def test_other_leaves_are_the_same_weights(roles):
    """What a record's gradients are taken of, so that no loss of before that is still held is in its way."""
    rows, trained = batch(30, 0), roles.parameters("policy")
    plain = torch.autograd.grad(loss_of(roles, "policy", *rows, way=states._padded), trained)
    model = roles.base.model
    with replayed._leaves(model, trained) as leaves:
        assert roles.parameters("policy")[0] is trained[0] is not leaves[0]
        found = torch.autograd.grad(loss_of(roles, "policy", *rows, way=states._padded), leaves)
    assert all(torch.equal(a, b) for a, b in zip(found, plain, strict=True))
    assert all(a is b for a, b in zip(trained, (p for p in model.parameters() if p.requires_grad), strict=True))


def test_weights_that_moved_are_recorded_anew(roles, plays):
    rows, layer = batch(30, 0), roles.base.model.get_decoder().layers[0].self_attn.q_proj.base_layer
    for _ in range(BEFORE + 1):
        loss_of(roles, "policy", *rows)
    layer.weight.data = 2 * layer.weight.data
    moved = loss_of(roles, "policy", *rows)
    assert torch.allclose(moved, loss_of(roles, "policy", *rows, way=states._padded), rtol=1e-4)
    assert len(plays) == 1


def test_weights_below_the_adapters_that_learn_are_left_to_plain_passes(plays):
    model = family_model("Llama")
    for _ in range(BEFORE + 1):
        states.real_states(model, *batch(30, 0)).sum().backward()
    assert not plays
    assert model.get_decoder().layers[0].self_attn.q_proj.weight.grad.abs().max() > 0


def test_a_model_that_nobody_needs_leaves_memory_though_it_has_learned(tiny_folder, plays):
    roles = roles_of(tiny_folder)
    for _ in range(BEFORE + 1):
        loss_of(roles, "policy", *batch(30, 0)).backward()
    assert plays
    left = weakref.ref(roles.base.model)
    del roles
    gc.collect()
    assert left() is None


def test_few_sizes_at_most_a_quarter_larger():
    sizes = [roomy(n) for n in range(1, 5000)]
    assert all(n <= size <= max(n * 1.25, n + 16) for n, size in enumerate(sizes, 1))
    assert len(set(sizes)) < 40
