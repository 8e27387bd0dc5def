"""The precision that a machine is fastest in is found by trying, and remembered."""

import dataclasses
import os
import subprocess
import sys

import pytest
import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from engine.models import precision as precisions
from engine.models.attention import IN_FLOAT32, fastest
from engine.models.load import load_base
from engine.models.shape import KNOWN, Shape, shape_of

LARGE = KNOWN["Qwen2.5-0.5B"]
NARROW = Shape(1000, 2, 96, 96, 128, 32, 100)


def test_a_block_is_tried_in_every_precision_and_remembered(cache):
    assert precisions.known(NARROW, "cpu") == {}
    found = precisions.measured(NARROW, "cpu")
    assert list(found) == ["float32", "bf16"] and all(0 < seconds < 10 for seconds in found.values())
    assert precisions.known(NARROW, "cpu") == found
    assert precisions.known(LARGE, "cpu") == {}  # of another shape nothing is known


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({}, "float32"),
        ({"float32": 1.0, "bf16": 20.0}, "float32"),
        ({"float32": 1.0, "bf16": 0.9}, "float32"),  # for so little the usual one is not left
        ({"float32": 1.0, "bf16": 0.5}, "bf16"),
    ],
)
def test_the_usual_precision_is_left_where_another_is_much_faster(seconds, expected, cache):
    if seconds:
        precisions.remember(LARGE, "cpu", seconds)
    assert precisions.fastest(LARGE, "cpu") == expected
    assert precisions.fastest(dataclasses.replace(LARGE, parameters=2_000_000), "cpu") == "float32"
    assert precisions.fastest(None, "cpu") == "float32" and precisions.fastest(None, "cuda") == "bf16"


def test_what_was_remembered_badly_is_tried_anew(cache):
    cache.mkdir()
    (cache / "precision.json").write_text("{half a fi")
    assert precisions.fastest(LARGE, "cpu") == "float32"
    assert precisions.measured(NARROW, "cpu") == precisions.known(NARROW, "cpu") != {}


def test_a_large_model_is_loaded_in_what_was_found_fastest_and_nf4_computes_in_it(tiny_folder, cache, monkeypatch):
    monkeypatch.setattr(precisions, "SMALL", 0)
    precisions.remember(shape_of(tiny_folder), "cpu", {"float32": 1.0, "bf16": 0.5})
    assert load_base(str(tiny_folder)).precision == "bf16"
    packed = load_base(str(tiny_folder), "nf4")
    assert packed.precision == "nf4" and packed.model.dtype == torch.bfloat16
    assert load_base(str(tiny_folder), "float32").model.dtype == torch.float32


@pytest.mark.parametrize(("tokens", "grad", "exact"), [(8, True, True), (8, False, False), (400, True, False)])
def test_short_rows_in_bf16_attend_in_float32_where_they_are_learned_from(tokens, grad, exact):
    torch.manual_seed(0)
    rounded = [torch.randn(2, 3, tokens, 64, dtype=torch.bfloat16, requires_grad=True) for _ in range(3)]
    module = torch.nn.Module()

    def answers(attend, q, k, v):
        """What comes of it, and where there is one q's gradient."""
        with torch.set_grad_enabled(grad):
            out, _ = attend(module, q, k, v, None, is_causal=True)
        found = [out]
        if grad:
            found += torch.autograd.grad(out.float().square().sum(), q)
        return [one.detach().float() for one in found]

    def error(found, true):
        return max(float((a - b).norm() / b.norm()) for a, b in zip(found, true, strict=True))

    with torch.set_grad_enabled(grad):
        chosen = fastest(rounded[0], tokens)
        assert fastest(rounded[0].float(), tokens) is ALL_ATTENTION_FUNCTIONS["sdpa"]
    assert (chosen is ALL_ATTENTION_FUNCTIONS[IN_FLOAT32]) == exact
    true = answers(ALL_ATTENTION_FUNCTIONS["sdpa"], *(x.detach().float().requires_grad_() for x in rounded))
    assert error(answers(chosen, *rounded), true) < 0.01


GROWTH = """
import engine  # which bounds what is kept
import psutil, torch
x, w = torch.ones(4000, 256, dtype=torch.bfloat16), torch.ones(256, 256, dtype=torch.bfloat16)
def after(start, end):
    for rows in range(start, end):
        x[:rows] @ w
    return psutil.Process().memory_info().rss
print(-after(1000, 1100) + after(1100, 1700))
"""


def test_batches_of_many_lengths_in_bf16_leave_nothing_behind():
    """oneDNN and torch keep what they made for a shape; with as many as they would, a run grows by gigabytes."""

    def growth(**environment):
        clean = {k: v for k, v in os.environ.items() if "CACHE_CAPACITY" not in k}
        done = subprocess.run(
            [sys.executable, "-c", GROWTH], capture_output=True, text=True, env={**clean, **environment}, check=True
        )
        return int(done.stdout)

    unbounded = growth(LRU_CACHE_CAPACITY="1024", ONEDNN_PRIMITIVE_CACHE_CAPACITY="1024")
    if unbounded < 20e6:
        pytest.skip("this CPU keeps nothing for each shape in bf16")
    assert growth() < unbounded / 5
