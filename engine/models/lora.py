"""A LoRA layer as one step of the graph: y = x W^T + s (x A^T) B^T (Hu et al. 2021, eq. 3).

PEFT's own is seven steps, four of which run through memory as large as y and keep some of it for the way back. Here
products are added in place and only x and x A^T are kept, in the precision that is computed in (PEFT's own keeps x in
float32 too). Same result and gradients to rounding. An NF4 weight is unpacked once on either way.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from peft.tuners.lora import Linear, LoraLayer
from torch import Tensor, nn

LEAN = (torch.float32, torch.bfloat16, torch.float16)  # what may go through such layers


def _unpacked(layer: Any, dtype: torch.dtype) -> Tensor:
    """The weight [out, in] of a plain linear layer or of one in NF4."""
    if type(layer) is nn.Linear:
        return layer.weight
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(layer.weight.data, layer.weight.quant_state).to(dtype)


def product(x: Tensor, layer: nn.Module, a: Tensor, b: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """(y [tokens, out], x A^T [tokens, rank]), all in the precision of x [tokens, in]."""
    low = x @ a.t()
    return layer(x).addmm_(low, b.t(), alpha=scale), low


def product_back(
    out: Tensor, x: Tensor, low: Tensor, layer: Any, a: Tensor, b: Tensor, scale: float, needed: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The gradients of x, a and b that are `needed`, from that of y, `out`; those of a and b in float32."""
    into_low = (out @ b).mul_(scale)
    into_x = (out @ _unpacked(layer, out.dtype)).addmm_(into_low, a) if needed[0] else None
    into_a = (into_low.t() @ x).float() if needed[1] else None
    into_b = (out.t() @ low).float().mul_(scale) if needed[2] else None
    return into_x, into_a, into_b


class LoraProduct(torch.autograd.Function):
    """x [tokens, in], a linear layer whose weights take no gradient, a [rank, in], b [out, rank] -> [tokens, out].

    a and b are float32, and so are their gradients.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: nn.Module, a: Tensor, b: Tensor, scale: float) -> Tensor:
        a, b = a.to(x.dtype), b.to(x.dtype)
        y, low = product(x, layer, a, b, scale)
        ctx.save_for_backward(x, low, a, b)
        ctx.layer, ctx.scale = layer, scale
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, low, a, b = ctx.saved_tensors
        needed = [ctx.needs_input_grad[i] for i in (0, 2, 3)]
        into_x, into_a, into_b = product_back(gradients[0], x, low, ctx.layer, a, b, ctx.scale, needed)
        return into_x, None, into_a, into_b, None


@cache
def lean(kind: Any) -> Any:
    """PEFT's own `kind` of LoRA layer, but for how it computes one active adapter."""

    class Lean(kind):
        lean = True

        def alone(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, float] | None:
            """(A, B, scale) of the one adapter that it computes of numbers of `dtype`; None where there is not one."""
            names = [name for name in self.active_adapters if name in self.lora_A]
            if self.disable_adapters or self.merged or len(names) != 1 or dtype not in LEAN:
                return None
            return self.lora_A[names[0]].weight, self.lora_B[names[0]].weight, self.scaling[names[0]]

        def forward(self, x: Tensor, *args: Any, **options: Any) -> Tensor:
            if self.disable_adapters and not self.merged:
                return self.base_layer(x)
            adapter = self.alone(x.dtype)
            if adapter is None or args or options:
                return super().forward(x, *args, **options)
            out = LoraProduct.apply(x.reshape(-1, x.shape[-1]), self.base_layer, *adapter)
            return out.view(*x.shape[:-1], -1)

    Lean.__name__ = f"Lean{kind.__name__}"  # PEFT knows its layers for linear ones by the name
    return Lean


def _can_be_lean(layer: nn.Module) -> bool:
    """Whether it is PEFT's layer for a plain linear one, or for one in NF4, and no variant of it."""
    if type(layer) is Linear:
        return type(layer.base_layer) is nn.Linear and layer.base_layer.weight.dtype in LEAN
    return isinstance(layer, LoraLayer) and type(layer).__name__ == "Linear4bit"


def make_lean(model: nn.Module) -> None:
    """Have those LoRA layers of `model` computed so that can be."""
    for layer in model.modules():
        if _can_be_lean(layer):
            kind: Any = type(layer)
            layer.__class__ = lean(kind)


def base_of(layer: Any) -> Any:
    """The layer below its adapters; itself where it has none."""
    return getattr(layer, "base_layer", layer)


def active(layer: Any) -> tuple[Tensor, Tensor, float] | None:
    """(A [rank, in], B [out, rank], scale) of the one adapter that `layer` computes; None where it computes none.

    Raises ValueError where there are several, or what it computes is not eq. 3.
    """
    if not hasattr(layer, "base_layer") or layer.disable_adapters:
        return None
    names = [name for name in layer.active_adapters if name in layer.lora_A]
    if layer.merged or len(names) > 1 or not getattr(layer, "lean", False):
        raise ValueError("not one plain adapter")
    if not names:
        return None
    return layer.lora_A[names[0]].weight, layer.lora_B[names[0]].weight, layer.scaling[names[0]]
