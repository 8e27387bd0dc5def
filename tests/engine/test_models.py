"""Loading bases, precisions, roles and heads."""

import json
import shutil

import bitsandbytes
import pytest
import torch
from peft.tuners.lora import Linear
from safetensors.torch import load_file, save_file
from transformers import Gemma3Config, Gemma3ForConditionalGeneration

from engine.errors import UserError
from engine.models.chat import encode_prompt
from engine.models.find import find_base, fingerprint
from engine.models.heads import RewardHead
from engine.models.load import DTYPES, load_base
from engine.models.lora import lean
from engine.models.norms import fuse_norms
from engine.models.roles import Roles
from engine.models.states import logits_of, real_states, states_at
from engine.sampling.answers import answer
from engine.sampling.settings import Sampling
from tests.conftest import family_model, tiny_tokenizer
from tests.engine.toys import shake

IDS = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])


def plain_logits(model):
    with torch.no_grad():
        return model(IDS).logits


def test_a_base_without_pad_token_and_template_can_chat(tiny_folder):
    base = load_base(str(tiny_folder))
    assert base.tokenizer.pad_token_id == base.tokenizer.eos_token_id
    ids = encode_prompt(base.tokenizer, [{"role": "user", "content": "w1 w2"}])
    assert base.tokenizer.convert_tokens_to_ids("w2") in ids


def test_a_prompt_longer_than_the_context_is_refused_in_words(pocket_base):
    with pytest.raises(UserError, match="tokens long"):
        encode_prompt(pocket_base.tokenizer, [{"role": "user", "content": "why " * 600}], room=96)


def test_roles_share_the_base_and_leave_it_untouched(tiny_folder):
    untouched = plain_logits(load_base(str(tiny_folder)).model)
    roles = Roles(load_base(str(tiny_folder)))
    roles.add("policy")
    roles.add("reward", seed=1)
    shake(roles, "policy")
    shake(roles, "reward")
    found = {}
    for role in (None, "policy", "reward", None, "policy"):
        with roles.acting(role) as model:
            logits = plain_logits(model)
        if role in found:
            assert torch.equal(found[role], logits)
        found[role] = logits
    assert torch.equal(found[None], untouched)  # bit for bit
    assert not torch.allclose(found["policy"], untouched)
    assert not torch.allclose(found["policy"], found["reward"])


def test_a_round_may_begin_with_a_larger_rank_than_the_last(family_roles):
    roles = family_roles
    shake(roles, "policy")
    for role, rank in (("same", 4), ("larger", 6)):
        roles.add(role, rank=rank, seed=9)
        if rank > 4 and roles.base.model.config.model_type == "qwen3_moe":
            with pytest.raises(UserError, match="rank 4"):
                roles.copy("policy", role)
            continue
        roles.copy("policy", role)
        states = []
        for each in ("policy", role):
            with roles.acting(each) as model, torch.no_grad():
                states.append(model(torch.arange(4, 12).unsqueeze(0)).logits)
        assert torch.allclose(*states, atol=1e-5)
    roles.add("smaller", rank=2)
    with pytest.raises(UserError, match="rank 4"):
        roles.copy("policy", "smaller")


def test_only_the_acting_role_learns(tiny_roles):
    tiny_roles.add("policy")
    tiny_roles.add("reward")
    with tiny_roles.acting("policy", train=True) as model:
        model(IDS).logits.square().mean().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in tiny_roles.parameters("policy"))
    assert all(p.grad is None for p in tiny_roles.parameters("reward"))
    others = [p for n, p in tiny_roles.peft.named_parameters() if "lora" not in n]
    assert all(p.grad is None for p in others)


def test_states_and_logits_of_real_tokens_ignore_padding_on_either_side(tiny_roles):
    row = torch.tensor([[5, 6, 7]])
    with tiny_roles.acting(None) as model:
        bare = model(row).logits[0]
        for left, right in ((0, 0), (2, 0), (0, 2), (1, 3)):
            ids = torch.nn.functional.pad(row, (left, right))
            mask = torch.nn.functional.pad(torch.ones_like(row), (left, right)).bool()
            assert torch.allclose(logits_of(model, real_states(model, ids, mask)), bare, atol=1e-5)


