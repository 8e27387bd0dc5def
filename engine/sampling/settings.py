"""How answers are drawn. Needs no torch."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from engine.errors import UserError
from engine.models.find import POCKET
from engine.models.shape import reach

DRAWN = 16  # answers to a question where few are to be ranked: those that would tell most


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


# The built-in model says little at a time, and was made to be drawn from as it is. Drawn from so, others ramble unless
# they are large.
BUILT_IN = Sampling(temperature=1.0, max_new_tokens=96)
OTHERS = Sampling(temperature=0.7, max_new_tokens=256)


def _recommended(folder: Path) -> Sampling:
    """As the model's makers say in its generation_config.json; `OTHERS` where they are silent or make no sense."""
    try:
        said = json.loads((folder / "generation_config.json").read_text())
        return replace(OTHERS, **{name: said[name] for name in ("temperature", "top_p", "top_k") if said.get(name)})
    except (OSError, ValueError, TypeError, AttributeError, UserError):
        return OTHERS


def usual_sampling(base: str, needed: int = 0) -> Sampling:
    """How answers are drawn where a person has not said: those of the model in the folder `base` and of what was made
    from it. They may have `needed` tokens or more, and at most half of what the model reads."""
    folder = Path(base)
    own = BUILT_IN if folder.name == POCKET.name else _recommended(folder)
    room = (reach(folder) or 1 << 30) // 2
    return replace(own, max_new_tokens=max(1, min(max(own.max_new_tokens, needed), room)))
