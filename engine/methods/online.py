"""The loop of every method that learns from answers as it gives them: answer, score, learn, look.

Each update answers a batch of prompts with the policy, scores the answers, and hands them to the method's `Learner`.
Randomness comes from (seed, update) alone, so a resumed run draws what it would have drawn.
"""

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from engine.errors import UserError
from engine.methods import losses
from engine.methods.settings import OnlineConfig
from engine.models.chat import Message, decode, encode_prompt
from engine.models.load import stop_ids
from engine.models.roles import Roles
from engine.sampling.answers import Answer, answer
from engine.sampling.rollout import Rollout, rollout
from engine.training import checkpoint
from engine.training.context import Context, Silent, Stopped
from engine.training.optimizers import Steps
from engine.training.passes import Scorer, response_pass

CHECKPOINT_EVERY = 10  # updates
SHOWN, SHOWN_EVERY = 3, 5  # prompts that are answered anew, and after how many updates


@dataclass
class Experience:
    """The answers of one update. Tensors are [rows, response time] unless said otherwise."""

    rollout: Rollout
    reference_log_probs: Tensor  # at the reference's own temperature
    scores: Tensor  # [rows], after the penalties
    token_rewards: Tensor  # of every token, whatever the answer's score

    @property
    def kl(self) -> Tensor:
        """log pi - log pi_ref of each whole answer [rows], nats: a one-sample estimate of the KL."""
        apart = self.rollout.log_probs - self.reference_log_probs
        return torch.where(self.rollout.response_mask, apart, 0.0).sum(-1)


class Learner(Protocol):
    """What a method does with experience. It trains the role "policy", which must exist."""

    @property
    def steps(self) -> Steps: ...

    @property
    def reads_states(self) -> bool:
        """Whether it reads the hidden states that the answers were drawn from."""
        ...

    def learn(self, experience: Experience, seed: int) -> dict[str, float]:
        """Take the update's steps; returns figures to report."""
        ...


def minibatches(rows: int, epochs: int, parts: int, seed: int, device: torch.device) -> list[Tensor]:
    """The rows of every step of an update: each epoch shuffles all `rows` and cuts them into `parts`."""
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(rows, generator=generator) for _ in range(epochs)]
    return [part.to(device) for order in orders for part in order.chunk(parts)]


@torch.no_grad()
def gather(
    roles: Roles,
    reference: str | None,
    scorer: Scorer,
    conversations: list[list[Message]],
    prompts: list[list[int]],
    seeds: list[int],
    kl_coefficient: float,
    config: OnlineConfig,
    keep_states: bool = True,
) -> Experience:
    """Answer `prompts` (the token ids of `conversations`) with the policy and score the answers."""
    pad, stop = roles.tokenizer.pad_token_id, stop_ids(roles.base)
    with roles.acting("policy") as model:
        drawn = rollout(model, prompts, pad, stop, config.sampling, seeds, keep_states)
    everything = torch.arange(len(prompts), device=roles.base.device)
    temperature = min(config.sampling.temperature, config.reference_temperature)
    with roles.acting(reference) as model:
        reference_log_probs, _ = response_pass(model, None, drawn, everything, temperature)
    answers = [
        Answer(messages, decode(roles.tokenizer, ids), prompt, ids, [], seed, "stop" if done else "length")
        for messages, prompt, ids, seed, done in zip(
            conversations, prompts, map(drawn.tokens, range(len(prompts))), seeds, drawn.finished.tolist(), strict=True
        )
    ]
    scores = penalised(scorer.scores(answers), answers, config).to(roles.base.device)
    mask = drawn.response_mask
    rewards = losses.kl_rewards(drawn.log_probs, reference_log_probs, mask, kl_coefficient)
    rewards = rewards + losses.improbable_rewards(
        drawn.log_probs, reference_log_probs, mask, config.improbable_floor, config.improbable_penalty
    )
    return Experience(drawn, reference_log_probs, scores, rewards)


def penalised(scores: Tensor, answers: list[Answer], config: OnlineConfig) -> Tensor:
    """Scores [answers] less what those pay that do not end, have no words, or are too long."""
    length = torch.tensor([len(a.ids) for a in answers])
    if config.length_target:
        scores = scores - config.length_penalty * (length - config.length_target).clamp_min(0)
    # An answer needs an end, and something before it: no person has ever ranked an empty one, so a reward model's
    # score of it means nothing, and a taste for short answers would end there. Neither may pass for a good answer.
    if config.missing_eos_penalty:
        whole = torch.tensor([a.finish == "stop" for a in answers]) & (length > 1)
        scores = torch.where(whole, scores, scores.clamp_max(0) - config.missing_eos_penalty)
    return scores


