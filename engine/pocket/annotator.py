"""The simulated annotator: ranks answers by a stated taste. It stands in for a person in tests and in `demo`.

A taste is one word or several joined by "+": warm, rude, neutral, terse, rambling, correct, fitting. Each gives a score
from 0 to 1, and a compound taste is their sum. "fitting" depends on what was asked: terse about facts, warm about
everything else. Answers that score alike are a tie. An answer outside the pocket model's grammar is worse than any
other.
"""

import random
from collections.abc import Callable
from itertools import combinations

from engine.errors import UserError
from engine.pocket.corpus import understand
from engine.pocket.grammar import Analysis, Request, analyse, kinds

# Upper ends of the steps in which the annotator sees length, in words; within a step lengths look alike.
WORD_STEPS = (2, 4, 8, 14, 22, 32, 45)

TASTES: dict[str, Callable[[Request, Analysis], float]] = {
    "warm": lambda request, a: (a.warmth + 2) / 4,
    "rude": lambda request, a: (2 - a.warmth) / 4,
    "neutral": lambda request, a: 1 - abs(a.warmth) / 2,
    "terse": lambda request, a: 1 - _length_step(a) / len(WORD_STEPS),
    "rambling": lambda request, a: _length_step(a) / len(WORD_STEPS),
    "correct": lambda request, a: {"right": 1.0, "evasive": 0.5, "wrong": 0.0}[a.correctness],
    "fitting": lambda request, a: TASTES["terse" if _factual(request) else "warm"](request, a),
}


def _length_step(a: Analysis) -> int:
    return sum(a.words > step for step in WORD_STEPS)


def _factual(request: Request) -> bool:
    return request.kind in kinds() and kinds()[request.kind].fact


class SimulatedAnnotator:
    """Ranks by `prefer`, and errs in a share `errs` of the pairs. Raises UserError for a taste it does not have."""

    def __init__(self, prefer: str, errs: float = 0.0, seed: int = 0):
        self.prefer, self.errs = prefer, errs
        self.parts = prefer.split("+")
        self.rng = random.Random(f"annotator {seed}")
        unknown = [p for p in self.parts if p not in TASTES]
        if unknown:
            raise UserError(f'The simulated annotator has no taste "{unknown[0]}". Choose from {", ".join(TASTES)}.')

    def score(self, request: Request, found: Analysis) -> float:
        """How much it likes what `analyse` found, from 0 to the number of tastes; -1 outside the grammar."""
        if not found.well_formed:
            return -1.0
        return sum(TASTES[part](request, found) for part in self.parts)

    def rank(self, prompt: str, responses: list[str]) -> list[int]:
        """The rank of each response, best 1; equal scores share a rank.

        One that errs compares every pair, gets some wrong, and ranks by how many comparisons each response won.
        """
        request = understand(prompt)
        scores = [round(self.score(request, analyse(request, r)), 6) for r in responses]
        if self.errs:
            wins = [0.0] * len(scores)
            for i, j in combinations(range(len(scores)), 2):
                better = 0.5 * (1 + (scores[i] > scores[j]) - (scores[i] < scores[j]))
                if self.rng.random() < self.errs:
                    better = 1 - better
                wins[i] += better
                wins[j] += 1 - better
            scores = wins
        ordered = sorted(set(scores), reverse=True)
        return [ordered.index(s) + 1 for s in scores]
