"""Pretraining against the entropy of a source that is known exactly."""

import math
import random
from itertools import islice

import pytest
import torch

from engine.errors import UserError
from engine.methods.pretrain import (
    learning_rate_at,
    make_optimizers,
    next_token_loss,
    perplexity,
    pretrain,
    token_batches,
)
from engine.methods.settings import PretrainConfig
from engine.methods.text import new_tokenizer, packed, read_texts, split
from engine.models.load import load_base
from engine.models.roles import Roles
from engine.training import mixed
from engine.training.context import Silent, Stopped
from tests.conftest import tiny_model

STAY = 0.9  # a token is followed by itself with this probability, else by the next of eight
ENTROPY = -(STAY * math.log(STAY) + (1 - STAY) * math.log(1 - STAY))  # of that, nats


def chain(seed):
    """Documents from a Markov chain over the tokens 4 to 11."""
    rng = random.Random(seed)
    while True:
        tokens = [rng.randrange(8)]
        for _ in range(rng.randrange(8, 24)):
            tokens.append(tokens[-1] if rng.random() < STAY else (tokens[-1] + 1) % 8)
        yield [4 + t for t in tokens], [1.0] * len(tokens)


@pytest.mark.parametrize("way", ["never", "always"])
def test_the_loss_reaches_the_entropy_of_the_source_and_not_below(way):
    model = tiny_model().requires_grad_(True)
    config = PretrainConfig(start="new", tokens=120_000, batch_tokens=512, learning_rate=1e-2, mixed=way)
    pretrain(model, chain(0), 0, config)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    found = math.log(perplexity(model, list(islice(chain(1), 2000)), 0))
    assert found == pytest.approx(ENTROPY, abs=0.02)


def test_a_token_without_weight_is_not_learned():
    model = tiny_model().requires_grad_(True)
    documents = ([[4, 5, 6], [1.0, 0.0, 1.0]] for _ in iter(int, 1))
    pretrain(model, documents, 0, PretrainConfig(start="new", tokens=6000, batch_tokens=120, learning_rate=3e-3))
    after_four, after_five = model(torch.tensor([[4, 5]])).logits[0].softmax(-1)
    assert after_five[6] > 0.95
    assert after_four[5] < 0.5