def train_online(
    stage: str,
    roles: Roles,
    learner: Learner,
    scorer: Scorer,
    conversations: list[list[Message]],
    config: OnlineConfig,
    reference: str | None = None,
    context: Context | None = None,
    checkpoints: Path | None = None,
    held_out: list[list[Message]] | None = None,
) -> dict[str, float]:
    """Train the role "policy" on `conversations` with `learner`. Returns the last update's figures.

    With `checkpoints`, state is kept there every few updates and when the run is stopped, and taken up again if it is
    there. With `select_every`, the policy that scored best on the `held_out` conversations is the one that remains,
    be it the one that the run began with.
    Raises UserError where the policy begins further from the reference than `kl_budget`.
    """
    context, config = context or Silent(), config.settled()
    controller = losses.AdaptiveKL(config.kl_coefficient, config.kl_target, config.kl_horizon)
    best = Best(roles, scorer, held_out or [], config)
    steps = learner.steps
    peaks = [group["lr"] for group in steps.param_groups]
    first = 0
    if checkpoints and (state := checkpoint.load(checkpoints, [steps])):
        controller.coefficient, first = state["kl_coefficient"], state["update"]
        best.score, best.weights = state["best_score"], state["best_weights"]
    elif config.select_every:
        best.look()

    def save(update: int) -> None:
        if checkpoints:
            checkpoint.save(
                checkpoints, [steps], kl_coefficient=controller.coefficient, update=update,
                best_score=best.score, best_weights=best.weights,
            )  # fmt: skip

    prompts = [encode_prompt(roles.tokenizer, c, room=config.longest) for c in conversations]
    figures: dict[str, float] = {}
    for update in range(first, config.updates):
        try:
            context.stage(stage, update, config.updates)
        except Stopped:
            if update:
                save(update)
                best.put_back()
            raise
        for group, peak in zip(steps.param_groups, peaks, strict=True):
            group["lr"] = peak * (1 - (1 - config.final_rate) * update / config.updates)
        rng = random.Random(f"{config.seed} {update}")
        chosen = [rng.randrange(len(prompts)) for _ in range(max(config.episodes // config.samples, 1))]
        rows = [i for i in chosen for _ in range(config.samples)]
        seeds = [rng.randrange(2**31) for _ in rows]
        experience = gather(
            roles, reference, scorer, [conversations[i] for i in rows], [prompts[i] for i in rows], seeds,
            controller.coefficient, config, learner.reads_states,
        )  # fmt: skip
        drawn, kl = experience.rollout, float(experience.kl.mean())
        if update == 0 and 0 < config.kl_budget < kl:
            raise UserError(
                f"The policy that this round begins with is {kl:.1f} nats from the reference, further than "
                f"{stage}.kl_budget allows. Set it higher, or to 0."
            )
        figures = learner.learn(experience, rng.randrange(2**31))
        figures |= {
            "reward": float(experience.scores.mean()),
            "kl": kl,
            "kl_coefficient": controller.coefficient,
            # Of the policy that answered, a token, in nats: -log pi of what it drew, which has that as its mean.
            "entropy": -float(losses.masked_mean(drawn.log_probs, drawn.response_mask)),
            "length": float(drawn.response_mask.sum(-1).float().mean()),
            "finished": float(drawn.finished.float().mean()),
        }
        controller.update(kl, len(rows))
        if config.select_every and ((update + 1) % config.select_every == 0 or update + 1 == config.updates):
            figures["held_out_reward"] = best.look()
        context.metrics(stage, update + 1, figures)
        if context.watched and (update % SHOWN_EVERY == 0 or update == config.updates - 1):
            _show(roles, scorer, conversations[:SHOWN], config, update + 1, context)
        if (update + 1) % CHECKPOINT_EVERY == 0 or update + 1 == config.updates:
            save(update + 1)
        if config.kl_budget and kl > config.kl_budget:
            figures["stopped_at_update"] = update + 1
            break
    best.put_back()
    context.stage(stage, config.updates, config.updates)
    return figures


def _show(
    roles: Roles, scorer: Scorer, conversations: list[list[Message]], config: OnlineConfig, step: int, context: Context
) -> None:
    """Answer the same few prompts with the same seeds again, for someone who watches."""
    answers = answer(roles, "policy", conversations, config.sampling, list(range(len(conversations))))
    for found, score in zip(answers, scorer.scores(answers).tolist(), strict=True):
        context.sample(step, found.messages[-1]["content"], found.text, score)


class Best:
    """The policy that scored best on held-out prompts so far."""

    def __init__(self, roles: Roles, scorer: Scorer, conversations: list[list[Message]], config: OnlineConfig):
        self.roles, self.scorer, self.config = roles, scorer, config
        self.conversations = conversations[:64]
        self.score = float("-inf")
        self.weights: list[Tensor] = []

    def look(self) -> float:
        """Score the policy as practice does, with the same seeds every time; keep it if none was better."""
        if not self.conversations:
            return float("nan")
        seeds = [self.config.seed * 1000 + i for i in range(len(self.conversations))]
        answers = answer(self.roles, "policy", self.conversations, self.config.sampling, seeds)
        score = float(penalised(self.scorer.scores(answers), answers, self.config).mean())
        if score > self.score:
            self.score = score
            self.weights = [p.detach().cpu().clone() for p in self.roles.parameters("policy")]
        return score

    @torch.no_grad()
    def put_back(self) -> None:
        for parameter, kept in zip(self.roles.parameters("policy"), self.weights, strict=bool(self.weights)):
            parameter.copy_(kept)
