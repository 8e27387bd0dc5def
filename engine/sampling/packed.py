"""A model's linear layers that read the same, as one product with its adapter folded in, laid out for few rows.

A step's products have as many rows as there are answers, and what takes the time is to bring the weights into the order
that a CPU's kernels read them in, which a product does anew each time. oneDNN does it once, for all steps of a batch.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from engine.machine import PACKED_BYTES
from engine.models.lora import active, base_of
from engine.models.plain import linears
from engine.models.recompute import recomputes
from engine.models.states import logit_changes
from engine.sampling.blocks import Linears


class Packed(Linears):
    """Linear layers that read the same, as one: y = x W'^T + b, with W' = W + s B A and b of all of them.

    They compute what they were when this was made, whatever becomes of their weights.
    """

    @torch.no_grad()
    def __init__(self, layers: list[Any]):
        super().__init__(layers)
        bases = [base_of(layer) for layer in layers]
        weights = [_folded(layer) for layer in layers]
        self.sizes = [len(weight) for weight in weights]
        whole = torch.cat(weights) if len(weights) > 1 else weights[0]
        self.weight: Tensor = torch.ops.mkldnn._reorder_linear_weight(whole)
        self.bias: Tensor | None = None
        if any(base.bias is not None for base in bases):
            self.bias = torch.cat([whole.new_zeros(base.out_features) if base.bias is None else base.bias
                                   for base in bases])  # fmt: skip

    def together(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")

    def apart(self, x: Tensor) -> Sequence[Tensor]:
        return self.together(x).split(self.sizes, -1)


def _folded(layer: Any) -> Tensor:
    weight, adapter = base_of(layer).weight, active(layer)
    if adapter is None:
        return weight
    a, b, scale = adapter
    return torch.addmm(weight, b, a, alpha=scale)


def _can_be_packed(layer: Any) -> bool:
    base = base_of(layer)
    return type(base) is nn.Linear and base.weight.dtype == torch.float32 and base.weight.device.type == "cpu"


def packs(model: Any) -> bool:
    """Whether the blocks of `model`, a plain one, are worth packing: small, in float32 and on a CPU.

    Packed weights are there twice, which is too much of wide models and where memory is short. Rounding bf16 or NF4
    again would change what is sampled.
    """
    layers = linears(model.get_decoder().layers)
    if recomputes(model) or not torch.backends.mkldnn.is_available() or not all(map(_can_be_packed, layers)):
        return False
    return sum(base_of(layer).weight.nbytes for layer in layers) <= PACKED_BYTES


def packed_head(model: Any) -> Callable[[Tensor], Tensor] | None:
    """What gives logits from hidden states; None where they are more than one product, or a hook has its say."""
    head = model.get_output_embeddings()
    if logit_changes(model) or head._forward_hooks or not _can_be_packed(head) or head.weight.nbytes > PACKED_BYTES:
        return None
    return Packed([head]).together
