"""What the tests share: tiny models built on the spot, and the pocket model."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if "STUDIO_TEST_GPU" not in os.environ:  # what is tested on a CPU is the same on every machine; tests/gpu has the rest
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
if "PYTEST_XDIST_WORKER" in os.environ:  # each core has a worker of its own already
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

import engine
from engine.models import precision as precisions
from engine.models.load import load_base
from engine.models.roles import Roles

WORDS = [f"w{i}" for i in range(28)]


def tiny_tokenizer(pad: bool = True) -> PreTrainedTokenizerFast:
    """A word-level tokenizer of 32 tokens; without `pad` it names no pad token."""
    vocabulary = {token: i for i, token in enumerate(["<pad>", "</s>", "<unk>", ":", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["<pad>", "</s>"])
    extra = {"pad_token": "<pad>"} if pad else {}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>", **extra)


def tiny_model(family: str = "llama", seed: int = 0):
    """A randomly initialised causal LM with 32 tokens and sharp enough logits to be worth comparing."""
    torch.manual_seed(seed)
    if family == "gpt2":
        config = GPT2Config(
            vocab_size=32, n_embd=32, n_layer=2, n_head=4, n_positions=128, eos_token_id=1, bos_token_id=None
        )
        model = GPT2LMHeadModel(config)
    elif family == "mixture":
        config = Qwen3MoeConfig(
            vocab_size=32, hidden_size=32, moe_intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, head_dim=8, num_experts=4, num_experts_per_tok=2, max_position_embeddings=128,
            eos_token_id=1, bos_token_id=None, pad_token_id=0,
        )  # fmt: skip
        model = Qwen3MoeForCausalLM(config)
    else:
        config = LlamaConfig(
            vocab_size=32, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=128, eos_token_id=1, bos_token_id=None, pad_token_id=0,
        )  # fmt: skip
        model = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.mul_(6)
    return model.eval()


def family_model(name: str, **more):
    """A random model of one of the families of transformers, its logits sharp and its biases not 0."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=2, **more,
    )  # fmt: skip
    model = getattr(transformers, f"{name.removesuffix('Text')}ForCausalLM")(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(6) if p.dim() > 1 else p.add_(0.3)
    return model


@pytest.fixture
def tiny_folder(tmp_path):
    """A tiny Llama on disk, with a tokenizer that has no pad token and no chat template."""
    folder = tmp_path / "tiny"
    tiny_model().save_pretrained(folder)
    tiny_tokenizer(pad=False).save_pretrained(folder)
    return folder


@pytest.fixture
def tiny_roles(tiny_folder):
    return Roles(load_base(str(tiny_folder)))


@pytest.fixture(params=["llama", "gpt2", "mixture"])
def family_roles(request, tmp_path):
    """A tiny Llama, a GPT-2, which has dropout 0.1 in its configuration, and a Qwen 3 with experts."""
    tiny_model(request.param).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    roles = Roles(load_base(str(tmp_path)))
    roles.add("policy", rank=4)
    return roles


@pytest.fixture(scope="session")
def pocket_base():
    """The built-in model. Tests that add adapters take `pocket_roles`, which has a copy of its own."""
    return load_base("pocket")


@pytest.fixture
def pocket_roles():
    return Roles(load_base("pocket"))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache folder of the test's own: nothing is known of this machine yet."""
    monkeypatch.setattr(precisions, "user_cache_path", lambda name: tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def workspace(tmp_path):
    return engine.open_workspace(tmp_path / "workspace")


@pytest.fixture
def store(workspace):
    opened = engine.Store(workspace.database)
    yield opened
    opened.close()


@pytest.fixture
def base_version(store):
    path = engine.find_base("pocket")
    return engine.versions.ensure_base(store, str(path), engine.fingerprint(path), "pocket")
