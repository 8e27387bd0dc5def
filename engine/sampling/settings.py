"""How answers are drawn. Needs no torch."""

from dataclasses import asdict, dataclass

from engine.errors import UserError

DRAWN = 16  # answers to a question where few are to be ranked: those that differ most


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn. temperature 0 is greedy; top_p 1 and top_k 0 leave the distribution whole."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_new_tokens: int = 96

    def __post_init__(self) -> None:
        if self.temperature < 0 or not 0 < self.top_p <= 1 or self.top_k < 0 or self.max_new_tokens < 1:
            raise UserError(
                "These sampling settings make no sense: temperature must be 0 or more, top-p above 0 and "
                "at most 1, top-k 0 or more, and the longest answer at least 1 token."
            )

    def as_dict(self) -> dict:
        return asdict(self)
