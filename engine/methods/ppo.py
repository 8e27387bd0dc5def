"""PPO on a learned reward, with a KL penalty against the reference (Schulman et al. 2017; Ziegler et al. 2019).

Each update: answer a batch of prompts, score the answers, spread the score and the per-token KL penalty over
the tokens, estimate advantages, and take a few epochs of clipped steps on them.
"""

import random
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from engine.methods import losses
from engine.methods.settings import PPOConfig
from engine.models.chat import Message, decode, encode_prompt
from engine.models.load import stop_ids
from engine.models.roles import Roles, ScalarHead
from engine.sampling.rollout import Rollout, rollout
from engine.sampling.settings import Sampling
from engine.training.context import Context, Silent, clip_and_step
from engine.training.passes import Scorer, response_pass


@dataclass
class Batch:
    """One update's experience. Tensors are [rows, response time] unless said otherwise."""

    rollout: Rollout
    reference_log_probs: Tensor
    values: Tensor
    scores: Tensor  # [rows], after the penalty for answers without an end or without words
    advantages: Tensor
    returns: Tensor


@torch.no_grad()
def collect(
    roles: Roles,
    reference: str | None,
    head: ScalarHead,
    scorer: Scorer,
    prompts: list[list[int]],
    seeds: list[int],
    kl_coefficient: float,
    config: PPOConfig,
) -> Batch:
    """Answer `prompts` with the policy and work out what PPO needs to know about the answers."""
    sampling = Sampling(temperature=config.temperature, max_new_tokens=config.max_new_tokens)
    pad, stop = roles.tokenizer.pad_token_id, stop_ids(roles.base)
    everything = torch.arange(len(prompts), device=roles.base.device)
    with roles.acting("policy") as model:
        drawn = rollout(model, prompts, pad, stop, sampling, seeds)
        _, values, _ = response_pass(model, head, drawn, everything, config.temperature)
    assert values is not None
    with roles.acting(reference) as model:
        reference_log_probs, _, _ = response_pass(model, None, drawn, everything, config.temperature)
    scores = scorer.scores([prompt + drawn.tokens(i) for i, prompt in enumerate(prompts)]).to(roles.base.device)
    mask = drawn.response_mask
    # An answer needs an end, and something before it: no person has ever ranked an empty one, so a reward model's
    # score of it means nothing, and a taste for short answers would end there. Neither may pass for a good answer.
    if config.missing_eos_penalty:
        whole = drawn.finished & (mask.sum(-1) > 1)
        scores = torch.where(whole, scores, scores.clamp_max(0) - config.missing_eos_penalty)
    rewards = losses.token_rewards(scores, drawn.log_probs, reference_log_probs, mask, kl_coefficient)
    advantages, returns = losses.gae(rewards, values, mask, config.gamma, config.lam)
    return Batch(drawn, reference_log_probs, values, scores, losses.masked_whiten(advantages, mask), returns)


def optimise(
    roles: Roles, head: ScalarHead, batch: Batch, optimizer: torch.optim.Optimizer, config: PPOConfig, seed: int
) -> dict[str, float]:
    """Clipped steps on one batch. Stops early where the policy has moved further than `stop_kl`."""
    drawn, mask = batch.rollout, batch.rollout.response_mask
    trained = roles.parameters("policy") + list(head.parameters())
    generator = torch.Generator().manual_seed(seed)
    totals: dict[str, list[float]] = {}
    for _ in range(config.epochs):
        for rows in torch.randperm(len(mask), generator=generator).chunk(config.minibatches):
            rows = rows.to(mask.device)
            with roles.acting("policy", train=True) as model:
                log_probs, values, entropy = response_pass(model, head, drawn, rows, config.temperature)
                assert values is not None
                loss_policy = losses.policy_loss(
                    log_probs, drawn.log_probs[rows], batch.advantages[rows], mask[rows], config.clip
                )
                loss_value = losses.value_loss(
                    values, batch.values[rows], batch.returns[rows], mask[rows], config.value_clip
                )
                moved = float(losses.approximate_kl(log_probs.detach(), drawn.log_probs[rows], mask[rows]))
                if moved > config.stop_kl:
                    optimizer.zero_grad(set_to_none=True)
                    return {k: sum(v) / len(v) for k, v in totals.items()} | {"approximate_kl": moved}
                (loss_policy + config.value_weight * loss_value).backward()
            norm = clip_and_step(optimizer, trained, config.max_grad_norm)
            for key, value in {
                "policy_loss": float(loss_policy.detach()),
                "value_loss": float(loss_value.detach()),
                "entropy": float(losses.masked_mean(entropy, mask[rows])),
                "approximate_kl": moved,
                "grad_norm": norm,
            }.items():
                totals.setdefault(key, []).append(value)
    return {k: sum(v) / len(v) for k, v in totals.items()}


