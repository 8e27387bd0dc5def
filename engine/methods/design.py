"""Which answers to a question a person is asked to rank: those that would tell most beside what was asked before.

Answers drawn by chance are often alike in what a person goes by, and to rank like answers tells little; so does it to
rank once more what differs as the last ones did. Taken that a liking is linear in the base's states x after the
answers, with weights of a normal prior, a ranking of k answers of which no order is likelier yet tells of them as much
as k / 4 sum_i (x_i - mean x)(x_i - mean x)^T (each pair a Bradley-Terry choice at even odds), whatever the person says.
So the answers can be chosen, before anything is ranked, by how much they add to the logarithm of that information's
determinant: a Bayesian D-optimal design (Chaloner and Verdinelli 1995, "Bayesian experimental design: a review"; for
lists that people rank Mukherjee et al. 2024, "Optimal design for human preference elicitation").
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from engine.methods.reward import RewardModel
from engine.models.roles import Roles
from engine.models.states import states_at
from engine.training.passes import Encoded

# How far apart, in logits, two answers to a question are taken to be liked before anything is known (the root of the
# mean square). Between a half and four times that it makes little difference.
APART = 2.8
REMEMBERED = 1024  # answers that were asked about


class Design:
    """What was asked so far of one base's answers, and what to ask next."""

    def __init__(self) -> None:
        self.spreads: list[float] = []  # of the answers to a question: the mean square of x less their mean
        self.asked = torch.empty(0, 0)  # [answers, width]: x less the mean of the k shown, times the root of k / 4

    def choose(self, states: Tensor, count: int) -> list[int]:
        """Places of `count` of the answers to one question, in their order; from here on these count as asked about.

        states: [answers, width], the base's after each.
        """
        states = states.double()
        apart = states - states.mean(0)
        if not self.spreads:
            self.asked = states[:0]
        self.spreads.append(float(apart.square().sum(-1).mean()))
        scale = APART**2 / max(2 * sum(self.spreads) / len(self.spreads), 1e-9)
        chosen = _most_telling(scale * self._unknown(apart, scale), count)
        told = (len(chosen) / 4) ** 0.5 * (states[chosen] - states[chosen].mean(0))
        self.asked = torch.cat([self.asked, told])[-REMEMBERED:]
        return chosen

    def _unknown(self, apart: Tensor, scale: float) -> Tensor:
        """What is unknown yet of the answers' likings: their covariance [answers, answers] / scale, given what was
        asked."""
        shared = self.asked @ apart.T
        known = torch.eye(len(self.asked), dtype=apart.dtype) + scale * self.asked @ self.asked.T
        return apart @ apart.T - scale * shared.T @ torch.linalg.solve(known, shared)


def _told(covariance: Tensor) -> float:
    """What a ranking of answers with this covariance [k, k] would tell of them, in nats, times two."""
    k = len(covariance)
    rows = covariance - covariance.mean(0)
    return float(torch.logdet(torch.eye(k, dtype=covariance.dtype) + k / 4 * (rows - rows.mean(1, keepdim=True))))


def _most_telling(covariance: Tensor, count: int) -> list[int]:
    """The two that would tell most, and from there on each time the one that adds most."""
    everyone = range(len(covariance))
    chosen: list[int] = []
    while len(chosen) < min(count, len(covariance)):
        left = [i for i in everyone if i not in chosen]
        more = [[i] for i in left] if chosen or count == 1 else [[i, j] for i in left for j in left if i < j]
        chosen += max(more, key=lambda new: _told(covariance[[*chosen, *new]][:, [*chosen, *new]]))
    return sorted(chosen)


@torch.no_grad()
def most_telling_answers(design: Design, roles: Roles, answers: Sequence[Encoded], count: int) -> list[int]:
    """Places of `count` of the answers to one prompt, in their order, as `Design.choose` has them."""
    ids, mask, places = RewardModel(roles, []).pad(answers)  # as a reward model reads them
    with roles.acting(None) as model:
        _, after = states_at(model, ids, mask, places).unbind(1)
    return design.choose(after.cpu(), count)
