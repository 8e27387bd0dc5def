"""Hidden states and logits of padded batches, computed for the real tokens alone and for none of them twice.

Padding is waste twice: it is computed, and masks keep attention off its fast path. So the real tokens of all rows go
through the model side by side as one long row (`layout`), and only attention, which alone looks from token to token,
sees rows again (the idea of padding-free batches: Dao et al. 2022 offer it on GPUs as variable-length attention).
Of the last block only what leads to the wanted states is computed.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from engine.models.attention import fastest
from engine.models.layout import Layout, lay_out
from engine.models.recompute import recomputes, recomputing
from engine.models.replayed import states_of

SIDE_BY_SIDE = "side_by_side"  # the name by which transformers finds the attention below


def attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: None, *, layout: Layout, **options: Any
) -> tuple[Tensor, None]:
    """Causal attention within each row of `layout`. query, key, value: [1, heads, tokens, width of a head]."""
    flat = [x.transpose(1, 2).reshape(x.shape[2], -1) for x in (query, key, value)]
    found = []
    for sources in layout.groups:
        rows, width = sources.shape
        apart = [
            x.index_select(0, sources.view(-1)).view(rows, width, *like.shape[1::2]).transpose(1, 2)
            for x, like in zip(flat, (query, key, value), strict=True)
        ]
        out, _ = fastest(query, width)(module, *apart, None, is_causal=True, **options)
        found.append(out.reshape(rows * width, -1))
    together = torch.cat(found).index_select(0, layout.cells)
    return together.view(1, len(layout.cells), query.shape[1], -1), None


AttentionInterface.register(SIDE_BY_SIDE, attention)
_able: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()  # models that compute the same side by side


@contextmanager
def attending(model: Any, way: str) -> Iterator[None]:
    """Within, `model` attends in the `way` of that name (transformers' AttentionInterface)."""
    config = model.config.get_text_config()
    usual = config._attn_implementation
    config._attn_implementation = way
    try:
        yield
    finally:
        config._attn_implementation = usual


def near(found: Tensor, expected: Tensor, layers: int) -> bool:
    """Whether states after so many layers are the same to rounding.

    bf16 rounds to 0.004; what the layers add to it adds up like a random walk, and the wider they are the more: 16 of
    width 2,048 differ by 0.018, 48 of width 512 by 0.015. A wrong way does far worse.
    """
    bound = 1e-4 if expected.dtype == torch.float32 else 0.01 * (2 + layers) ** 0.5
    return bool((found.float() - expected.float()).norm() <= bound * expected.float().norm())


def layers_of(model: Any) -> int:
    return int(model.config.get_text_config().num_hidden_layers)


class _Narrow:
    """A module that computes for the tokens `needed` alone; the others get zeros, at which nobody looks."""

    def __init__(self, module: nn.Module, needed: Tensor):
        self.needed, self.tokens = needed, 0
        self.handles = [module.register_forward_pre_hook(self.pick), module.register_forward_hook(self.spread)]

    def pick(self, module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        self.tokens = inputs[0].shape[1]
        return (inputs[0].index_select(1, self.needed),)

    def spread(self, module: nn.Module, inputs: tuple[Tensor], out: Tensor) -> Tensor:
        return out.new_zeros(1, self.tokens, out.shape[-1]).index_copy(1, self.needed, out)


@contextmanager
def _last_block_for(model: Any, needed: Tensor) -> Iterator[None]:
    """Have the last block compute for the tokens `needed` alone what no other token needs: queries, what becomes of
    attention's result, and the MLP."""
    blocks: list[Any] = list(getattr(model.get_decoder(), "layers", []))
    last = blocks[-1] if blocks and _is_plain(blocks[-1]) else None
    parts = [last.mlp, last.self_attn.q_proj, last.self_attn.o_proj] if last is not None else []
    narrowed = [_Narrow(part, needed) for part in parts]
    try:
        yield
    finally:
        for handle in (handle for part in narrowed for handle in part.handles):
            handle.remove()


def _is_plain(block: nn.Module) -> bool:
    """Whether a block has Llama's parts (most do), so that its MLP is of each token alone and gives one tensor."""
    names = {name for name, _ in block.named_modules()}
    return names >= {"self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}


def _one_row(model: Any, layout: Layout) -> Tensor:
    """The last hidden states [tokens, width] of a long row."""
    with attending(model, SIDE_BY_SIDE):
        return model.get_decoder()(
            input_ids=layout.ids.unsqueeze(0),
            position_ids=layout.positions.unsqueeze(0),
            use_cache=False,
            layout=layout,
        )[0][0]


def _side_by_side(model: Any, ids: Tensor, mask: Tensor, wanted: Tensor) -> Tensor:
    layout = lay_out(ids, mask)
    nodes = layout.nodes[wanted]

    def plain() -> Tensor:
        needed = nodes.unique()

        @contextmanager
        def surroundings() -> Iterator[None]:  # of a block that is computed again on the way back
            with attending(model, SIDE_BY_SIDE), _last_block_for(model, needed):
                yield

        with _last_block_for(model, needed), recomputing(model, surroundings):
            return _one_row(model, layout)

    # What is computed again on the way back is not recorded: memory is short.
    found = plain() if recomputes(model) else states_of(model, layout, partial(_one_row, model), plain)
    return found.index_select(0, nodes)


def _padded(model: Any, ids: Tensor, mask: Tensor, wanted: Tensor) -> Tensor:
    """Rows shifted to the left, where a causal model's real tokens never see what comes after them: no mask."""
    order = torch.argsort(~mask, dim=-1, stable=True)
    width = int(mask.sum(-1).max())
    ids, wanted = ids.gather(-1, order)[:, :width], wanted.gather(-1, order)[:, :width]
    with recomputing(model, nullcontext):
        return model.get_decoder()(input_ids=ids, use_cache=False)[0][wanted]


@torch.no_grad()
def _same(model: Any, device: torch.device) -> bool:
    """Whether `model` gives the same states both ways. Not every kind of model attends where it can be replaced, and
    some carry state from token to token in other ways."""
    ids = torch.arange(1, 16, device=device).view(3, 5)
    ids[2, :2] = ids[1, :2]
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[1, 3:] = False
    wanted = mask & (torch.arange(5, device=device) > 0)
    plain = _padded(model, ids, mask, wanted)
    try:
        return near(_side_by_side(model, ids, mask, wanted), plain, layers_of(model))
    except (TypeError, ValueError, RuntimeError):  # it takes no such attention
        return False


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


def real_states(model: Any, ids: Tensor, mask: Tensor, wanted: Tensor | None = None) -> Tensor:
    """Last hidden states of the tokens of `ids` [rows, time] that are `wanted` [rows, time], row by row:
    [wanted tokens, width]. Without `wanted` all real ones, where `mask` [rows, time] is.

    A row's real tokens stand together; padding may be on either side or on both.
    """
    way = _side_by_side if _fits_side_by_side(model, ids.shape[-1], ids.device) else _padded
    return way(model, ids, mask, mask if wanted is None else wanted & mask)


def states_at(model: Any, ids: Tensor, mask: Tensor, places: Tensor) -> Tensor:
    """Hidden states [rows, n, width] at `places` [rows, n] of each row of `ids` [rows, time]; all of them real."""
    wanted = torch.zeros_like(mask).scatter(-1, places, True)
    found = real_states(model, ids, mask, wanted)
    order = (wanted.view(-1).cumsum(0) - 1).view_as(wanted)
    return found[order.gather(-1, places)]


def logit_changes(model: Any) -> dict[str, float]:
    """What the model's configuration does to the logits that come out of its head, by the setting's name."""
    config = model.config.get_text_config()
    names = ("logit_scale", "logits_scaling", "final_logit_softcapping")
    return {name: value for name in names if (value := getattr(config, name, None))}


def logits_of(model: Any, hidden: Tensor) -> Tensor:
    """float32 logits [..., vocabulary] of hidden states, as the model's own forward pass computes them."""
    changes = logit_changes(model)
    logits = model.get_output_embeddings()(hidden)
    if scale := changes.get("logit_scale"):  # Cohere
        logits = logits * scale
    if scale := changes.get("logits_scaling"):  # Granite
        logits = logits / scale
    logits = logits.float()
    if cap := changes.get("final_logit_softcapping"):  # Gemma 2
        logits = torch.tanh(logits / cap) * cap
    return logits
