"""Before and after: the same prompts, the same seeds, two model versions."""

from dataclasses import dataclass

from engine.evaluation.winrate import win_rate
from engine.models.chat import Message
from engine.models.roles import Roles
from engine.sampling.answers import Answer, answer
from engine.sampling.settings import Sampling
from engine.training.passes import Encoded, Scorer, whole_log_probs


@dataclass(frozen=True)
class Item:
    """One prompt answered by both. Rewards are None without a reward model."""

    prompt: str
    before: Answer
    after: Answer
    reward_before: float | None
    reward_after: float | None
    kl: float  # log pi_after - log pi_before of the after answer, nats: a one-sample estimate of KL


def compare(
    roles: Roles,
    before: str | None,
    after: str | None,
    conversations: list[list[Message]],
    sampling: Sampling,
    seed: int,
    reward: Scorer | None,
) -> tuple[list[Item], dict]:
    """Answer `conversations` with both roles and the same seeds; returns the items and their summary."""
    seeds = [seed + i for i in range(len(conversations))]
    first = answer(roles, before, conversations, sampling, seeds)
    second = answer(roles, after, conversations, sampling, seeds)
    temperature = sampling.temperature or 1.0
    pairs = [Encoded(a.prompt_ids, a.ids) for a in second]
    likely = (whole_log_probs(roles, role, pairs, temperature) for role in (after, before))
    kls = [a - b for a, b in zip(*likely, strict=True)]
    scores: list[tuple[float | None, float | None]] = [(None, None)] * len(first)
    if reward is not None:
        both = [reward.scores(side).tolist() for side in (first, second)]
        scores = list(zip(*both, strict=True))
    items = [
        Item(c[-1]["content"], b, a, rb, ra, kl)
        for c, b, a, (rb, ra), kl in zip(conversations, first, second, scores, kls, strict=True)
    ]
    return items, summary(items)


def summary(items: list[Item]) -> dict:
    """What a comparison comes to. The win rate here is the reward model's; a person's votes are counted apart."""
    count = len(items)
    result: dict = {
        "prompts": count,
        "kl": sum(i.kl for i in items) / count,
        "length_before": sum(len(i.before.ids) for i in items) / count,
        "length_after": sum(len(i.after.ids) for i in items) / count,
        "distinct_before": len({i.before.text for i in items}),
        "distinct_after": len({i.after.text for i in items}),
    }
    scored = [(i.reward_before, i.reward_after) for i in items if i.reward_before is not None]
    if scored:
        result["judge"] = "reward model"
        result |= win_rate([a - b for b, a in scored if a is not None and b is not None])
        result["reward_before"] = sum(b for b, _ in scored if b is not None) / count
        result["reward_after"] = sum(a for _, a in scored if a is not None) / count
    return result
