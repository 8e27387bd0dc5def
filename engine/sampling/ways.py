"""The kind of step that a model takes: the fastest of those that say what its own pass says."""

import logging
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from engine.errors import UserError
from engine.models.plain import is_plain
from engine.models.states import layers_of, logits_of, near
from engine.sampling.recorded import RecordedSteps
from engine.sampling.steps import LeanSteps, OwnSteps, Steps

log = logging.getLogger("engine")

Way = Callable[[OwnSteps, int], Steps]  # what goes on from prompts that were read, for so many tokens

WAYS: dict[str, tuple[Way, ...]] = {"cpu": (LeanSteps,), "cuda": (RecordedSteps, LeanSteps)}  # the fastest first
_ways: WeakKeyDictionary[Any, Way] = WeakKeyDictionary()  # each model's


def _two_rows(model: Any) -> tuple[Tensor, Tensor]:
    """(ids, mask) [2, 4] to try a model on: the first row is padded."""
    ids = torch.arange(1, 9, device=model.get_output_embeddings().weight.device).view(2, 4)
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[0, :2] = False
    return ids, mask


def _same(model: Any, way: Way) -> bool:
    """Whether `way` gives the model's own states for a few tokens; configurations change arithmetic too."""
    ids, mask = _two_rows(model)
    found = []
    for steps in (OwnSteps(model, ids, mask), way(OwnSteps(model, ids, mask), 2)):
        first = steps.next(ids[:, 1])
        steps.keep(torch.tensor([1], device=ids.device))
        found.append(torch.cat([first, steps.next(ids[:1, 2])]))
    return near(found[1], found[0], layers_of(model))


def _own(own: OwnSteps, room: int) -> Steps:
    return own


def _way(model: Any, device: str) -> Way:
    for way in WAYS.get(device, ()):
        try:
            if _same(model, way):
                return way
        except torch.OutOfMemoryError:
            raise
        except (AttributeError, RuntimeError, TypeError, ValueError) as error:  # parts that it expects are not there
            log.info("%s: %s", type(error).__name__, error)
    return _own


_checked: WeakKeyDictionary[Any, None] = WeakKeyDictionary()  # models that write as they read


@torch.no_grad()
def check(model: Any) -> None:
    """Raises UserError where `model`, token by token beside padded rows, says other than its own pass over a whole
    row. Some keep what they have read in a cache of another kind, or give no states but logits: Mamba, for example.
    """
    if model in _checked:
        return
    ids, mask = _two_rows(model)
    refused = f"Models of the kind {model.config.model_type} cannot be used"
    try:
        steps = OwnSteps(model, ids, mask)
        steps.next(ids[:, 1])
        found = logits_of(model, steps.next(ids[:, 2]))
        rows = [torch.cat([row[real], row[1:3]]).unsqueeze(0) for row, real in zip(ids, mask, strict=True)]
        expected = torch.cat([model(input_ids=row, use_cache=False).logits[:, -1].float() for row in rows])
        apart = float((found - expected).norm() / expected.norm())
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"{refused} ({type(error).__name__}: {error}). Choose another base.") from error
    # Far more than rounding, which in half precision may also send a token to another expert; no number is wrong too.
    if not apart <= (0.01 if model.dtype == torch.float32 else 0.5):
        raise UserError(
            f"{refused}: token by token they say other things than in one pass over the same text. Choose another base."
        )
    _checked[model] = None


def steps_of(model: Any, ids: Tensor, mask: Tensor, room: int) -> tuple[Tensor, Steps]:
    """(last hidden states [rows, width] after the prompts `ids` [rows, time], padded on the left as `mask` says; what
    goes on from there, for `room` tokens at most)."""
    check(model)
    own = OwnSteps(model, ids, mask)
    # A window's cache forgets, so it cannot be given room.
    if not is_plain(model) or any(getattr(layer, "is_sliding", True) for layer in own.cache.layers):
        return own.first, own
    if model not in _ways:
        _ways[model] = _way(model, ids.device.type)
    return own.first, _ways[model](own, room)
