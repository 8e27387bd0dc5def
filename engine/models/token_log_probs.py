"""Log-probabilities of given tokens from hidden states, without logits and their log-softmax both being kept.

Over the vocabulary only the probabilities are kept for the way back, and they become the gradient in place: with
p = softmax(l) and g the gradient of log p[token], dl = g (onehot(token) - p).
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear

from engine.models.states import logit_changes, logits_of


class _LogProbs(torch.autograd.Function):
    """hidden [tokens, width], weight [vocabulary, width] (frozen), ids [tokens] -> [tokens], float32."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, ids: Tensor, temperature: float) -> Tensor:
        logits = linear(hidden, weight).float()
        if temperature != 1:
            logits.div_(temperature)
        ids = ids.unsqueeze(-1)
        chosen, highest = logits.gather(-1, ids), logits.amax(-1, keepdim=True)
        p = torch.softmax(logits, -1, out=logits)
        # The highest logit has probability exp(highest - logsumexp), which cannot underflow as the chosen one's may.
        log_sum = highest - p.amax(-1, keepdim=True).log()
        ctx.save_for_backward(p, weight, ids)
        ctx.temperature, ctx.dtype = temperature, hidden.dtype
        return (chosen - log_sum).squeeze(-1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        p, weight, ids = ctx.saved_tensors
        g = (gradients[0] / ctx.temperature).unsqueeze(-1)
        into_logits = p.mul_(-g).scatter_add_(-1, ids, g)
        return into_logits.to(ctx.dtype) @ weight, None, None, None


def _is_plain(model: Any) -> bool:
    """Whether logits are hidden states times a frozen matrix and no more: no bias, cap, scale or shift."""
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear or head.bias is not None or head.weight.requires_grad or head._forward_hooks:
        return False
    return not logit_changes(model)


def token_log_probs(model: Any, hidden: Tensor, ids: Tensor, temperature: float = 1.0) -> Tensor:
    """log p [tokens] of `ids` [tokens] under softmax(logits / temperature) of `hidden` [tokens, width].

    Its gradient can be taken once.
    """
    if _is_plain(model):
        return _LogProbs.apply(hidden, model.get_output_embeddings().weight, ids, temperature)
    return -cross_entropy(logits_of(model, hidden) / temperature, ids, reduction="none")
