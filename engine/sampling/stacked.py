"""A model's linear layers that read the same, as one product, in memory that stays while adapters change."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from engine.models.lora import active, base_of
from engine.models.plain import linears
from engine.sampling.blocks import Block, Linears


class Stacked(Linears):
    """Linear layers that read the same, as one: y = x W^T + b + s (x A^T) B^T with W, b, A and B of all of them.

    W is where the layers' own weights lie from now on, and A lies below it, so that x W^T and x A^T are one product.
    4-bit weights stay where they are. B has zeros where one layer's output would see another's x A^T.
    """

    def __init__(self, layers: list[Any]):
        super().__init__(layers)
        self.bases = [base_of(layer) for layer in layers]
        self.sizes = [base.out_features for base in self.bases]
        self.out = sum(self.sizes)
        self.weight: Tensor | None = None
        self.bias: Tensor | None = None
        if all(type(base) is nn.Linear and not base.weight.requires_grad for base in self.bases):
            self.weight = _side_by_side([base.weight for base in self.bases], _ranks(layers))
            if any(base.bias is not None for base in self.bases):
                self.bias = self.weight.new_zeros(len(self.weight))
        self.adapters: dict[tuple, tuple[Tensor, Tensor]] = {}  # (A, B) by their kind
        self.kind: tuple = ()  # (rank, scale) of the adapter that is on; () for none

    def refresh(self, like: Tensor) -> None:
        """Take what biases and the adapter's weights are now, in the precision of `like`."""
        if self.bias is not None:
            for part, base in zip(self.bias[: self.out].split(self.sizes), self.bases, strict=True):
                if base.bias is not None:
                    part.copy_(base.bias)
        found = [active(layer) for layer in self.layers]
        adapters = [pair for pair in found if pair]
        self.kind = ()
        if not adapters:
            return
        kinds = {(len(a), scale) for a, _, scale in adapters}
        if len(kinds) > 1 or len(adapters) < len(found):
            raise ValueError("layers that read the same have adapters that differ")
        (self.kind,) = kinds
        a, b = torch.cat([a for a, _, _ in adapters]), torch.block_diag(*(b for _, b, _ in adapters))
        if self.kind not in self.adapters:
            below = a.to(like.dtype) if self.weight is None else self.weight[self.out : self.out + len(a)]
            self.adapters[self.kind] = (below, torch.empty_like(b, dtype=like.dtype))
        for place, values in zip(self.adapters[self.kind], (a, b), strict=True):
            place.copy_(values)

    def together(self, x: Tensor) -> Tensor:
        a, b = self.adapters[self.kind] if self.kind else (None, None)
        if self.weight is not None:
            rows = self.out + (0 if a is None else len(a))
            both = linear(x, self.weight[:rows], None if self.bias is None else self.bias[:rows])
            y, low = both[:, : self.out], both[:, self.out :]
        else:
            parts = [base(x) for base in self.bases]
            y = torch.cat(parts, -1) if len(parts) > 1 else parts[0]
            low = y if a is None else x @ a.t()
        return y if b is None else y.addmm_(low, b.t(), alpha=self.kind[1])

    def apart(self, x: Tensor) -> Sequence[Tensor]:
        return self.together(x).split(self.sizes, -1)


def _ranks(layers: list[Any]) -> int:
    """How many rows the largest adapters of `layers` have, their A one below the other."""
    return sum(max((len(a.weight) for a in getattr(layer, "lora_A", {}).values()), default=0) for layer in layers)


def _side_by_side(weights: list[nn.Parameter], more: int) -> Tensor:
    """The weights [out, in] one above the other with room for `more` rows; each is a part of the whole from now on."""
    out = sum(map(len, weights))
    whole = weights[0].new_zeros(out + more, weights[0].shape[1])
    for weight, part in zip(weights, whole[:out].split([len(weight) for weight in weights]), strict=True):
        weight.data = part.copy_(weight.data)
    return whole


class Stacks:
    """A model's blocks, their linear layers stacked."""

    def __init__(self, model: Any):
        self.layers = list(model.get_decoder().layers)
        self.blocks = [Block(layer, Stacked) for layer in self.layers]
        self.known = self._weights()

    def _weights(self) -> list[tuple[int, int, int]]:
        """Which linear layers the model has, where their weights lie and how large their adapters are: an adapter that
        comes first or goes last replaces the layers."""
        return [(id(layer), base_of(layer).weight.data_ptr(), _ranks([layer])) for layer in linears(self.layers)]

    def still_fit(self) -> bool:
        return self.known == self._weights()

    def refresh(self, like: Tensor) -> tuple:
        """Take what the adapters' weights are now, in the precision of `like`; returns which kinds are on."""
        parts: list[Any] = [part for block in self.blocks for part in block.linears]
        for part in parts:
            part.refresh(like)
        return tuple(part.kind for part in parts)
