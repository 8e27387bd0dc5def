"""The committed weights: small, well-formed, varied and right."""

import json

import pytest
import torch
from transformers import LlamaForCausalLM

from engine.models.find import POCKET
from engine.models.roles import Roles
from engine.pocket.build import widened
from engine.pocket.check import measure, shortcomings


def test_it_is_small_safe_and_complete():
    files = {f.name: f.stat().st_size for f in POCKET.iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md"} <= set(files)
    assert sum(files.values()) < 12e6
    assert json.loads((POCKET / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pkl", ".py"))]


@pytest.fixture(scope="module")
def found(pocket_base):
    return measure(Roles(pocket_base))


def test_its_answers_are_well_formed_varied_and_right(found):
    assert shortcomings(found) == []


def test_a_style_that_most_samples_have_is_a_shortcoming(found):
    assert shortcomings(found | {"well_formed": 0.96, "plain": 0.51}) == []
    assert shortcomings(found | {"well_formed": 0.96, "plain": 0.53}) == ["plain has the majority of samples"]


def test_every_correctness_occurs(found):
    assert all(found[name] > 0.1 for name in ("right", "wrong", "evasive"))


def test_a_wider_one_computes_what_it_did_and_can_learn():
    model = LlamaForCausalLM.from_pretrained(POCKET, dtype=torch.float32)
    inner = model.config.intermediate_size
    wider = widened(model, inner + 32, seed=0)
    ids = torch.randint(0, model.config.vocab_size, (2, 9), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(wider(ids).logits, model(ids).logits)
    wider(ids, labels=ids).loss.backward()
    for layer in wider.model.layers:
        assert layer.mlp.down_proj.weight.grad[:, inner:].abs().max() > 0
