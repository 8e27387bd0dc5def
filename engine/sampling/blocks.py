"""A Llama-like block's arithmetic for one more token of every row, in far fewer calls than the model's own pass.

The model's own takes a hundred modules a step, each several small operations, and on a small model, or on a GPU,
those calls are most of the time.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention

from engine.models.lora import base_of

# Takes the keys and values [rows, heads of both, width of a head] of the newest tokens; gives all that there are so
# far: keys, values, each [rows, heads, tokens, width of a head].
Cache = Callable[[Tensor], tuple[Tensor, Tensor]]


class Linears:
    """Linear layers that read the same, called one by one: as they are, or by themselves where no adapter is on."""

    def __init__(self, layers: list[Any]):
        self.layers = layers

    def apart(self, x: Tensor) -> Sequence[Tensor]:
        """What each layer makes of x [rows, in]."""
        return [_linear(layer, x) for layer in self.layers]

    def together(self, x: Tensor) -> Tensor:
        """The same side by side."""
        return torch.cat(self.apart(x), -1)  # type: ignore[arg-type]


def _linear(module: Any, x: Tensor) -> Tensor:
    layer = base_of(module)
    if type(layer) is not nn.Linear or (layer is not module and not module.disable_adapters):
        return module(x)
    return linear(x, layer.weight, layer.bias)


class Block:
    """One block of a model, its linear layers grouped by what they read."""

    def __init__(self, block: Any, kind: type[Linears] = Linears):
        attention, mlp = block.self_attn, block.mlp
        self.before_attention, self.before_mlp = block.input_layernorm, block.post_attention_layernorm
        self.head_norms: list[Any] = [getattr(attention, name, None) for name in ("q_norm", "k_norm")]
        self.reading = kind([attention.q_proj, attention.k_proj, attention.v_proj])
        self.attended = kind([attention.o_proj])
        self.opening, self.closing = kind([mlp.gate_proj, mlp.up_proj]), kind([mlp.down_proj])
        self.activation, self.scale, self.width = mlp.act_fn, attention.scaling, attention.head_dim
        queries, self.keys = (part.out_features // self.width for part in (attention.q_proj, attention.k_proj))
        self.heads = queries + 2 * self.keys

    @property
    def linears(self) -> list[Linears]:
        return [self.reading, self.attended, self.opening, self.closing]

    def __call__(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, cache: Cache) -> Tensor:
        """x [rows, width] after the block. cos, sin: as `Turns.at` gives them; mask: [rows, 1, 1, tokens]."""
        heads = self.reading.together(norm(self.before_attention, x)).view(len(x), self.heads, self.width)
        if self.head_norms[0] is not None:
            query, key, value = heads.split([self.heads - 2 * self.keys, self.keys, self.keys], 1)
            heads = torch.cat([norm(self.head_norms[0], query), norm(self.head_norms[1], key), value], 1)
        heads = torch.addcmul(heads * cos, heads.roll(self.width // 2, -1), sin)
        query, new = heads.split([self.heads - 2 * self.keys, 2 * self.keys], 1)
        keys, values = cache(new)
        # The queries that share keys attend together, as if they were so many tokens.
        query = query.reshape(len(x), self.keys, -1, self.width)
        seen = scaled_dot_product_attention(query, keys, values, mask, scale=self.scale)
        x = x + self.attended.apart(seen.reshape(len(x), -1))[0]
        gate, up = self.opening.apart(norm(self.before_mlp, x))
        return x + self.closing.apart(self.activation(gate).mul_(up))[0]


class Turns:
    """What the heads of `block` are turned by at each position (RoPE, Su et al. 2021), in the precision of `like`."""

    def __init__(self, decoder: Any, block: Block, like: Tensor, positions: int):
        every = torch.arange(positions, device=like.device).unsqueeze(0)
        cos, sin = (table[0] for table in decoder.rotary_emb(like, every))  # [positions, width of a head]
        # x turned is x cos + (-second half, first half) sin: the sign goes into the table.
        self.cos, self.sin = cos, torch.cat([-sin[:, : sin.shape[-1] // 2], sin[:, sin.shape[-1] // 2 :]], -1)
        self.turned, self.still = block.heads - block.keys, block.keys

    def at(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """(cos, sin), each [rows, heads, width of a head], for rows at `positions` [rows]: values stay as they are, so
        that one operation is enough for queries, keys and values."""
        found = []
        for table, still in ((self.cos, 1.0), (self.sin, 0.0)):
            here = table.index_select(0, positions).unsqueeze(1)
            found.append(
                torch.cat(
                    [here.expand(-1, self.turned, -1), torch.full_like(here, still).expand(-1, self.still, -1)], 1
                )
            )
        return found[0], found[1]


def norm(module: Any, x: Tensor) -> Tensor:
    return rms_norm(x, x.shape[-1:], module.weight, module.variance_epsilon)