def test_states_keep_the_order_of_tokens_in_rows_of_any_length(tiny_roles):
    lengths = [3, 12, 5, 11, 2]
    mask = torch.arange(12) < torch.tensor(lengths).unsqueeze(-1)
    vocabulary = tiny_roles.base.model.config.vocab_size
    ids = torch.randint(vocabulary, mask.shape, generator=torch.Generator().manual_seed(1))
    with tiny_roles.acting(None) as model:
        alone = torch.cat([real_states(model, ids[i : i + 1], mask[i : i + 1]) for i in range(5)])
        assert torch.allclose(real_states(model, ids, mask), alone, atol=1e-5)
        starts = torch.tensor([0, *lengths[:-1]]).cumsum(0)
        places = torch.tensor([[n - 1, 0, n // 2, n - 1] for n in lengths])  # in any order, and one of them twice
        found = states_at(model, ids, mask, places)
        assert torch.allclose(found, alone[starts.unsqueeze(-1) + places], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("Qwen2", {}),
        ("Qwen3", {"head_dim": 8}),
        ("Gemma2", {"head_dim": 8, "final_logit_softcapping": 1.0}),
        ("Gemma3Text", {"head_dim": 8}),
        ("Cohere", {"logit_scale": 0.5}),
        ("Granite", {"logits_scaling": 3.0}),
    ],
)
def test_states_and_logits_of_other_families(name, more):
    model = family_model(name, **more)
    with torch.no_grad():
        mask = torch.tensor([[False, True, True, True, True], [True, True, True, False, False]])
        ids = torch.arange(3, 13).view(2, 5)
        plain = torch.cat([model(ids[i : i + 1, mask[i]]).logits[0] for i in range(2)])
        assert torch.allclose(logits_of(model, real_states(model, ids, mask)), plain, atol=1e-4)


@pytest.mark.parametrize(("family", "fused"), [("Llama", 5), ("Qwen3", 9), ("Gemma2", 0), ("OPT", 0)])
def test_norms_are_fused_where_it_is_the_same(family, fused):
    model = family_model(family, **({"head_dim": 8} if family != "OPT" else {"ffn_dim": 48, "word_embed_proj_dim": 32}))
    before = plain_logits(model)
    fuse_norms(model)
    assert torch.allclose(plain_logits(model), before, atol=1e-4)
    kinds = [type(m) for m in model.modules()]
    assert sum(kind.__name__.endswith("RMSNorm") and kind.__qualname__.endswith("Fused") for kind in kinds) == fused


def test_a_lean_adapter_computes_what_pefts_own_does(family_roles):
    family_roles.add("other", rank=4, seed=1)
    shake(family_roles, "policy")
    shake(family_roles, "other")
    found = []
    for fast in (True, False):
        for layer in family_roles._layers:
            if not fast and type(layer) is lean(Linear):
                layer.__class__ = Linear
        with family_roles.acting("policy", train=True) as model:
            logits = model(IDS).logits
        weights = family_roles.parameters("policy")
        found.append([logits.detach(), *torch.autograd.grad(logits.square().sum(), weights)])
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize(
    ("family", "precision"), [("Llama", "float32"), ("Llama", "bf16"), ("Llama", "nf4"), ("Gemma2", "float32")]
)
def test_a_gated_mlp_keeps_two_wide_tensors_for_four_and_gives_the_usual_gradients(family, precision, tmp_path):
    family_model(family, head_dim=8).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    roles = Roles(load_base(str(tmp_path), precision))
    roles.add("policy", rank=4)
    shake(roles, "policy")
    mlps = [m for m in roles.peft.modules() if getattr(m, "gated", False)]
    assert len(mlps) == 2
    found, wide = [], []
    for kind in (type(mlps[0]), type(mlps[0]).__mro__[1]):
        for mlp in mlps:
            mlp.__class__ = kind
        kept: set[int] = set()

        def keep(tensor: torch.Tensor, kept: set[int] = kept) -> torch.Tensor:
            if tensor.numel() == IDS.numel() * 48 and tensor.shape[-1] == 48:  # so wide is the MLP inside
                kept.add(tensor.data_ptr())
            return tensor

        with (
            roles.acting("policy", train=True) as model,
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        ):
            states = model.get_decoder()(inputs_embeds=model.get_input_embeddings()(IDS).requires_grad_())[0]
        found.append([states.detach(), *torch.autograd.grad(states.square().sum(), roles.parameters("policy"))])
        wide.append(len(kept))
    assert wide == [2 * 2, 4 * 2]
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize(("act", "gated"), [("silu", 2), ("gelu_pytorch_tanh", 2), ("gelu", 2), ("relu", 0)])
def test_mlps_are_gated_with_their_own_activation_or_left_as_they_are(act, gated, tmp_path):
    family_model("Llama", hidden_act=act).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    roles = Roles(load_base(str(tmp_path)))
    roles.add("policy", rank=4)
    shake(roles, "policy")
    mlps = [m for m in roles.peft.modules() if getattr(m, "gated", False)]
    assert len(mlps) == gated
    with roles.acting("policy") as model:
        expected = plain_logits(model)
    gradients = []
    for usual in (False, True):
        for mlp in mlps:
            mlp.__class__ = type(mlp).__mro__[int(usual)]
        with roles.acting("policy", train=True) as model:
            learning = model(IDS).logits  # at first by the way that keeps less, where there is one
        assert torch.allclose(learning, expected, atol=1e-5)
        gradients.append(torch.autograd.grad(learning.square().sum(), roles.parameters("policy")))
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_a_lean_adapter_on_an_nf4_base_computes_what_pefts_own_does(tiny_folder):
    from peft.tuners.lora.bnb import Linear4bit

    roles = Roles(load_base(str(tiny_folder), "nf4"))
    roles.add("policy", rank=4)
    shake(roles, "policy")
    assert all(type(layer) is lean(Linear4bit) for layer in roles._layers)
    found = []
    for kind in (lean(Linear4bit), Linear4bit):
        for layer in roles._layers:
            layer.__class__ = kind
        with roles.acting("policy", train=True) as model:
            states = model.get_decoder()(inputs_embeds=model.get_input_embeddings()(IDS).requires_grad_())[0]
        weights = roles.parameters("policy")
        found.append([states.detach(), *torch.autograd.grad(states.square().sum(), weights)])
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize(("half", "bound"), [("bf16", 0.03), ("float16", 0.003)])
def test_a_lean_adapter_on_a_half_precision_base_is_the_float32_one_to_rounding(tiny_folder, half, bound):
    found = []
    for precision in (half, "float32"):
        roles = Roles(load_base(str(tiny_folder), precision))
        if precision == "float32":  # the same weights, rounded alike
            roles.base.model.to(DTYPES[half]).float()
        roles.add("policy", rank=4)
        shake(roles, "policy")
        assert all(type(layer) is lean(Linear) for layer in roles._layers)
        with roles.acting("policy", train=True) as model:
            logits = model(IDS).logits.float()
        gradients = torch.autograd.grad(logits.square().mean(), roles.parameters("policy"))
        assert all(g.dtype == torch.float32 for g in gradients)
        found.append((logits.detach(), torch.cat([g.flatten() for g in gradients])))
    for rounded, exact in zip(*found, strict=True):
        assert (rounded - exact).norm() < bound * exact.norm()


def test_a_role_keeps_its_gradient_while_another_acts(tiny_roles):
    """A loss may read several roles before it goes back: the policy's log-probs, then another adapter's values."""
    alone = []
    for others in (False, True):
        roles = Roles(tiny_roles.base)
        for role in ("policy", "value"):
            roles.add(role, rank=4)
            shake(roles, role)
        with roles.acting("policy", train=True) as model:
            loss = model(IDS).logits.square().sum()
        if others:
            with roles.acting("value", train=True) as model:
                model(IDS).logits.sum()
            with roles.acting(None) as model:
                model(IDS)
        loss.backward()
        alone.append([p.grad.clone() for p in roles.parameters("policy")])
        roles.remove("value")
        roles.remove("policy")
    assert all(g.any() for g in alone[0])
    assert all(torch.equal(a, b) for a, b in zip(*alone, strict=True))


def test_an_adapter_survives_the_disk(tiny_folder, tmp_path):
    roles = Roles(load_base(str(tiny_folder)))
    roles.add("policy")
    shake(roles, "policy")
    with roles.acting("policy") as model:
        before = plain_logits(model)
    roles.save("policy", tmp_path / "version", {"kind": "policy"})
    again = Roles(load_base(str(tiny_folder)))
    again.load("other-name", tmp_path / "version")
    with again.acting("other-name") as model:
        assert torch.equal(plain_logits(model), before)
    seen = torch.randn(3, 32), torch.randn(3, 32), torch.tensor([1, 9, 40])
    for told_length in (False, True):
        head = RewardHead(32, count=2, gates=3, told_length=told_length)
        for parameter in head.parameters():
            torch.nn.init.normal_(parameter)
        head.save(tmp_path)
        assert torch.equal(RewardHead.load(tmp_path, torch.device("cpu"))(*seen), head(*seen))
    linear = {"linear.weight": torch.zeros(1, 32), "linear.bias": torch.zeros(1)}
    unscaled = {name: value for name, value in head.state_dict().items() if name != "scale"}
    turning = {name: value for name, value in unscaled.items() if name != "told"}
    without_length = {name: value[..., :32].contiguous() for name, value in turning.items()}
    for earlier in (linear, without_length, turning, unscaled):
        save_file(earlier, tmp_path / "reward_head.safetensors")
        with pytest.raises(UserError, match="Train a new one"):
            RewardHead.load(tmp_path, torch.device("cpu"))


def test_an_adapter_of_another_base_is_refused_by_name(tiny_folder, tmp_path):
    roles = Roles(load_base(str(tiny_folder)))
    roles.add("policy")
    roles.save("policy", tmp_path / "version", {"kind": "policy"})
    other = tmp_path / "other"
    shutil.copytree(tiny_folder, other)
    weights = load_file(other / "model.safetensors")
    weights["lm_head.weight"] += 1
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="was trained on the base") as caught:
        Roles(load_base(str(other))).load("policy", tmp_path / "version")
    assert str(tiny_folder) in str(caught.value)
    assert fingerprint(other) != fingerprint(tiny_folder)


def test_nf4_on_a_cpu_loads_small_and_trains_lora(pocket_base):
    base = load_base("pocket", "nf4")
    size = base.model.get_memory_footprint()
    assert size < 0.6 * pocket_base.model.get_memory_footprint()
    roles = Roles(base)
    roles.add("policy")
    parameters = roles.parameters("policy")
    optimizer = torch.optim.AdamW(parameters, lr=3e-3)
    ids = torch.tensor([[*encode_prompt(base.tokenizer, [{"role": "user", "content": "Hello!"}]), 50, 60, 70]])
    first = last = 0.0
    for step in range(15):
        with roles.acting("policy", train=True) as model:
            logits = model(ids).logits[0, -4:-1]
            loss = torch.nn.functional.cross_entropy(logits.float(), ids[0, -3:])
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        first, last = (float(loss), last) if step == 0 else (first, float(loss))
    assert last < 0.2 * first


def test_nf4_gives_the_gradients_of_its_own_weights_after_it_has_answered():
    """On CPUs with AVX512-BF16 bitsandbytes repacks weights when it answers, and gradients went astray."""
    four_bit, full = (load_base("pocket", precision, torch.device("cpu")) for precision in ("nf4", "float32"))
    plain = dict(full.model.named_modules())
    with torch.no_grad():
        for name, module in four_bit.model.named_modules():
            if isinstance(module, bitsandbytes.nn.Linear4bit):
                weight = bitsandbytes.functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
                plain[name].weight.copy_(weight)
    conversation = [{"role": "user", "content": "I feel sad."}]
    found = []
    for base in (four_bit, full):
        roles = Roles(base)
        roles.add("policy", rank=4)
        answer(roles, "policy", [conversation] * 8, Sampling(max_new_tokens=8), list(range(8)))
        ids = torch.tensor([encode_prompt(roles.tokenizer, conversation)])
        with roles.acting("policy", train=True) as model:
            model(ids).logits.logsumexp(-1).sum().backward()
        found.append(torch.cat([p.grad.flatten() for p in roles.parameters("policy") if p.grad is not None]))
    assert torch.nn.functional.cosine_similarity(*found, dim=0) > 0.999


def test_nf4_answers_nearly_as_float32_does(pocket_base):
    ids = torch.tensor([encode_prompt(pocket_base.tokenizer, [{"role": "user", "content": "What color is snow?"}])])
    with torch.no_grad():
        exact = torch.log_softmax(pocket_base.model(ids).logits[0, -1], -1)
        coarse = torch.log_softmax(load_base("pocket", "nf4").model(ids).logits[0, -1].float(), -1)
    assert float((exact.exp() * (exact - coarse)).sum()) < 0.5


def test_a_small_model_on_a_cpu_gets_float32(tiny_folder):
    assert load_base(str(tiny_folder)).model.dtype == torch.float32


@pytest.mark.parametrize("what", ["missing", "no-config", "half-config", "half-weights", "pickle-only", "precision"])
def test_what_does_not_load_says_why(tiny_folder, tmp_path, what):
    if what == "missing":
        with pytest.raises(UserError, match="no such folder"):
            find_base("nowhere/at-all")
    elif what == "no-config":
        (tiny_folder / "config.json").unlink()
        with pytest.raises(UserError, match=r"config\.json"):
            load_base(str(tiny_folder))
    elif what.startswith("half"):  # as an interrupted download leaves them
        name = {"half-config": "config.json", "half-weights": "model.safetensors"}[what]
        whole = (tiny_folder / name).read_bytes()
        (tiny_folder / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(UserError, match="does not load" if what == "half-config" else "not whole"):
            load_base(str(tiny_folder))
    elif what == "pickle-only":
        (tiny_folder / "model.safetensors").rename(tiny_folder / "pytorch_model.bin")
        with pytest.raises(UserError, match="safetensors"):
            load_base(str(tiny_folder))
    else:
        with pytest.raises(UserError, match="Precision"):
            load_base(str(tiny_folder), "int3")


def test_code_that_comes_with_a_model_is_not_run(tiny_folder):
    config = json.loads((tiny_folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}}
    (tiny_folder / "config.json").write_text(json.dumps(config))
    (tiny_folder / "evil.py").write_text("open('ran', 'w')\nraise SystemExit")
    with pytest.raises(UserError):
        load_base(str(tiny_folder))


def test_a_model_that_sees_takes_adapters_only_where_it_reads(tmp_path):
    text = {"vocab_size": 32, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "head_dim": 8}
    sight = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4,
             "image_size": 28, "patch_size": 14}  # fmt: skip
    config = Gemma3Config(text_config=text, vision_config=sight, mm_tokens_per_image=4)
    Gemma3ForConditionalGeneration(config).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    roles = Roles(load_base(str(tmp_path)))
    roles.add("policy", rank=4)
    reading = set(roles.peft.get_base_model().get_decoder().modules())
    assert len(roles._layers) == 7 and reading.issuperset(roles._layers)