def test_padding_and_weights_enter_the_mean_as_they_should():
    model = tiny_model()
    long, short = [4, 5, 6, 7, 8], [9, 10]
    ids = torch.tensor([long, [*short, 0, 0, 0]])
    weights = torch.tensor([[1.0, 1, 2, 1, 1], [1, 3, 0, 0, 0]])
    expected = total = 0.0
    for row, weight in ((long, [1, 2, 1, 1]), (short, [3])):
        log_probs = torch.log_softmax(model(torch.tensor([row])).logits[0], -1)
        for t, w in enumerate(weight):
            expected -= w * float(log_probs[t, row[t + 1]].detach())
            total += w
    assert float(next_token_loss(model, ids, weights).detach()) == pytest.approx(expected / total, abs=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_mixed_precision_rounds_products_and_nothing_else(family):
    model = tiny_model(family).requires_grad_(True)
    ids = torch.tensor([[4, 5, 6, 7, 8]])
    usual = model.config._attn_implementation
    with mixed.rounded(model, True):
        logits = model(ids).logits
    exact = model(ids).logits
    assert logits.dtype == torch.bfloat16 and exact.dtype == torch.float32
    assert 0 < (logits - exact).norm() < 0.02 * exact.norm()  # bfloat16 rounds to 0.004
    assert model.config._attn_implementation == usual
    logits.float().sum().backward()
    assert {p.grad.dtype for p in model.parameters() if p.grad is not None} == {torch.float32}


def test_small_steps_are_kept_where_bfloat16_weights_would_lose_them():
    """A step of a thousandth of a weight: a hundred of them have to add up."""
    moved = {}
    for dtype in (torch.float32, torch.bfloat16):
        model = tiny_model().to(dtype).requires_grad_(True)
        before = model.lm_head.weight.detach().float().clone()
        config = PretrainConfig(
            start="full", tokens=12_000, batch_tokens=120, learning_rate=1e-6, final_learning_rate=1e-6, mixed="always"
        )
        pretrain(model, chain(0), 0, config)
        moved[dtype] = float((model.lm_head.weight.detach().float() - before).norm())
    assert moved[torch.bfloat16] < 0.2 * moved[torch.float32]


def test_every_document_comes_once_and_batches_keep_to_their_size():
    documents = [([5] * n, [1.0] * n) for n in [3, 50, 7, 7, 200, 1, 30, 90]]
    seen = []
    for ids, mask, weights in token_batches(documents, 120, 100, 0, torch.Generator().manual_seed(0)):
        assert ids.numel() <= 120
        assert torch.equal(mask, weights > 0)
        seen += mask.sum(-1).tolist()
    assert sorted(seen) == [1, 3, 7, 7, 30, 50, 90, 100]  # the longest is cut at 100


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_every_weight_has_one_optimiser_and_the_vocabulary_is_not_muons(family):
    model = tiny_model(family)
    muon, adam = (
        [id(p) for g in o.param_groups for p in g["params"]]
        for o in make_optimizers(model, PretrainConfig(start="new"))
    )
    assert sorted(muon + adam) == sorted(map(id, model.parameters()))
    tables = [m for m in model.modules() if isinstance(m, torch.nn.Embedding)]  # GPT-2 has one of positions too
    for end in (*tables, model.get_output_embeddings()):
        assert id(end.weight) in adam
    assert len(muon) >= 8


def test_the_learning_rate_warms_up_and_decays_to_its_end():
    config = PretrainConfig(start="new", learning_rate=1.0, final_learning_rate=0.1, warmup=0.1)
    assert learning_rate_at(0.0, config) == 0.0
    assert learning_rate_at(0.05, config) == pytest.approx(0.5)
    assert learning_rate_at(0.1, config) == pytest.approx(1.0)
    assert learning_rate_at(0.55, config) == pytest.approx(0.55)
    assert learning_rate_at(1.0, config) == pytest.approx(0.1)


TEXT = "\n\n".join(f"The {n} is {c} and the {c} thing is a {n}." for n in ("cat", "dog", "sun") for c in ("red", "big"))


def test_packing_leaves_nothing_out_and_nothing_empty():
    tokenizer = new_tokenizer([TEXT], 300, [])
    texts = [TEXT, "A short one.", TEXT[:70]]
    blocks = [tokens for tokens, _ in packed(tokenizer, texts, 16, None)]
    assert {len(b) for b in blocks[:-1]} == {16}
    expected = [i for t in texts for i in [*tokenizer(t)["input_ids"], tokenizer.eos_token_id]]
    assert [i for b in blocks for i in b] == expected
    again = packed(tokenizer, texts, 16, 3)
    first, second = ([b for b, _ in islice(again, 40)] for _ in range(2))
    assert first == [b for b, _ in islice(packed(tokenizer, texts, 16, 3), 40)]
    assert first != second


def test_a_tokenizer_made_here_writes_any_text():
    tokenizer = new_tokenizer([TEXT], 300, [])
    for text in (TEXT, "Größe: 日本語 \t\n  ok?", ""):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert len(tokenizer("the red thing")["input_ids"]) < len(b"the red thing")


def test_texts_are_split_so_that_something_is_measured(tmp_path):
    assert split(["a", "b", "c"], 0.05) == (["a", "b"], ["c"])
    (train,), (test,) = split([TEXT], 0.2)
    assert train + test == TEXT
    assert test.startswith("\n\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.md").write_text("second")
    (tmp_path / "a.txt").write_text("first")
    (tmp_path / "sub" / "c.txt").write_text("third")
    (tmp_path / "no.bin").write_bytes(b"\xff\x00")
    assert read_texts(str(tmp_path)) == ["first", "second", "third"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="There is no text"):
        read_texts(str(tmp_path / "empty"))
    with pytest.raises(UserError, match="cannot be read"):
        read_texts(str(tmp_path / "nowhere.txt"))


@pytest.mark.parametrize("start", ["new", "lora"])
def test_stopped_and_resumed_it_ends_as_if_never_stopped(start, tmp_path, tiny_folder):
    config = PretrainConfig(start=start, tokens=3000, batch_tokens=256)

    def trained(folder, context=None):
        roles = Roles(load_base(str(tiny_folder)))
        roles.add("policy", rank=4)
        if start == "new":
            model = tiny_model().requires_grad_(True)
            pretrain(model, chain(0), 0, config, context, folder)
            return list(model.parameters())
        with roles.acting("policy", train=True) as model:
            pretrain(model, chain(0), 0, config, context, folder)
        return roles.parameters("policy")

    class StopsAfter(Silent):
        def stage(self, name, done, total):
            if done > 1200:
                raise Stopped

    whole = trained(None)
    with pytest.raises(Stopped):
        trained(tmp_path, StopsAfter())
    assert all(torch.equal(a, b) for a, b in zip(whole, trained(tmp_path), strict=True))
