"""Muon against torch's own, which rounds to bfloat16, and against what its steps are meant to be."""

import pytest
import torch

from engine.training.muon import Muon, orthogonalised

SHAPES = ((24, 64), (24, 64), (64, 24), (40, 40))


def weights_after(make, steps=3):
    """The weights after `steps` with the same gradients for whichever optimiser."""
    generator = torch.Generator().manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]
    optimizer = make(weights)
    for _ in range(steps):
        for p in weights:
            p.grad = torch.randn(p.shape, generator=generator)
        optimizer.step()
    return weights


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_steps_as_torchs_own_but_for_bfloat16s_rounding(dtype):
    ours = weights_after(lambda p: Muon(p, lr=0.05, weight_decay=0.1, dtype=dtype))
    theirs = weights_after(lambda p: torch.optim.Muon(p, lr=0.05, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"))
    before = weights_after(lambda p: Muon(p, lr=0.0))
    for mine, other, start in zip(ours, theirs, before, strict=True):
        moved = (mine - start).norm()
        assert moved > 0.1
        assert (mine - other).norm() < 0.02 * moved


@pytest.mark.parametrize("shape", [(24, 64), (64, 24), (40, 40)])
def test_its_steps_keep_directions_and_make_their_lengths_alike(shape):
    found = torch.randn(2, *shape, generator=torch.Generator().manual_seed(1))
    left, values, right = torch.linalg.svd(found, full_matrices=False)
    turned = left.mT @ orthogonalised(found) @ right.mT
    lengths = turned.diagonal(dim1=-2, dim2=-1)
    assert (turned - torch.diag_embed(lengths)).abs().max() < 1e-4  # the same singular vectors
    large = values > 0.02 * values.amax(-1, keepdim=True)
    assert large.float().mean() > 0.9
    assert lengths[large].min() > 0.6 and lengths[large].max() < 1.25


def test_it_refuses_what_is_no_matrix():
    with pytest.raises(ValueError, match="matrices"):
        Muon([torch.nn.Parameter(torch.zeros(3))], lr=0.1)
