"""The pass that gives one more token to every row: the model's own, or the same in far fewer calls.

On a small model a step's time is mostly calls, not arithmetic: the model's own takes a hundred modules, each several
small operations, and copies the whole cache to make it a token longer. `LeanSteps` does the arithmetic of a
Llama-like block directly, on a cache with room for the whole answer.
"""

from typing import Any, Protocol, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention
from transformers import DynamicCache

from engine.errors import UserError
from engine.models.states import logits_of, near


class Steps(Protocol):
    """Rows that are being written, their keys and values kept."""

    def next(self, tokens: Tensor) -> Tensor:
        """The last hidden states [rows, width] after `tokens` [rows], each row's newest."""
        ...

    def keep(self, rows: Tensor) -> None:
        """Go on with `rows` alone, in that order; a row may come more than once."""
        ...


class OwnSteps:
    """By the model's own forward pass."""

    def __init__(self, model: Any, ids: Tensor, mask: Tensor):
        self.model, self.mask = model, mask
        self.cache = DynamicCache(config=model.config)
        self.positions = (mask.long().cumsum(-1) - 1).clamp_min(0)
        self.first = self._pass(ids)  # [rows, width], after the prompts

    def _pass(self, ids: Tensor) -> Tensor:
        return self.model.get_decoder()(
            input_ids=ids,
            attention_mask=self.mask.long(),
            position_ids=self.positions,
            past_key_values=self.cache,
            use_cache=True,
        )[0][:, -1]

    def next(self, tokens: Tensor) -> Tensor:
        self.positions = self.positions[:, -1:] + 1
        self.mask = torch.cat([self.mask, torch.ones_like(self.mask[:, :1])], -1)
        return self._pass(tokens.unsqueeze(-1))

    def keep(self, rows: Tensor) -> None:
        self.cache.reorder_cache(cast(torch.LongTensor, rows))  # the way that layers with other states know too
        self.mask, self.positions = self.mask[rows], self.positions[rows]


class LeanSteps:
    """By the arithmetic of a Llama-like block, going on from a prompt that the model's own pass has read."""

    def __init__(self, own: OwnSteps, room: int):
        decoder = own.model.get_decoder()
        self.embed, self.norm, self.blocks = decoder.embed_tokens, decoder.norm, list(decoder.layers)
        self.width = own.mask.shape[-1]  # of the cache, so far
        self.positions = own.positions[:, -1]
        self.mask = nn.functional.pad(own.mask, (0, room), value=True)
        layers: list[Any] = own.cache.layers
        self.cache = [[nn.functional.pad(x, (0, 0, 0, room)) for x in (layer.keys, layer.values)] for layer in layers]
        last = int(self.positions.max()) + room
        tables = decoder.rotary_emb(self.cache[0][0], torch.arange(last + 1, device=own.mask.device).unsqueeze(0))
        self.cos, self.sin = (table[0] for table in tables)  # [positions, width of a head]
        # x rotated is x cos + (-second half, first half) sin: the sign goes into the table.
        self.sin = self.sin.clone()
        self.sin[:, : self.sin.shape[-1] // 2].neg_()

    def next(self, tokens: Tensor) -> Tensor:
        self.positions = self.positions + 1
        at, self.width = self.width, self.width + 1
        cos, sin = (table[self.positions].unsqueeze(1) for table in (self.cos, self.sin))
        mask = self.mask[:, None, None, : self.width]
        x = self.embed(tokens)
        for block, (keys, values) in zip(self.blocks, self.cache, strict=True):
            attention, mlp = block.self_attn, block.mlp
            h = _norm(block.input_layernorm, x)
            query, key, value = (
                _linear(part, h).view(len(x), -1, keys.shape[-1])
                for part in (attention.q_proj, attention.k_proj, attention.v_proj)
            )
            keys[:, :, at], values[:, :, at] = _rotated(key, cos, sin), value
            # The queries that share keys attend together, as if they were so many tokens.
            query = _rotated(query, cos, sin).view(len(x), keys.shape[1], -1, keys.shape[-1])
            seen = scaled_dot_product_attention(
                query, keys[:, :, : self.width], values[:, :, : self.width], mask, scale=attention.scaling
            )
            x = x + _linear(attention.o_proj, seen.reshape(len(x), -1))
            h = _norm(block.post_attention_layernorm, x)
            x = x + _linear(mlp.down_proj, mlp.act_fn(_linear(mlp.gate_proj, h)).mul_(_linear(mlp.up_proj, h)))
        return _norm(self.norm, x)

    def keep(self, rows: Tensor) -> None:
        for pair in self.cache:  # each by itself, so that the whole is not there twice
            pair[:] = [x[rows] for x in pair]
        self.mask, self.positions = self.mask[rows], self.positions[rows]


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [rows, heads, width] turned by its position; sin has the sign that goes with the halves changing places."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)


def _norm(module: Any, x: Tensor) -> Tensor:
    return rms_norm(x, x.shape[-1:], module.weight, module.variance_epsilon)


def _linear(module: Any, x: Tensor) -> Tensor:
    """A linear layer, by itself where it is plain and no adapter is on: one call instead of several."""
    layer = getattr(module, "base_layer", module)
    if type(layer) is not nn.Linear or (layer is not module and not module.disable_adapters):
        return module(x)
    return linear(x, layer.weight, layer.bias)


_BLOCK = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
_ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
_MLP = {"gate_proj", "up_proj", "down_proj", "act_fn"}
_able: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()  # models of which both kinds of step give the same


def _children(module: nn.Module) -> set[str]:
    return {name for name, _ in module.named_children()}


def _is_plain(model: Any) -> bool:
    """Whether `model` has Llama's blocks, of weights of any precision, with adapters or without."""
    decoder, config = model.get_decoder(), model.config.get_text_config()
    if _children(decoder) != {"embed_tokens", "layers", "norm", "rotary_emb"}:
        return False
    if config._attn_implementation != "sdpa":
        return False
    if getattr(decoder.rotary_emb, "rope_type", "dynamic") in ("dynamic", "longrope"):
        return False  # angles that change as a row grows
    if not hasattr(decoder.norm, "variance_epsilon"):
        return False
    return all(
        _children(block) == _BLOCK and _children(block.self_attn) == _ATTENTION and _children(block.mlp) == _MLP
        for block in decoder.layers
    )


def _two_rows(model: Any) -> tuple[Tensor, Tensor]:
    """(ids, mask) [2, 4] to try a model on: the first row is padded."""
    ids = torch.arange(1, 9, device=model.get_output_embeddings().weight.device).view(2, 4)
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[0, :2] = False
    return ids, mask


def _same(model: Any) -> bool:
    """Whether both kinds of step give the same states for a few tokens; configurations change arithmetic too."""
    ids, mask = _two_rows(model)
    both: list[Steps] = [OwnSteps(model, ids, mask), LeanSteps(OwnSteps(model, ids, mask), 2)]
    found = []
    for steps in both:
        first = steps.next(ids[:, 1])
        steps.keep(torch.tensor([1], device=ids.device))
        found.append(torch.cat([first, steps.next(ids[:1, 2])]))
    return near(*found)


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
    if not _is_plain(model) or any(getattr(layer, "is_sliding", True) for layer in own.cache.layers):
        return own.first, own
    if model not in _able:
        _able[model] = _same(model)
    return own.first, LeanSteps(own, room) if _able[model] else own
