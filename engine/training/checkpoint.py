"""What a training run needs to go on as if nothing had happened: trained weights, optimiser state and a few numbers.

Randomness is no part of it: every method draws it from (seed, step), so a resumed run draws what it would have drawn.
"""

from pathlib import Path
from typing import Any

import torch

NAME = "training.pt"


def exists(folder: Path) -> bool:
    return (folder / NAME).is_file()


def _trained(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def save(folder: Path, optimizer: torch.optim.Optimizer, **facts: Any) -> None:
    """Keep everything `optimizer` trains, its own state, and `facts`. Written whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = [p.detach().cpu() for p in _trained(optimizer)]
    torch.save({"weights": weights, "optimizer": optimizer.state_dict(), **facts}, folder / "training.tmp")
    (folder / "training.tmp").replace(folder / NAME)


def load(folder: Path, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Put the state in `folder` back and return its facts; {} where there is none."""
    if not exists(folder):
        return {}
    trained = _trained(optimizer)
    state = torch.load(folder / NAME, map_location=trained[0].device, weights_only=True)
    with torch.no_grad():
        for parameter, saved in zip(trained, state.pop("weights"), strict=True):
            parameter.copy_(saved)
    optimizer.load_state_dict(state.pop("optimizer"))
    return state
