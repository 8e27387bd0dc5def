"""A LoRA layer as one step of the graph: y = x W^T + s (x A^T) B^T (Hu et al. 2021, eq. 3).

PEFT's own is seven steps, four of which run through memory as large as y and keep some of it for the way back. Here
products are added in place and only x and x A^T are kept, in the base's precision (PEFT's own keeps x in float32 too).
Same result and gradients to rounding.
"""

from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn

LEAN = (torch.float32, torch.bfloat16, torch.float16)  # kinds of weights, and of what goes through them


class LoraProduct(torch.autograd.Function):
    """x [tokens, in], weight [out, in], bias [out] or None, a [rank, in], b [out, rank] -> [tokens, out].

    Neither weight nor bias takes a gradient. a and b are float32, and so are their gradients.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> Tensor:
        a, b = a.to(x.dtype), b.to(x.dtype)
        low = x @ a.t()
        ctx.save_for_backward(x, weight, a, b, low)
        ctx.scale = scale
        return nn.functional.linear(x, weight, bias).addmm_(low, b.t(), alpha=scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, a, b, low = ctx.saved_tensors
        out = gradients[0]
        into_low = (out @ b).mul_(ctx.scale)
        into_x = (out @ weight).addmm_(into_low, a) if ctx.needs_input_grad[0] else None
        into_a = (into_low.t() @ x).float() if ctx.needs_input_grad[3] else None
        into_b = (out.t() @ low).float().mul_(ctx.scale) if ctx.needs_input_grad[4] else None
        return into_x, None, None, into_a, into_b, None


class LeanLinear(Linear):
    """PEFT's own layer, but for how it computes one active adapter on a base of `LEAN` weights."""

    def forward(self, x: Tensor, *args: Any, **options: Any) -> Tensor:
        if self.disable_adapters and not self.merged:
            return self.base_layer(x)
        active = [name for name in self.active_adapters if name in self.lora_A]
        if self.merged or args or options or len(active) != 1 or x.dtype not in LEAN:
            return super().forward(x, *args, **options)
        base, name = self.base_layer, active[0]
        a, b = self.lora_A[name].weight, self.lora_B[name].weight
        flat = x.reshape(-1, x.shape[-1])
        out = LoraProduct.apply(flat, base.weight, base.bias, a, b, self.scaling[name])
        return out.view(*x.shape[:-1], -1)


def make_lean(model: nn.Module) -> None:
    """Have the plain LoRA layers of `model` compute as `LeanLinear` does, where their weights are `LEAN`."""
    for layer in model.modules():
        if type(layer) is Linear and type(layer.base_layer) is nn.Linear and layer.base_layer.weight.dtype in LEAN:
            layer.__class__ = LeanLinear
