"""Reward model: the base with its own adapter and a head on the last token, trained on a person's feedback.

The last token is the one that opens the person's next turn: there a language model has to have made up its mind how
the answer will be taken, which is just what the head is to learn. It is told the answer's length beside, and what it
weighs turns with what was asked (`models.heads.RewardHead`).

Loss: Bradley-Terry over all pairs of each ranking (`losses.ranking_losses`), and proportional odds for ratings
(`losses.ordinal_losses`). Several heads, or several adapters, make an ensemble whose disagreement says how sure it
is; each weighs the feedback its own way (the Bayesian bootstrap, Rubin 1981). Afterwards scores are shifted and
scaled to mean 0 and variance 1 on answers of the starting policy (Ziegler et al. 2019, section 2.2).
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from engine.errors import UserError
from engine.feedback.examples import Ranking, Valued, messages_of
from engine.methods import losses
from engine.methods.settings import RewardConfig
from engine.models.chat import Message, encode_prompt, encode_response, next_turn
from engine.models.heads import RewardHead
from engine.models.roles import Roles, check_base
from engine.models.states import states_at
from engine.sampling.answers import Answer, answer
from engine.sampling.settings import Sampling
from engine.training.batches import pad_ranks, pad_right, spread
from engine.training.context import Context, Silent
from engine.training.fit import Figures, Objective, fit
from engine.training.passes import Encoded

# Pieces of feedback from which on the gates learn as fast as the rest of the head. From fewer it is taken for likelier
# that a taste is plain: what happened to be asked says little yet of what it turns with.
TURNS_FREELY = 40


@dataclass
class RewardModel:
    """Scores answers: the mean of its heads' scores, each (head(last hidden state) - mean) / std.

    With `pessimism` k, less k times the standard deviation between heads (a lower bound where they disagree).
    """

    roles: Roles
    members: list[tuple[str, RewardHead]]  # (adapter, heads on it)
    mean: float = 0.0
    std: float = 1.0
    pessimism: float = 0.0

    def __post_init__(self) -> None:
        self.opener = next_turn(self.roles.tokenizer)

    def pad(self, pairs: Sequence[Encoded], limit: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """(ids, mask) [rows, time] of prompts and answers, the next turn's opening behind each, and the places
        [rows, 2] of the question's last token and of the row's.

        Of a row that is longer than `limit` tokens, or than the model reads, the start is left out.
        """
        limit = min(limit or 1 << 30, self.roles.tokenizer.model_max_length)
        rows = [[*pair.prompt, *pair.answer, *self.opener][-limit:] for pair in pairs]
        behind = [len(pair.answer) + len(self.opener) for pair in pairs]  # the question
        places = [(max(len(row) - 1 - after, 0), len(row) - 1) for row, after in zip(rows, behind, strict=True)]
        ids, mask = pad_right(rows, self.roles.tokenizer.pad_token_id)
        device = self.roles.base.device
        return ids.to(device), mask.to(device), torch.tensor(places, device=device)

    def raw(self, ids: Tensor, mask: Tensor, places: Tensor) -> Tensor:
        """Scores [rows, heads] before normalisation of whole sequences [rows, time], padded on either side, that are
        read at `places` [rows, 2]."""
        found = []
        for role, head in self.members:
            with self.roles.acting(role) as model:
                found.append(head(*states_at(model, ids, mask, places).unbind(1), self.tokens(places)))
        return torch.cat(found, -1)

    def tokens(self, places: Tensor) -> Tensor:
        """How many tokens each row's answer has [rows], at least 1."""
        return (places[:, 1] - places[:, 0] - len(self.opener)).clamp_min(1)

    @torch.no_grad()
    def each(self, pairs: Sequence[Encoded], batch: int = 64) -> Tensor:
        """Normalised scores [rows, heads] of prompts and answers, on the CPU."""
        order = sorted(range(len(pairs)), key=lambda i: len(pairs[i].prompt) + len(pairs[i].answer))
        found: dict[int, Tensor] = {}
        for start in range(0, len(order), batch):
            index = order[start : start + batch]
            raw = self.raw(*self.pad([pairs[i] for i in index])).float().cpu()
            found.update(zip(index, (raw - self.mean) / self.std, strict=True))
        return torch.stack([found[i] for i in range(len(pairs))])

    def summed_up(self, each: Tensor) -> Tensor:
        """One score a row from the scores of all heads."""
        mean = each.mean(-1)
        return mean - self.pessimism * each.std(-1) if self.pessimism and each.shape[-1] > 1 else mean

    def scores(self, answers: list[Answer]) -> Tensor:
        """Normalised scores [answers], on the CPU."""
        return self.summed_up(self.each([Encoded(a.prompt_ids, a.ids) for a in answers]))

    def score_texts(self, items: list[tuple[list[Message], str, bool]]) -> Tensor:
        """Normalised scores [rows] of (conversation, answer, whether it ended by itself)."""
        return self.summed_up(self.each([encoded(self.roles.tokenizer, *item) for item in items]))

    def save(self, folder: Path, facts: dict | None = None) -> None:
        """Write adapters, heads and normalisation; every adapter beyond the first into a folder of its own."""
        meta = {
            "kind": "reward", "reward_mean": self.mean, "reward_std": self.std, "adapters": len(self.members)
        }  # fmt: skip
        for number, (role, head) in enumerate(self.members):
            place = folder / f"member-{number}" if number else folder
            self.roles.save(role, place, meta | (facts or {}))
            head.save(place)


