"""Losses and gradients against trl's own trainers, on the same tensors and the same weights.

Needs the extra `bench` (`pip install -e '.[test,bench]'`).
"""

import pytest
import torch

pytest.importorskip("trl", reason="trl is not installed; it comes with the extra `bench`")

from datasets import Dataset
from transformers import LlamaForSequenceClassification
from trl import (
    DPOConfig as TRLDPOConfig,
)
from trl import (
    DPOTrainer,
    KTOTrainer,
    RewardTrainer,
    RLOOTrainer,
)
from trl import (
    KTOConfig as TRLKTOConfig,
)
from trl import (
    RewardConfig as TRLRewardConfig,
)
from trl import (
    RLOOConfig as TRLRLOOConfig,
)

from engine.methods import dpo, kto, losses, sft
from engine.methods.settings import KTOConfig
from engine.sampling.rollout import as_rollout
from engine.training.passes import response_pass, whole_log_probs
from tests.conftest import tiny_model, tiny_tokenizer

BETA = 0.3
PAIRS = [("w1 w2", "w3 w4 w5", "w6"), ("w7", "w8", "w9 w10 w11 w12"), ("w13 w14 w15", "w16 w17", "w18 w19")]
TOKENIZER = tiny_tokenizer()
common = {"report_to": "none", "bf16": False, "use_cpu": True, "per_device_train_batch_size": 3}


@pytest.fixture
def policy(tiny_roles):
    """A policy some way from its reference."""
    tiny_roles.add("policy", rank=4)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in tiny_roles.parameters("policy"):
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return tiny_roles


def inner(roles):
    """The policy as a plain transformers model: trl renames the adapters of a PeftModel to its own liking."""
    with roles.acting("policy", train=True) as model:
        return model


def gradients(roles, loss):
    for p in roles.parameters("policy"):
        p.requires_grad_(True)
        p.grad = None
    loss.backward()
    return [p.grad.clone() for p in roles.parameters("policy")]


