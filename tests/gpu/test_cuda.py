"""What only a CUDA GPU can show. Without one these tests are skipped; `make test-gpu` runs them."""

import math
from itertools import islice

import pytest
import torch

import engine
from engine.machine import memory_in_use
from engine.methods.online import gather
from engine.methods.ppo import PPO, train_ppo
from engine.methods.pretrain import perplexity, pretrain
from engine.methods.settings import PPOConfig, PretrainConfig
from engine.models import replayed
from engine.models.chat import encode_prompt
from engine.models.load import load_base
from engine.models.roles import Roles
from engine.models.states import real_states
from engine.prompts import load_prompts
from engine.sampling import ways
from engine.sampling.recorded import RecordedSteps
from engine.sampling.rollout import rollout
from engine.sampling.settings import Sampling
from engine.training import mixed
from engine.training.context import Silent
from engine.training.passes import response_pass
from tests.conftest import tiny_model
from tests.engine.test_pretrain import ENTROPY, chain
from tests.engine.toys import shake

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU: make test-gpu")

ASKED = [[{"role": "user", "content": p}] for p in load_prompts("everyday")[:24]]
BOUNDS = {"float32": 1e-4, "bf16": 0.15, "float16": 0.03, "nf4": 0.15}  # of a log-prob, nats; half precisions round


class Short:
    """Scores answers by how short they are."""

    def scores(self, answers):
        return torch.tensor([-len(a.ids) / 10 for a in answers])


def pocket(precision: str) -> Roles:
    roles = Roles(load_base("pocket", precision))
    roles.add("policy", rank=8)
    shake(roles, "policy", 0.01)
    return roles


def drawn_by(roles: Roles):
    prompts = [encode_prompt(roles.tokenizer, c) for c in ASKED]
    with roles.acting("policy") as model:
        sampling = Sampling(max_new_tokens=40)
        return rollout(model, prompts, roles.tokenizer.pad_token_id, [roles.tokenizer.eos_token_id], sampling,
                       list(range(len(prompts))))  # fmt: skip


@pytest.mark.parametrize("precision", list(BOUNDS))
def test_log_probs_of_a_recorded_step_are_those_of_a_training_pass(precision):
    roles = pocket(precision)
    for rounds in range(2):  # the second plays what the first recorded, with an adapter that has changed
        drawn = drawn_by(roles)
        assert ways._ways[roles.peft.get_base_model()] is RecordedSteps
        with torch.no_grad(), roles.acting("policy") as model:
            plain, _ = response_pass(model, None, drawn, torch.arange(len(ASKED), device="cuda"), 1.0)
        mask = drawn.response_mask
        assert mask.sum(-1).unique().numel() > 4
        assert (drawn.log_probs - plain)[mask].abs().mean() < BOUNDS[precision] / 3
        assert (drawn.log_probs - plain)[mask].abs().quantile(0.98) < BOUNDS[precision]
        shake(roles, "policy", 0.02 * (rounds + 1))


def test_rollouts_by_recorded_steps_are_the_models_own(monkeypatch):
    found = []
    for kinds in ((), (RecordedSteps,)):
        monkeypatch.setitem(ways.WAYS, "cuda", kinds)
        ways._ways.clear()
        found.append(drawn_by(pocket("float32")))
    assert torch.equal(found[0].response_ids, found[1].response_ids)