def load_reward(roles: Roles, folder: Path) -> RewardModel:
    """A saved reward model, its adapters loaded as roles. Raises UserError where it belongs to another base."""
    facts = check_base(folder, roles.base)
    members = []
    for number in range(facts.get("adapters", 1)):
        place, role = (folder / f"member-{number}", f"reward-{number}") if number else (folder, "reward")
        head = RewardHead.load(place, roles.base.device)
        roles.load(role, place)
        members.append((role, head))
    return RewardModel(roles, members, facts["reward_mean"], facts["reward_std"])


def encoded(tokenizer, messages: list[Message], response: str, finished: bool = True) -> Encoded:
    """Token ids of a conversation and of the answer to it."""
    return Encoded(encode_prompt(tokenizer, messages), encode_response(tokenizer, response, finished))


def _encoded_all(tokenizer, ranking: Ranking) -> list[Encoded]:
    pairs = zip(ranking.responses, ranking.finished, strict=True)
    return [encoded(tokenizer, messages_of(ranking.prompt), text, done) for text, done in pairs]


class FeedbackObjective(Objective[Ranking | Valued]):
    """The loss of one adapter and its heads on rankings and ratings."""

    def __init__(self, reward: RewardModel, config: RewardConfig):
        self.reward, self.config = reward, config
        self.role, self.head = reward.members[0]
        self.encoded: dict[Ranking | Valued, list[Encoded]] = {}  # every epoch sees the same texts
        device = reward.roles.base.device
        # Where one grade ends and the next begins: the first cut, and the gaps between (kept positive).
        self.first_cut = nn.Parameter(torch.tensor(-1.5, device=device))
        self.gaps = nn.Parameter(torch.full((3,), 0.54, device=device))  # softplus(0.54) = 1

    @property
    def cuts(self) -> Tensor:
        return torch.cat([self.first_cut.reshape(1), self.first_cut + softplus(self.gaps).cumsum(0)])

    def weight(self, example: Ranking | Valued) -> float:
        return self.config.rating_weight if isinstance(example, Valued) else 1.0

    def _bootstrap(self, examples: Sequence[Ranking | Valued]) -> Tensor:
        """How much each head cares for each example [examples, heads]: exponential with mean 1, 1 for a lone head."""
        heads = self.head.count
        if heads == 1 and self.config.adapters == 1:
            return torch.ones(len(examples), 1)
        draws = [random.Random(f"{self.role} {self.config.seed} {e!r}") for e in examples]
        return torch.tensor([[rng.expovariate(1) for _ in range(heads)] for rng in draws])

    def rows(self, example: Ranking | Valued) -> list[Encoded]:
        """The token ids of the example's prompt and each of its answers."""
        if example not in self.encoded:
            tokenizer = self.reward.roles.tokenizer
            if isinstance(example, Ranking):
                self.encoded[example] = _encoded_all(tokenizer, example)
            else:
                one = encoded(tokenizer, messages_of(example.prompt), example.response, example.finished)
                self.encoded[example] = [one]
        return self.encoded[example]

    def loss(self, part: list[Ranking | Valued]) -> tuple[Tensor, Figures]:
        device = self.reward.roles.base.device
        rankings = [e for e in part if isinstance(e, Ranking)]
        rated = [e for e in part if isinstance(e, Valued)]
        examples: list[Ranking | Valued] = [*rankings, *rated]
        rows = [row for example in examples for row in self.rows(example)]
        with self.reward.roles.acting(self.role, train=True) as model:
            ids, mask, places = self.reward.pad(rows, self.config.max_length)
            states = states_at(model, ids, mask, places)
            scores = self.head(*states.unbind(1), self.reward.tokens(places))
        weights = self._bootstrap(examples).to(device)
        total = scores.sum() * 0
        figures: Figures = {}
        if rankings:
            ranks, present = pad_ranks([r.ranks for r in rankings], device)
            ranked = scores[: int(present.sum())]
            for h in range(self.head.count):
                each = losses.ranking_losses(spread(ranked[:, h], present), ranks, present, self.config.margin)
                total = total + (weights[: len(rankings), h] * each).sum() / self.head.count
            mean = spread(ranked.detach().mean(-1), present)
            figures["accuracy"] = losses.ranking_accuracy(mean, ranks, present)
        if rated:
            grades = torch.tensor([v.grade for v in rated], device=device)
            for h in range(self.head.count):
                each = losses.ordinal_losses(scores[-len(rated) :, h], grades, self.cuts)
                scaled = self.config.rating_weight * weights[-len(rated) :, h] * each
                total = total + scaled.sum() / self.head.count
        return total, figures