def same(roles, ours, theirs):
    assert float(ours.detach()) == pytest.approx(float(theirs.detach()), abs=1e-5)
    for a, b in zip(gradients(roles, ours), gradients(roles, theirs), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def encoded(ids, mask, answered):
    """A row of trl's batch as a prompt and an answer."""
    where = mask.bool()
    answer = ids[where & answered.bool()].tolist()
    return sft.Encoded(ids[where & ~answered.bool()].tolist(), answer)


def test_dpo(policy, tmp_path):
    data = Dataset.from_list([{"prompt": p, "chosen": f" {c}", "rejected": f" {r}"} for p, c, r in PAIRS])
    config = TRLDPOConfig(output_dir=str(tmp_path), beta=BETA, **common)
    trainer = DPOTrainer(
        inner(policy), tiny_model(), args=config, train_dataset=data, processing_class=tiny_tokenizer()
    )
    batch = next(iter(trainer.get_train_dataloader()))
    rows = [
        encoded(*row) for row in zip(batch["input_ids"], batch["attention_mask"], batch["completion_mask"], strict=True)
    ]
    half = len(rows) // 2
    known = whole_log_probs(policy, None, rows)
    examples = [dpo.Preference([rows[i], rows[half + i]], (0.0, 1.0), [known[i], known[half + i]]) for i in range(half)]
    ours, _ = dpo.DirectPreference(policy, BETA).loss(examples)
    inner(policy)
    same(policy, ours / half, trainer.compute_loss(trainer.model, batch))


def test_kto(policy, tmp_path):
    rows = [(p, c, True) for p, c, _ in PAIRS] + [(p, r, False) for p, _, r in PAIRS]
    data = Dataset.from_list([{"prompt": p, "completion": f" {c}", "label": good} for p, c, good in rows])
    config = TRLKTOConfig(output_dir=str(tmp_path), beta=BETA, **(common | {"per_device_train_batch_size": 6}))
    trainer = KTOTrainer(
        inner(policy), tiny_model(), args=config, train_dataset=data, processing_class=tiny_tokenizer()
    )
    batch = next(iter(trainer.get_train_dataloader()))
    own = [
        encoded(*row) for row in zip(batch["input_ids"], batch["attention_mask"], batch["completion_mask"], strict=True)
    ]
    stray = [
        encoded(*row)
        for row in zip(batch["KL_input_ids"], batch["KL_attention_mask"], batch["KL_completion_mask"], strict=True)
    ]
    known, stray_known = whole_log_probs(policy, None, own), whole_log_probs(policy, None, stray)
    labels = [bool(x) for x in batch["label"]]
    examples = [kto.Judged(*row) for row in zip(own, labels, known, stray, stray_known, strict=True)]
    objective = kto.KahnemanTversky(policy, KTOConfig(beta=BETA))
    objective.begin(examples)
    ours, _ = objective.loss(examples)
    inner(policy)
    same(policy, ours / len(examples), trainer.compute_loss(trainer.model, batch))


def test_reward(tmp_path):
    base = tiny_model()
    base.config.num_labels = 1
    model = LlamaForSequenceClassification(base.config)
    data = Dataset.from_list([{"chosen": f"{p} {c}", "rejected": f"{p} {r}"} for p, c, r in PAIRS])
    config = TRLRewardConfig(output_dir=str(tmp_path), disable_dropout=True, **common)
    trainer = RewardTrainer(model, args=config, train_dataset=data, processing_class=TOKENIZER)
    batch = next(iter(trainer.get_train_dataloader()))
    for margin in (None, torch.tensor([0.5, 0.5, 0.5])):
        if margin is not None:
            batch["margin"] = margin
        model.zero_grad()
        theirs = trainer.compute_loss(model, dict(batch))
        theirs.backward()
        wanted = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        model.zero_grad()
        inputs = {k: batch[k] for k in ("input_ids", "attention_mask")}
        scores = torch.stack(model(**inputs).logits.squeeze(-1).chunk(2), 1)  # [pairs, 2]
        ranks = torch.tensor([[0.0, 1.0]]).expand(len(scores), 2)
        present = torch.ones(scores.shape, dtype=torch.bool)
        ours = losses.ranking_losses(scores, ranks, present, margin=0.0 if margin is None else 0.5).mean()
        ours.backward()
        assert float(ours.detach()) == pytest.approx(float(theirs.detach()), abs=1e-5)
        for name, gradient in wanted.items():
            assert torch.allclose(model.get_parameter(name).grad, gradient, atol=1e-5), name


def test_rloo(policy, tmp_path):
    prompts = [p for p, _, _ in PAIRS for _ in range(2)]
    config = TRLRLOOConfig(
        output_dir=str(tmp_path),
        epsilon=0.2,
        beta=0.0,
        num_generations=2,
        **(common | {"per_device_train_batch_size": 6}),
    )
    trainer = RLOOTrainer(
        inner(policy), args=config, reward_funcs=lambda completions, **_: [0.0] * len(completions),
        train_dataset=Dataset.from_list([{"prompt": p} for p in prompts]), processing_class=TOKENIZER,
    )  # fmt: skip
    ids = [TOKENIZER(p)["input_ids"] for p in prompts]
    answers = [TOKENIZER(a)["input_ids"] for _, c, r in PAIRS for a in (c, r)]
    drawn = as_rollout(ids, answers, [1], 0, torch.device("cpu"))
    rows = torch.arange(6)
    with policy.acting("policy", train=True) as model:
        log_probs, _ = response_pass(model, None, drawn, rows, 1.0)
    generator = torch.Generator().manual_seed(0)
    drawn.log_probs = torch.where(
        drawn.response_mask, log_probs.detach() + 0.1 * torch.randn(log_probs.shape, generator=generator), 0.0
    )
    advantages = losses.baseline_advantages(torch.tensor([[0.3, 1.0], [-2.0, 0.5], [0.1, 0.0]]), "leave-one-out")
    # Of two answers each is the other's baseline.
    assert torch.allclose(advantages, torch.tensor([[-0.7, 0.7], [-2.5, 2.5], [0.1, -0.1]]))
    flat = advantages.reshape(-1)
    each = losses.reinforce_losses(log_probs, drawn.log_probs, flat, drawn.response_mask, 0.2)
    inner(policy)
    theirs = trainer._compute_loss(
        trainer.model,
        {
            "prompt_ids": drawn.prompt_ids, "prompt_mask": drawn.prompt_mask.long(),
            "completion_ids": drawn.response_ids, "completion_mask": drawn.response_mask.long(),
            "old_logps": drawn.log_probs.sum(-1), "advantages": flat,
        },
    )  # fmt: skip
    same(policy, each.mean(), theirs)
