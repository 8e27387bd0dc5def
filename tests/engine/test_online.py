"""What PPO and the policy gradient share, and PPO's options: each does what its setting says."""

from dataclasses import replace

import pytest
import torch

from engine.errors import UserError
from engine.feedback.examples import Valued
from engine.methods import ppo, reinforce
from engine.methods.function import FunctionReward, load_function
from engine.methods.online import gather, train_online
from engine.methods.ppo import PPO, train_ppo
from engine.methods.reinforce import Reinforce, train_reinforce
from engine.methods.settings import PPOConfig, ReinforceConfig, SFTConfig
from engine.methods.sft import demonstration_loss
from engine.models.load import load_base
from engine.models.roles import Roles
from engine.sampling.answers import Answer
from engine.training.context import Silent, Stopped
from engine.training.optimizers import Steps
from tests.engine.toys import CONVERSATION, StopsAt, TokenScorer, able_folder, next_token, policy_on

CONVERSATIONS = [[{"role": "user", "content": f"w{i} w{i + 1}"}] for i in range(8)]
COMMON = {
    "max_new_tokens": 6, "rank": 4, "missing_eos_penalty": 0.0, "improbable_penalty": 0.0, "updates": 4, "episodes": 8,
    "epochs": 2, "reference_temperature": 1.0,
}  # fmt: skip
PPO_CONFIG, RL_CONFIG = PPOConfig(**COMMON), ReinforceConfig(**COMMON, samples=2)
LENGTH = TokenScorer(len)


class Watching(Silent):
    def __init__(self):
        self.seen = []

    def metrics(self, name, step, values):
        self.seen.append(values)


def trained(method, folder, checkpoints=None, context=None, **changes):
    roles = Roles(load_base(str(folder)))
    roles.add("policy", rank=4)
    more = {"held_out": CONVERSATIONS[:3]} if changes.get("select_every") else {}
    if method == "ppo":
        config = replace(PPO_CONFIG, **changes)
        train_ppo(roles, LENGTH, CONVERSATIONS, config, None, context, checkpoints, **more)
    else:
        config = replace(RL_CONFIG, **changes)
        train_reinforce(roles, LENGTH, CONVERSATIONS, config, None, context, checkpoints, **more)
    return [p.detach().clone() for p in roles.parameters("policy")]


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(
    ("method", "changes"),
    [("ppo", {}), ("ppo", {"value_adapter": True}), ("ppo", {"select_every": 2}), ("reinforce", {})],
)
def test_stopped_at_any_update_and_resumed_it_ends_as_if_never_stopped(method, changes, tmp_path, tiny_folder):
    whole = trained(method, tiny_folder, **changes)
    assert equal(whole, trained(method, tiny_folder, tmp_path / "again", **changes))  # to the last bit
    for step in (1, 3):
        with pytest.raises(Stopped):
            trained(method, tiny_folder, tmp_path / str(step), StopsAt(step), **changes)
        assert equal(whole, trained(method, tiny_folder, tmp_path / str(step), **changes))


@pytest.mark.parametrize("method", ["ppo", "reinforce"])
def test_micro_batches_change_nothing_but_memory(method, tiny_folder):
    roles = Roles(load_base(str(tiny_folder)))
    roles.add("policy", rank=4)
    one_step = {"epochs": 1, "minibatches": 1, "max_grad_norm": 1e9}
    found = []
    for micro in (0, 1, 3):
        if method == "ppo":
            learner = PPO(roles, replace(PPO_CONFIG, micro_batch=micro, **one_step))
            torch.manual_seed(0)
            torch.nn.init.normal_(learner.head.linear.weight, std=0.1)
        else:
            learner = Reinforce(roles, replace(RL_CONFIG, micro_batch=micro, **one_step))
        experience = gather(
            roles, None, LENGTH, CONVERSATIONS, [[5, 6, 7], [8], [9, 10], [4]] * 2, list(range(8)), 0.1, learner.config
        )
        trained = roles.parameters("policy")
        gradients = []
        learner.steps.optimizer.register_step_pre_hook(lambda *_: gradients.extend(p.grad.clone() for p in trained))  # noqa: B023
        before = [p.detach().clone() for p in trained]
        figures = learner.learn(experience, 0)
        with torch.no_grad():
            for p, old in zip(trained, before, strict=True):
                p.copy_(old)
        found.append((figures, gradients))
    for figures, gradients in found[1:]:
        assert figures == pytest.approx(found[0][0], abs=1e-5)
        for a, b in zip(gradients, found[0][1], strict=True):
            assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("method", ["ppo", "reinforce"])