@torch.no_grad()
def ranking_scores(reward: RewardModel, rankings: Sequence[Ranking]) -> list[list[float]]:
    """The score of every response of every ranking."""
    flat = reward.each([s for r in rankings for s in _encoded_all(reward.roles.tokenizer, r)])
    scores = iter(reward.summed_up(flat).tolist())
    return [[next(scores) for _ in r.responses] for r in rankings]


def accuracy(reward: RewardModel, rankings: Sequence[Ranking]) -> tuple[int, int]:
    """(pairs ordered right, untied pairs) over `rankings`."""
    if not rankings:
        return 0, 0
    ranks, present = pad_ranks([r.ranks for r in rankings], torch.device("cpu"))
    scores = torch.tensor([s for row in ranking_scores(reward, rankings) for s in row])
    return losses.ranking_accuracy(spread(scores, present), ranks, present)


def train_reward(
    roles: Roles,
    train: Sequence[Ranking],
    test: Sequence[Ranking],
    config: RewardConfig,
    context: Context | None = None,
    ratings: Sequence[Valued] = (),
    checkpoints: Path | None = None,
) -> tuple[RewardModel, dict[str, float]]:
    """Train a reward model, its first adapter the role "reward". Returns it, not yet normalised, and its figures.

    ratings: rated responses, for the ordinal loss. Raises UserError where the feedback prefers nothing over anything.
    """
    context = context or Silent()
    if len({v.grade for v in ratings}) < 2:
        ratings = ()  # nothing on the scale to tell apart
    if not ratings and not any(len(set(r.ranks)) > 1 for r in train):
        raise UserError("The feedback says of no answer that it is better than another. Rank or edit some answers.")
    examples: list[Ranking | Valued] = [*train, *ratings]
    members: list[tuple[str, RewardHead]] = []
    for number in range(config.adapters):
        role = f"reward-{number}" if number else "reward"
        own = replace(config, seed=config.seed + number)
        roles.add(role, rank=config.rank, seed=own.seed)
        head = RewardHead(roles.width, config.heads, config.gates, own.seed, config.told_length, roles.head_scale)
        members.append((role, head.to(roles.base.device)))
        objective = FeedbackObjective(RewardModel(roles, [(role, head)]), own)
        turning = config.head_learning_rate * min(1.0, len(examples) / TURNS_FREELY)
        groups = [
            {"params": roles.parameters(role), "lr": config.rate(roles.blocks)},
            {"params": [head.weight, head.bias, head.asked], "lr": config.head_learning_rate},
            {"params": [head.turned], "lr": turning},
            {"params": [objective.first_cut, objective.gaps], "lr": config.head_learning_rate},
        ]
        kept = checkpoints / role if checkpoints else None
        fit("reward", examples, objective, groups, own, context, kept, roles.base.half)
        head.requires_grad_(False)
    reward = RewardModel(roles, members)
    right, pairs = accuracy(reward, test)
    figures: dict[str, float] = {
        "held_out_pairs": pairs, "train_rankings": len(train), "test_rankings": len(test), "ratings": len(ratings)
    }  # fmt: skip
    if pairs:
        figures["held_out_accuracy"] = right / pairs
        context.metrics("reward", config.steps(len(examples)), {"held_out_accuracy": right / pairs})
    return reward, figures


def normalise(
    reward: RewardModel,
    start: str | None,
    reference: str | None,
    prompts: list[list[Message]],
    sampling: Sampling,
    seed: int,
) -> None:
    """Set the reward's mean and std so that answers of the role `start` to `prompts` score mean 0, variance 1.

    Where they differ less than those of `reference`, these have variance 1 instead: a policy that was taught a taste
    in an earlier round answers much alike, and the little there is to choose from must not count for all there was.
    """
    drawn = [
        answer(reward.roles, role, prompts, sampling, [seed + i for i in range(len(prompts))])
        for role in dict.fromkeys((start, reference))
    ]
    raw = [
        reward.each([Encoded(a.prompt_ids, a.ids) for a in side]).mean(-1) * reward.std + reward.mean for side in drawn
    ]
    reward.mean = float(raw[0].mean())
    reward.std = max(*(float(side.std()) for side in raw), 1e-3)