def save_state(folder: Path, roles: Roles, head: ScalarHead, optimizer, controller, update: int) -> None:
    """Everything needed to go on from here as if nothing had happened. Written whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        "adapter": [p.detach().cpu() for p in roles.parameters("policy")],
        "head": head.state_dict(),
        "optimizer": optimizer.state_dict(),
        "kl_coefficient": controller.coefficient,
        "update": update,
    }
    torch.save(state, folder / "ppo.tmp")
    (folder / "ppo.tmp").replace(folder / "ppo.pt")


def load_state(folder: Path, roles: Roles, head: ScalarHead, optimizer, controller) -> int:
    """Take up the state in `folder`; returns the number of updates already done (0 without a state)."""
    file = folder / "ppo.pt"
    if not file.is_file():
        return 0
    state = torch.load(file, map_location=roles.base.device, weights_only=True)
    with torch.no_grad():
        for parameter, saved in zip(roles.parameters("policy"), state["adapter"], strict=True):
            parameter.copy_(saved)
    head.load_state_dict(state["head"])
    optimizer.load_state_dict(state["optimizer"])
    controller.coefficient = state["kl_coefficient"]
    return state["update"]


def train_ppo(
    roles: Roles,
    scorer: Scorer,
    conversations: list[list[Message]],
    config: PPOConfig,
    reference: str | None = None,
    context: Context | None = None,
    checkpoints: Path | None = None,
) -> dict[str, float]:
    """Train the role "policy" (which must exist) on `conversations`. Returns the last update's figures.

    With `checkpoints`, state is kept there every few updates and taken up again if it exists.
    Randomness comes from (seed, update) alone, so a resumed run draws what it would have drawn.
    """
    context = context or Silent()
    device = roles.base.device
    head = ScalarHead(roles.width).to(device)
    optimizer = torch.optim.AdamW(
        [
            {"params": roles.parameters("policy"), "lr": config.learning_rate},
            {"params": list(head.parameters()), "lr": config.value_learning_rate},
        ],
        weight_decay=0.0,
    )
    controller = losses.AdaptiveKL(config.kl_coefficient, config.kl_target, config.kl_horizon)
    first = load_state(checkpoints, roles, head, optimizer, controller) if checkpoints else 0
    prompts = [encode_prompt(roles.tokenizer, c, room=config.max_new_tokens) for c in conversations]
    figures: dict[str, float] = {}
    for update in range(first, config.updates):
        context.stage("ppo", update, config.updates)
        rng = random.Random(f"{config.seed} {update}")
        chosen = [rng.randrange(len(prompts)) for _ in range(config.episodes)]
        seeds = [rng.randrange(2**31) for _ in chosen]
        batch = collect(
            roles, reference, head, scorer, [prompts[i] for i in chosen], seeds, controller.coefficient, config
        )
        drawn = batch.rollout
        kl = float(torch.where(drawn.response_mask, drawn.log_probs - batch.reference_log_probs, 0.0).sum(-1).mean())
        figures = optimise(roles, head, batch, optimizer, config, rng.randrange(2**31))
        figures |= {
            "reward": float(batch.scores.mean()),
            "kl": kl,
            "kl_coefficient": controller.coefficient,
            "length": float(drawn.response_mask.sum(-1).float().mean()),
            "finished": float(drawn.finished.float().mean()),
        }
        controller.update(kl, config.episodes)
        context.metrics("ppo", update + 1, figures)
        for row in range(min(3, len(chosen))) if update % 5 == 0 or update == config.updates - 1 else ():
            text = decode(roles.tokenizer, drawn.tokens(row))
            context.sample(update + 1, conversations[chosen[row]][-1]["content"], text, float(batch.scores[row]))
        if checkpoints and ((update + 1) % 10 == 0 or update + 1 == config.updates):
            save_state(checkpoints, roles, head, optimizer, controller, update + 1)
    context.stage("ppo", config.updates, config.updates)
    return figures
