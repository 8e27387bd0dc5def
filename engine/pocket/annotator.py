"""The simulated annotator: ranks answers by a stated taste. It stands in for a person in tests and in `demo`.

A taste is one word or several joined by "+": warm, rude, neutral, terse, rambling, correct. Each gives a score
from 0 to 1, and a compound taste is their sum. Answers that score alike are a tie. An answer outside the pocket
model's grammar is worse than any other.
"""

from engine.errors import UserError
from engine.pocket.corpus import understand
from engine.pocket.grammar import Analysis, Request, analyse

# Upper ends of the steps in which the annotator sees length, in words; within a step lengths look alike.
WORD_STEPS = (2, 4, 8, 14, 22, 32, 45)

TASTES = {
    "warm": lambda a: (a.warmth + 2) / 4,
    "rude": lambda a: (2 - a.warmth) / 4,
    "neutral": lambda a: 1 - abs(a.warmth) / 2,
    "terse": lambda a: 1 - _length_step(a) / len(WORD_STEPS),
    "rambling": lambda a: _length_step(a) / len(WORD_STEPS),
    "correct": lambda a: {"right": 1.0, "evasive": 0.5, "wrong": 0.0}[a.correctness],
}


def _length_step(a: Analysis) -> int:
    return sum(a.words > step for step in WORD_STEPS)


class SimulatedAnnotator:
    """Ranks by `prefer`. Raises UserError for a taste it does not have."""

    def __init__(self, prefer: str):
        self.prefer = prefer
        self.parts = prefer.split("+")
        unknown = [p for p in self.parts if p not in TASTES]
        if unknown:
            raise UserError(f'The simulated annotator has no taste "{unknown[0]}". Choose from {", ".join(TASTES)}.')

    def score(self, request: Request, response: str) -> float:
        """How much it likes `response`, from 0 to the number of tastes; -1 outside the grammar."""
        found = analyse(request, response)
        if not found.well_formed:
            return -1.0
        return sum(TASTES[part](found) for part in self.parts)

    def rank(self, prompt: str, responses: list[str]) -> list[int]:
        """The rank of each response, best 1; equal scores share a rank."""
        request = understand(prompt)
        scores = [round(self.score(request, r), 6) for r in responses]
        ordered = sorted(set(scores), reverse=True)
        return [ordered.index(s) + 1 for s in scores]