def test_running_out_of_memory_ends_as_if_smaller_parts_had_been_chosen(method, tiny_folder, monkeypatch, caplog):
    small = trained(method, tiny_folder, micro_batch=1)  # where the second shortage leads, before any step
    module = {"ppo": ppo, "reinforce": reinforce}[method]
    whole, calls = module.response_pass, []

    def cramped(model, head, drawn, rows, temperature):
        calls.append(len(rows))
        if len(rows) > 3 or len(calls) == 3:  # once in the middle of a step, when a part has left its gradient
            raise torch.OutOfMemoryError("no room")
        return whole(model, head, drawn, rows, temperature)

    monkeypatch.setattr(module, "response_pass", cramped)
    found = trained(method, tiny_folder)
    assert "Memory ran out" in caplog.text and calls[0] > 3 and 1 in calls
    for a, b in zip(small, found, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_an_answer_above_the_length_target_pays_for_each_token(tiny_folder):
    roles = policy_on(tiny_folder, rank=4)
    config = replace(PPO_CONFIG, length_target=4, length_penalty=0.5)
    batch = gather(roles, None, TokenScorer(lambda s: 1.0), CONVERSATIONS, [[5, 6]] * 8, list(range(8)), 0.1, config)
    lengths = batch.rollout.response_mask.sum(-1)
    assert lengths.min() < 4 < lengths.max()
    assert torch.allclose(batch.scores, 1 - 0.5 * (lengths - 4).clamp_min(0))


def test_training_ends_at_the_kl_budget(tmp_path):
    roles = policy_on(able_folder(tmp_path))
    watching = Watching()
    config = replace(
        PPO_CONFIG, max_new_tokens=1, updates=60, episodes=64, learning_rate=5e-3, kl_coefficient=0.0, stop_kl=1.0,
        kl_budget=0.5,
    )  # fmt: skip
    train_ppo(roles, TokenScorer(lambda s: s[-1] == 9), [CONVERSATION], config, None, watching)
    kls = [v["kl"] for v in watching.seen]
    assert len(kls) < 60
    assert kls[-1] > 0.5
    assert max(kls[:-1]) <= 0.5
    with pytest.raises(UserError, match=r"is \d+\.\d nats from the reference, further than ppo\.kl_budget allows"):
        train_ppo(roles, TokenScorer(lambda s: s[-1] == 9), [CONVERSATION], config, None)  # the next round


class Peaks:
    """Likes what is practised always alike, and answers to the held-out prompts most at the look number `good`."""

    def __init__(self, good):
        self.good, self.looks = good, 0

    def scores(self, answers):
        held_out = len(answers) == len(HELD_OUT)
        self.looks += held_out
        return torch.full((len(answers),), float(-abs(self.looks - self.good)) if held_out else 0.0)


HELD_OUT = CONVERSATIONS[:3]


@pytest.mark.parametrize("good", [1, 2])
def test_the_policy_that_did_best_on_held_out_prompts_is_kept(tiny_folder, good):
    """The first look is at what the run began with."""
    kept, last, best = (policy_on(tiny_folder, rank=4) for _ in range(3))
    config = replace(PPO_CONFIG, learning_rate=1e-2)
    train_ppo(kept, Peaks(good), CONVERSATIONS, replace(config, select_every=1), held_out=HELD_OUT)
    train_ppo(last, Peaks(good), CONVERSATIONS, config)
    if good == 2:
        train_ppo(best, Peaks(good), CONVERSATIONS, replace(config, updates=1))
    assert equal(kept.parameters("policy"), best.parameters("policy"))
    assert not equal(last.parameters("policy"), best.parameters("policy"))


def test_a_value_adapter_learns_and_the_policy_does_not_feel_the_value_loss(tiny_folder):
    roles = policy_on(tiny_folder, rank=4)
    learner = PPO(roles, replace(PPO_CONFIG, value_adapter=True, value_weight=1.0, epochs=1, minibatches=1))
    torch.nn.init.normal_(learner.head.linear.weight)
    before = [p.detach().clone() for p in roles.parameters("value")]
    experience = gather(roles, None, LENGTH, CONVERSATIONS, [[5, 6]] * 8, list(range(8)), 0.1, learner.config)
    flat = replace(learner.config, clip=1e-9)  # no policy gradient beyond the first step's own
    learner.config = flat
    learner.learn(experience, 0)
    assert not equal(before, roles.parameters("value"))
    rows = torch.arange(8)
    log_probs, values = learner.passes(experience, rows)
    values.sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in roles.parameters("policy"))
    assert any(p.grad is not None and p.grad.any() for p in roles.parameters("value"))
    assert log_probs.shape == values.shape


