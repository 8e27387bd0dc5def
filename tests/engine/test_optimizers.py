"""AdamW in float32 and with moments in 8 bits, and how large its steps are in models of different depth."""

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from engine.errors import UserError
from engine.methods.settings import PPOConfig, PretrainConfig, ReinforceConfig
from engine.models.load import Base, load_base
from engine.models.roles import Roles
from engine.training import checkpoint
from engine.training.optimizers import Steps, adamw
from engine.training.settings import FitConfig, adapter_rate
from tests.conftest import tiny_tokenizer
from tests.engine.toys import shake

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


def float16_policy(folder):
    roles = Roles(load_base(str(folder), "float16"))
    roles.add("policy", rank=4)
    shake(roles, "policy")
    return roles


def gradient(roles, back, weight):
    """Of a loss; `weight` may make it so small that its gradients are below what float16 can hold."""
    with roles.acting("policy", train=True) as model:
        logits = model(torch.arange(4, 12).view(2, 4)).logits.float()
    back(weight * logits.square().mean())
    return torch.cat([p.grad.flatten() for p in roles.parameters("policy")])


def test_small_gradients_of_a_float16_base_are_not_lost(tiny_folder):
    tiny = 1e-6
    exact = gradient(float16_policy(tiny_folder), torch.Tensor.backward, 1.0)
    lost = tiny * exact - gradient(float16_policy(tiny_folder), torch.Tensor.backward, tiny)
    roles = float16_policy(tiny_folder)
    assert roles.base.half
    steps = Steps(torch.optim.SGD(roles.parameters("policy"), lr=0.0), 1e9, roles.base.half)
    held = gradient(roles, steps.back, tiny)
    norm = steps.step()
    scaled = held / held.norm() * norm  # step() has taken the scale off
    assert lost.norm() > 0.1 * tiny * exact.norm()  # without scaling they are
    assert (scaled - tiny * exact).norm() < 0.02 * tiny * exact.norm()


def test_a_step_whose_gradient_overflowed_is_left_out_and_the_next_is_taken():
    weights = torch.nn.Parameter(torch.ones(4))
    steps = Steps(adamw([weights], "adamw", 0.1), 1.0, half=True)
    before = steps.scaler.get_scale()
    steps.back((weights * float("inf")).sum())
    steps.step()
    assert torch.equal(weights, torch.ones(4)) and steps.scaler.get_scale() == before / 2
    steps.back(weights.sum())
    assert steps.step() == pytest.approx(2.0)  # the norm of four ones, the scale taken off
    assert (weights < 1).all()


@pytest.mark.parametrize("half", [False, True])
def test_what_broke_down_is_said_and_the_weights_stay_as_they_were(half):
    weights = torch.nn.Parameter(torch.ones(4))
    steps = Steps(adamw([weights], "adamw", 0.1), 1.0, half)

    def go_on():
        for _ in range(100):  # float16 is given the time to find a smaller scale
            steps.back((weights * float("nan")).sum())
            steps.step()

    with pytest.raises(UserError, match="lower learning rate"):
        go_on()
    assert torch.equal(weights, torch.ones(4))


def test_without_float16_a_step_is_what_it_was():
    found = []
    for way in ("steps", "by hand"):
        weights = torch.nn.Parameter(torch.linspace(-1, 1, 64))
        optimizer = adamw([weights], "adamw", 0.1)
        steps = Steps(optimizer, 0.5, half=False)
        for _ in range(3):
            loss = weights.square().sum()
            if way == "steps":
                steps.back(loss)
                steps.step()
            else:
                loss.backward()
                torch.nn.utils.clip_grad_norm_([weights], 0.5)
                optimizer.step()
                optimizer.zero_grad()
        found.append(weights.detach())
    assert torch.equal(*found)


def test_the_scale_of_the_loss_is_part_of_what_a_checkpoint_keeps(tmp_path):
    def fresh():
        return Steps(adamw([torch.nn.Parameter(torch.ones(4))], "adamw", 0.1), 1.0, half=True)

    steps = fresh()
    steps.back((steps.trained[0] * float("inf")).sum())
    steps.step()
    checkpoint.save(tmp_path, [steps])
    resumed = fresh()
    assert resumed.scaler.get_scale() == 2 * steps.scaler.get_scale()
    checkpoint.load(tmp_path, [resumed])
    assert resumed.scaler.get_scale() == steps.scaler.get_scale()


def moved(blocks: int, rate: float) -> float:
    """KL, in nats a token, that four of AdamW's steps on an adapter take a random Llama of so many blocks."""
    torch.manual_seed(0)
    width = 64
    config = LlamaConfig(
        vocab_size=64, hidden_size=width, intermediate_size=128, num_hidden_layers=blocks, num_attention_heads=4
    )
    model = LlamaForCausalLM(config).eval()
    for name, weight in model.named_parameters():
        if weight.dim() == 2:  # as usual, what writes into the residual stream the smaller the more of it there is
            shrunk = (2 * blocks) ** 0.5 if "o_proj" in name or "down_proj" in name else 1
            torch.nn.init.normal_(weight, std=weight.shape[1] ** -0.5 / shrunk)
    roles = Roles(Base(model, tiny_tokenizer(), Path("random"), "", "float32", torch.device("cpu")))
    roles.add("policy", rank=8)
    ids = torch.randint(64, (8, 24))
    optimizer = adamw(roles.parameters("policy"), "adamw", rate)

    def log_probs(learns: bool) -> torch.Tensor:
        with roles.acting("policy", train=learns) as now:
            return now(input_ids=ids).logits.log_softmax(-1)

    before = log_probs(False).detach()
    for _ in range(4):
        (-log_probs(True)[:, :-1].gather(-1, ids[:, 1:, None]).mean()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return float((before.exp() * (before - log_probs(False).detach())).sum(-1).mean())


def test_a_deep_model_moves_about_as_far_a_step_as_a_shallow_one():
    shallow = moved(4, 1e-3)
    assert adapter_rate(1e-3, 4) == adapter_rate(1e-3, 2) == 1e-3 and adapter_rate(1e-3, 32) == 1e-3 / 8
    assert moved(32, 1e-3) > 10 * shallow
    assert 0.25 * shallow < moved(32, adapter_rate(1e-3, 32)) < 2 * shallow


def test_a_learning_rate_that_was_set_is_taken_as_it_is():
    for config in (FitConfig, PPOConfig, ReinforceConfig, PretrainConfig):
        usual = config().rate(4)
        assert config().rate(32) == usual / 8
        assert config(learning_rate=1e-4).rate(32) == config(learning_rate=1e-4).rate(4) == 1e-4
    assert PretrainConfig(start="full").rate(32) == PretrainConfig(start="full").rate(4)
