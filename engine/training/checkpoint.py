"""What a training run needs to go on as if nothing had happened: trained weights, optimiser state and a few numbers.

Randomness is no part of it: every method draws it from (seed, step), so a resumed run draws what it would have drawn.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from engine.errors import whole

NAME = "training.pt"
EVERY = 30.0  # seconds between two, where steps are short


class Stateful(Protocol):
    """An optimizer, or what steps one."""

    @property
    def param_groups(self) -> list[dict[str, Any]]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None: ...


def exists(folder: Path) -> bool:
    return (folder / NAME).is_file()


def _trained(optimizers: Sequence[Stateful]) -> list[torch.Tensor]:
    return [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]


def save(folder: Path, optimizers: Sequence[Stateful], **facts: Any) -> None:
    """Keep everything the optimizers train, their own state, and `facts`. Written whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = [p.detach().cpu() for p in _trained(optimizers)]
    states = [optimizer.state_dict() for optimizer in optimizers]
    torch.save({"weights": weights, "optimizers": states, **facts}, folder / "training.tmp")
    (folder / "training.tmp").replace(folder / NAME)


def load(folder: Path, optimizers: Sequence[Stateful]) -> dict[str, Any]:
    """Put the state in `folder` back and return its facts; {} where there is none."""
    if not exists(folder):
        return {}
    trained = _trained(optimizers)
    with whole(folder / NAME, "Delete that file, and the run begins this stage anew when it is resumed."):
        state = torch.load(folder / NAME, map_location=trained[0].device, weights_only=True)
        with torch.no_grad():
            for parameter, saved in zip(trained, state.pop("weights"), strict=True):
                parameter.copy_(saved)
        for optimizer, saved in zip(optimizers, state.pop("optimizers"), strict=True):
            optimizer.load_state_dict(saved)
    return state