@pytest.mark.parametrize("precision", list(BOUNDS))
def test_a_recorded_pass_gives_the_plain_ones_states_and_gradients(precision, monkeypatch):
    roles, batches = pocket(precision), []
    for seed, width in enumerate((30, 29, 30, 28, 27, 28, 30, 28)):
        ids = torch.randint(3, 400, (5, width), generator=torch.Generator().manual_seed(seed))
        mask = torch.ones_like(ids, dtype=torch.bool)
        mask[2, width // 2 :] = False
        batches.append((ids.cuda(), mask.cuda()))

    def passes():
        found = []
        with torch.no_grad():
            for p in roles.parameters("policy"):
                p.zero_()
        for i, (ids, mask) in enumerate(batches):
            shake(roles, "policy", 0.01 * (i + 1))  # a record reads what the weights are now
            with roles.acting("policy", train=True) as model:
                states = real_states(model, ids, mask)
                states.float().square().sum().backward()
            found.append([states.detach(), *(p.grad for p in roles.parameters("policy"))])
            for p in roles.parameters("policy"):
                p.grad = None
        return found

    recorded = passes()
    kept = replayed._passes[roles.peft.get_base_model()].kept
    assert [len(played.graphs) for played in kept.values()] == [2, 2]  # of two sizes, there and back
    monkeypatch.setattr(replayed, "DEVICES", set())
    bound = 1e-4 if precision == "float32" else 0.05
    for fast, plain in zip(recorded, passes(), strict=True):
        for a, b in zip(fast, plain, strict=True):
            assert (a - b).norm() <= bound * b.norm()


@pytest.mark.parametrize("precision", ["bf16", "float16", "nf4"])
def test_ppo_learns_what_it_is_paid_for(precision):
    roles = pocket(precision)
    seen = []

    class Watch(Silent):
        def metrics(self, name, step, values):
            seen.append(values)

    config = PPOConfig(
        updates=12, episodes=48, max_new_tokens=40, rank=8, kl_coefficient=0.0, missing_eos_penalty=0.0,
        learning_rate=1e-3,
    )  # fmt: skip
    train_ppo(roles, Short(), ASKED, config, context=Watch())
    assert seen[-1]["length"] < 0.7 * seen[0]["length"]


def test_a_new_model_is_trained_in_mixed_precision_to_the_entropy_of_its_source():
    model = tiny_model().requires_grad_(True).to("cuda")
    assert mixed.suits(model)
    pretrain(model, chain(0), 0, PretrainConfig(start="new", tokens=120_000, batch_tokens=512, learning_rate=1e-2))
    found = math.log(perplexity(model, list(islice(chain(1), 2000)), 0))
    assert found == pytest.approx(ENTROPY, abs=0.02)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_memory_that_runs_out_halves_the_part_and_changes_nothing():
    found = []
    for short in (False, True):
        roles = pocket("float32")
        learner = PPO(roles, PPOConfig(rank=8, epochs=3, minibatches=1, max_new_tokens=64))
        prompts = [encode_prompt(roles.tokenizer, c) for c in ASKED] * 20
        batch = gather(
            roles,
            None,
            Short(),
            ASKED * 20,
            prompts,
            list(range(len(prompts))),
            0.1,
            learner.config,
            learner.reads_states,
        )
        torch.cuda.empty_cache()
        if short:
            held = torch.cuda.memory_reserved() + 150e6
            torch.cuda.set_per_process_memory_fraction(held / torch.cuda.get_device_properties(0).total_memory)
        try:
            figures = learner.learn(batch, 0)
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        assert (learner.parts.size > 0) == short
        found.append((figures["grad_norm"], figures["policy_loss"], figures["value_loss"]))
    assert found[1] == pytest.approx(found[0], rel=1e-3, abs=1e-5)


def test_serving_gives_the_memory_back(tmp_path):
    before = memory_in_use("cuda")["used"]
    worker = engine.ServingClient(tmp_path / "log")
    events = worker.generate(
        worker.reserve(), base=str(engine.find_base("pocket")), adapter=None, seeds=[1, 2, 3, 4],
        messages=[{"role": "user", "content": "Hello"}], sampling={"max_new_tokens": 32},
    )  # fmt: skip
    assert any(event.get("answers") for event in events)
    assert memory_in_use("cuda")["used"] > before + 0.1
    worker.close()
    assert memory_in_use("cuda")["used"] < before + 0.05
