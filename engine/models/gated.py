"""A gated MLP, y = down(act(gate(x)) * up(x)) (Shazeer 2020), that keeps two wide tensors for its way back, not four.

The usual one keeps gate(x), act(gate(x)), up(x) and the product of the last two. From the first and the third the
others are computed again, which takes far less time than a product of matrices.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, silu

from engine.models.lora import product, product_back
from engine.models.plain import MLP
from engine.models.states import near


class Act(NamedTuple):
    """An activation, of each number by itself."""

    there: Callable[[Tensor], Tensor]
    back: Callable[[Tensor, Tensor], Tensor]  # the gradient of what went in, from that of what came out and itself


def _gelu(approximate: str) -> Act:
    back = torch.ops.aten.gelu_backward
    return Act(partial(gelu, approximate=approximate), lambda out, x: back(out, x, approximate=approximate))


ACTS = (Act(silu, torch.ops.aten.silu_backward), _gelu("tanh"), _gelu("none"))


class GatedProduct(torch.autograd.Function):
    """gate, up [tokens, in] -> act(gate) * up through a linear layer with an adapter, [tokens, out].

    The layer, a [rank, in] and b [out, rank] are as for `lora.LoraProduct`.
    """

    @staticmethod
    def forward(
        ctx: Any, gate: Tensor, up: Tensor, act: Act, layer: nn.Module, a: Tensor, b: Tensor, scale: float
    ) -> Tensor:
        a, b = a.to(gate.dtype), b.to(gate.dtype)
        y, low = product(act.there(gate) * up, layer, a, b, scale)
        ctx.save_for_backward(gate, up, low, a, b)
        ctx.act, ctx.layer, ctx.scale = act, layer, scale
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        gate, up, low, a, b = ctx.saved_tensors
        opened, needed = ctx.act.there(gate), [True, *ctx.needs_input_grad[4:6]]
        into, into_a, into_b = product_back(gradients[0], opened * up, low, ctx.layer, a, b, ctx.scale, needed)
        assert into is not None
        return ctx.act.back(into * up, gate), into.mul_(opened), None, None, into_a, into_b, None


@cache
def _lean(kind: Any, act: Act) -> Any:
    """`kind` of MLP with this activation, but for how it computes where an adapter learns."""

    class Lean(kind):
        gated = True

        def forward(self, x: Tensor) -> Tensor:
            down: Any = self.down_proj
            adapter = down.alone(x.dtype) if getattr(down, "lean", False) and torch.is_grad_enabled() else None
            if adapter is None:
                return super().forward(x)
            parts = [layer(x).flatten(0, -2) for layer in (self.gate_proj, self.up_proj)]
            return GatedProduct.apply(*parts, act, down.base_layer, *adapter).view(*x.shape[:-1], -1)

    Lean.__name__ = kind.__name__
    return Lean


@torch.no_grad()
def make_gated(model: Any) -> None:
    """Have those MLPs of `model` computed so of which it is the same."""
    kinds: dict[type, Act | None] = {}
    for module in model.modules():
        if getattr(module, "gated", False) or {name for name, _ in module.named_children()} != MLP:
            continue
        kind: Any = type(module)
        if kind not in kinds:
            kinds[kind] = _act_of(module) if _is_gated(module, model.get_input_embeddings().weight) else None
        if act := kinds[kind]:
            module.__class__ = _lean(kind, act)


def _is_gated(mlp: Any, like: Tensor) -> bool:
    x = torch.linspace(-2, 3, mlp.gate_proj.in_features).to(like).unsqueeze(0)
    return near(mlp.down_proj(mlp.act_fn(mlp.gate_proj(x)) * mlp.up_proj(x)), mlp(x), 1)


def _act_of(mlp: Any) -> Act | None:
    x = torch.linspace(-4, 4, 33, device=mlp.gate_proj.weight.device)
    return next((act for act in ACTS if torch.allclose(act.there(x), mlp.act_fn(x), atol=1e-6)), None)