def test_a_mix_of_pretraining_loss_keeps_what_it_is_given(tmp_path):
    """PPO-ptx: with nothing to gain, the mix alone moves the policy, towards the demonstrations."""
    folder = able_folder(tmp_path)
    said = []
    for weight in (0.0, 10.0):
        roles = policy_on(folder)
        examples = [Valued((("user", "w1 w2"),), "w7", 1.0, "edit", True)]
        extra = demonstration_loss(roles, examples, SFTConfig())
        config = replace(PPO_CONFIG, max_new_tokens=2, updates=20, learning_rate=3e-3, pretraining_weight=weight)
        train_ppo(roles, TokenScorer(lambda s: 0.0), [CONVERSATION], config, extra_loss=extra)
        said.append(float(next_token(roles, "policy").exp()[roles.tokenizer.convert_tokens_to_ids("w7")]))
    assert said[0] < 0.3
    assert said[1] > 0.9


def test_a_baseline_that_compares_needs_something_to_compare(tiny_folder):
    with pytest.raises(UserError, match=r"reinforce\.samples"):
        Reinforce(policy_on(tiny_folder, rank=4), ReinforceConfig(samples=1))
    Reinforce(policy_on(tiny_folder, rank=4), ReinforceConfig(samples=1, baseline="mean"))


def test_every_group_answers_one_prompt(tiny_folder):
    """Leave-one-out and group baselines are only right if the answers of a group share their prompt."""
    roles = policy_on(tiny_folder, rank=4)
    seen = []

    class Looks:
        steps = Steps(torch.optim.AdamW(roles.parameters("policy")), 1.0, half=False)
        reads_states = False

        def learn(self, experience, seed):
            seen.append(experience.rollout.prompt_ids.tolist())
            return {}

    train_online("reinforce", roles, Looks(), LENGTH, CONVERSATIONS, replace(RL_CONFIG, samples=4, updates=2))
    for prompts in seen:
        assert prompts[0] == prompts[1] == prompts[2] == prompts[3]
        assert prompts[4] == prompts[5] == prompts[6] == prompts[7]


def asked(prompt, text):
    return Answer([{"role": "user", "content": prompt}], text, [1], [2], [], 0, "stop")


def test_a_function_scores_in_place_of_a_reward_model(tmp_path):
    (tmp_path / "rewards.py").write_text(
        "def short(prompt, response):\n    return -len(response)\n"
        "def turns(prompt, response, messages):\n    return len(messages)\n"
        "def broken(prompt, response):\n    return 1 / 0\n"
        "def endless(prompt, response):\n    return float('nan')\n"
    )
    place = tmp_path / "rewards.py"
    assert load_function(f"{place}:short").scores([asked("Q", "four"), asked("Q", "")]).tolist() == [-4.0, 0.0]
    assert load_function(f"{place}:turns").scores([asked("Q", "A")]).tolist() == [1.0]
    with pytest.raises(UserError, match="ZeroDivisionError"):
        load_function(f"{place}:broken").scores([asked("Q", "A")])
    with pytest.raises(UserError, match="finite"):
        load_function(f"{place}:endless").scores([asked("Q", "A")])
    for wrong in (f"{place}:missing", f"{tmp_path}/no.py:short", str(place)):
        with pytest.raises(UserError):
            load_function(wrong)
    assert FunctionReward(lambda p, r: 1, "one").scores([asked("Q", "A")]).tolist() == [1.0]
