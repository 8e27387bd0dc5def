"""Hidden states and logits of padded batches, computed for the real tokens alone.

Padding is waste twice: it is computed, and masks keep attention off its fast path. So the real tokens of all rows go
through the model side by side as one long row, and only attention, which alone looks from token to token, sees rows
again (the idea of padding-free batches: Dao et al. 2022 offer it on GPUs as variable-length attention).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

SIDE_BY_SIDE = "side_by_side"  # the name by which transformers finds the attention below


class Rows(NamedTuple):
    """Where the tokens of one long row belong in `number` rows of `width`: [tokens], row by row."""

    number: int
    width: int
    places: Tensor


def attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: None, *, rows: Rows, **options: Any
) -> tuple[Tensor, None]:
    """Causal attention within each of `rows`. query, key, value: [1, heads, tokens, width of a head]."""

    def apart(x: Tensor) -> Tensor:
        heads, size = x.shape[1], x.shape[3]
        flat = x.transpose(1, 2).reshape(-1, heads * size)
        spread = flat.new_zeros(rows.number * rows.width, heads * size).index_copy(0, rows.places, flat)
        return spread.view(rows.number, rows.width, heads, size).transpose(1, 2)

    sdpa = ALL_ATTENTION_FUNCTIONS["sdpa"]
    out, _ = sdpa(module, apart(query), apart(key), apart(value), None, is_causal=True, **options)
    together = out.reshape(rows.number * rows.width, -1).index_select(0, rows.places)
    return together.view(1, len(rows.places), *out.shape[2:]), None


AttentionInterface.register(SIDE_BY_SIDE, attention)
_able: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()  # models that compute the same side by side


@contextmanager
def _attending_by_rows(model: Any) -> Iterator[None]:
    config = model.config.get_text_config()
    usual = config._attn_implementation
    config._attn_implementation = SIDE_BY_SIDE
    try:
        yield
    finally:
        config._attn_implementation = usual


def _side_by_side(model: Any, ids: Tensor, mask: Tensor) -> Tensor:
    positions = (mask.long().cumsum(-1) - 1)[mask]
    width = int(positions.max()) + 1
    row = torch.arange(len(mask), device=mask.device).unsqueeze(-1).expand_as(mask)[mask]
    rows = Rows(len(mask), width, row * width + positions)
    with _attending_by_rows(model):
        return model.get_decoder()(
            input_ids=ids[mask].unsqueeze(0), position_ids=positions.unsqueeze(0), use_cache=False, rows=rows
        )[0][0]


def _padded(model: Any, ids: Tensor, mask: Tensor) -> Tensor:
    """Rows shifted to the left, where a causal model's real tokens never see what comes after them: no mask."""
    order = torch.argsort(~mask, dim=-1, stable=True)
    width = int(mask.sum(-1).max())
    ids, kept = ids.gather(-1, order)[:, :width], mask.gather(-1, order)[:, :width]
    return model.get_decoder()(input_ids=ids, use_cache=False)[0][kept]


@torch.no_grad()
def _same(model: Any, device: torch.device) -> bool:
    """Whether `model` gives the same states both ways. Not every kind of model attends where it can be replaced, and
    some carry state from token to token in other ways."""
    ids = torch.arange(1, 11, device=device).view(2, 5)
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[1, 3:] = False
    plain = _padded(model, ids, mask).float()
    try:
        found = _side_by_side(model, ids, mask).float()
    except (TypeError, ValueError, RuntimeError):  # it takes no such attention
        return False
    # bf16 rounds to 0.004 or so; another row's tokens would do far worse in a trained model.
    bound = 1e-4 if next(model.parameters()).dtype == torch.float32 else 0.02
    return bool((found - plain).norm() <= bound * plain.norm())


def _fits_side_by_side(model: Any, longest: int, device: torch.device) -> bool:
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or [])
    if config._attn_implementation != "sdpa" or kinds - {"full_attention", "sliding_attention"}:
        return False
    reach = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    if any(limit and longest > limit for limit in reach):
        return False
    if model not in _able:
        _able[model] = _same(model, device)
    return _able[model]


def real_states(model: Any, ids: Tensor, mask: Tensor) -> Tensor:
    """Last hidden states of the tokens of `ids` [rows, time] where `mask`, row by row: [tokens, width].

    A row's real tokens stand together; padding may be on either side or on both.
    """
    way = _side_by_side if _fits_side_by_side(model, ids.shape[-1], ids.device) else _padded
    return way(model, ids, mask)


def last_states(model: Any, ids: Tensor, mask: Tensor) -> Tensor:
    """Hidden state [rows, width] of the last real token of each row of `ids` [rows, time]."""
    return real_states(model, ids, mask)[mask.sum(-1).cumsum(0) - 1]


def logits_of(model: Any, hidden: Tensor) -> Tensor:
    """float32 logits [..., vocabulary] of hidden states, as the model's own forward pass computes them."""
    config = model.config.get_text_config()
    logits = model.get_output_embeddings()(hidden)
    if scale := getattr(config, "logit_scale", None):  # Cohere
        logits = logits * scale
    if scale := getattr(config, "logits_scaling", None):  # Granite
        logits = logits / scale
    logits = logits.float()
    if cap := getattr(config, "final_logit_softcapping", None):  # Gemma 2
        logits = torch.tanh(logits / cap) * cap
    return logits
