"""How answers are drawn. Needs no torch."""

from dataclasses import asdict, dataclass
from pathlib import Path

from engine.errors import UserError
from engine.models.find import POCKET
from engine.models.shape import reach

DRAWN = 16  # answers to a question where few are to be ranked: those that differ most
LONGEST = 96  # tokens of an answer of the built-in model, which says little at a time
LONGEST_OF_OTHERS = 256


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn. temperature 0 is greedy; top_p 1 and top_k 0 leave the distribution whole."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_new_tokens: int = LONGEST

    def __post_init__(self) -> None:
        if self.temperature < 0 or not 0 < self.top_p <= 1 or self.top_k < 0 or self.max_new_tokens < 1:
            raise UserError(
                "These sampling settings make no sense: temperature must be 0 or more, top-p above 0 and "
                "at most 1, top-k 0 or more, and the longest answer at least 1 token."
            )

    def as_dict(self) -> dict:
        return asdict(self)


def usual_sampling(base: str, needed: int = 0) -> Sampling:
    """How answers are drawn where a person has not said: those of the model in the folder `base` and of what was made
    from it. They may have `needed` tokens or more, and at most half of what the model reads."""
    own = LONGEST if Path(base).name == POCKET.name else LONGEST_OF_OTHERS
    room = (reach(Path(base)) or 1 << 30) // 2
    return Sampling(max_new_tokens=max(1, min(max(own, needed), room)))
