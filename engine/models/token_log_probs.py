"""Log-probabilities of given tokens from hidden states, no tensor over tokens and vocabulary kept for the way back.

With logits l = W h / T and p = softmax(l), log p[token] has the gradient (W[token] - W^T p) / T with respect to h. It
is computed on the way there, while p of a few tokens is at hand, and is as small as h (as Hsu et al. 2024, "Liger
Kernel", do for a mean loss).
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear

from engine.machine import LOGITS
from engine.models.states import logit_changes, logits_of


class _LogProbs(torch.autograd.Function):
    """hidden [tokens, width], weight [vocabulary, width] (frozen), ids [tokens] -> [tokens], float32."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, ids: Tensor, temperature: float) -> Tensor:
        found = torch.empty(ids.shape, device=ids.device)
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        size = max(1, LOGITS // len(weight))
        for start in range(0, len(ids), size):
            part = slice(start, start + size)
            logits = linear(hidden[part], weight).float()
            if temperature != 1:
                logits.div_(temperature)
            chosen, highest = logits.gather(-1, ids[part].unsqueeze(-1)).squeeze(-1), logits.amax(-1)
            p = torch.softmax(logits, -1, out=logits)
            # The highest logit's probability, exp(highest - logsumexp), cannot underflow as the chosen one's may.
            found[part] = chosen - (highest - p.amax(-1).log())
            if gradient is not None:
                torch.addmm(weight[ids[part]], p.to(weight.dtype), weight, alpha=-1, out=gradient[part])
        if gradient is not None:
            ctx.save_for_backward(gradient.div_(temperature))
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return (gradients[0].unsqueeze(-1) * gradient).to(gradient.dtype), None, None, None


def _is_plain(model: Any) -> bool:
    """Whether logits are hidden states times a frozen matrix and no more: no bias, cap, scale or shift."""
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear or head.bias is not None or head.weight.requires_grad or head._forward_hooks:
        return False
    return not logit_changes(model)


def token_log_probs(model: Any, hidden: Tensor, ids: Tensor, temperature: float = 1.0) -> Tensor:
    """log p [tokens] of `ids` [tokens] under softmax(logits / temperature) of `hidden` [tokens, width]."""
    if _is_plain(model):
        return _LogProbs.apply(hidden, model.get_output_embeddings().weight, ids, temperature)
    return -cross_entropy(logits_of(model, hidden) / temperature, ids, reduction="none")
