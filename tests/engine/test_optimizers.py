"""AdamW in float32 and with moments in 8 bits."""

import pytest
import torch

from engine.training import checkpoint
from engine.training.optimizers import adamw

KINDS = ("adamw", "adamw-8bit")


def problem(kind):
    """A quadratic whose minimum is known, with enough numbers to be quantised, and its optimiser."""
    target = torch.randn(8192, generator=torch.Generator().manual_seed(0))
    weights = torch.nn.Parameter(torch.zeros(8192))
    optimizer = adamw([{"params": [weights], "lr": 0.02}], kind)

    def step():
        optimizer.zero_grad()
        (weights - target).square().sum().backward()
        optimizer.step()

    return target, weights, optimizer, step


@pytest.mark.parametrize("kind", KINDS)
def test_it_finds_the_minimum(kind):
    target, weights, optimizer, step = problem(kind)
    for _ in range(400):
        step()
    assert (weights - target).norm() < 0.02 * target.norm()
    moments = [v for v in optimizer.state[weights].values() if torch.is_tensor(v) and v.shape == weights.shape]
    assert [m.element_size() for m in moments] == [4 if kind == "adamw" else 1] * 2


@pytest.mark.parametrize("kind", KINDS)
def test_taken_up_from_a_checkpoint_it_goes_on_as_if_never_stopped(kind, tmp_path):
    _, straight, _, step = problem(kind)
    for _ in range(8):
        step()
    _, _, optimizer, step = problem(kind)
    for _ in range(5):
        step()
    checkpoint.save(tmp_path, [optimizer], step=5)
    _, resumed, optimizer, step = problem(kind)
    assert checkpoint.load(tmp_path, [optimizer]) == {"step": 5}
    for _ in range(3):
        step()
    assert torch.equal(resumed, straight)
