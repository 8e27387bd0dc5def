"""PyTorch's attention of bfloat16 numbers in float32, where a CPU is faster so, even one that multiplies bfloat16."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

IN_FLOAT32 = "sdpa_in_float32"  # the name by which transformers finds the attention below
# Tokens of a row times the width of a head up to which it is faster, there and back. In bfloat16 rows of 96, 160 and
# 320 tokens took 2.7, 2.0 and 1.1 times as long with heads of 64, and 1.7, 1.2 and 0.8 times with heads of 128.
SHORT = 20_480


def in_float32(module: Any, query: Tensor, key: Tensor, value: Tensor, *given: Any, **options: Any) -> tuple:
    """Shapes and what comes of it as of transformers' "sdpa"."""
    with torch.autocast(query.device.type, enabled=False):
        states, _ = ALL_ATTENTION_FUNCTIONS["sdpa"](
            module, query.float(), key.float(), value.float(), *given, **options
        )
    return states.to(query.dtype), None


AttentionInterface.register(IN_FLOAT32, in_float32)


def fastest(query: Tensor, tokens: int) -> Callable[..., tuple]:
    """What `query` [..., width of a head] had best attend by, in rows of so many tokens."""
    slow = query.device.type == "cpu" and query.dtype == torch.bfloat16 and torch.is_grad_enabled()
    return ALL_ATTENTION_FUNCTIONS[IN_FLOAT32 if slow and tokens * query.shape[-1] <= SHORT else "sdpa"]
