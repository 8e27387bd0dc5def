"""Models of Llama's blocks, whose arithmetic is known (most are)."""

from collections.abc import Iterable
from typing import Any

from torch import nn

_BLOCK = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
_ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
MLP = {"gate_proj", "up_proj", "down_proj", "act_fn"}


def _children(module: nn.Module) -> set[str]:
    return {name for name, _ in module.named_children()}


def is_plain(model: Any) -> bool:
    """Whether `model` has Llama's blocks, of weights of any precision, with adapters or without, with norms of each
    head's queries and keys (Qwen 3) or without."""
    decoder, config = model.get_decoder(), model.config.get_text_config()
    if _children(decoder) != {"embed_tokens", "layers", "norm", "rotary_emb"}:
        return False
    if config._attn_implementation != "sdpa":
        return False
    if getattr(decoder.rotary_emb, "rope_type", "dynamic") in ("dynamic", "longrope"):
        return False  # angles that change as a row grows
    if "llama_4_scaling_beta" in (getattr(config, "rope_parameters", None) or {}):
        return False  # queries that grow with their position
    if not hasattr(decoder.norm, "variance_epsilon"):
        return False
    return all(
        getattr(block.self_attn, "use_rope", True)  # SmolLM 3 turns nothing in some blocks
        and _children(block) == _BLOCK
        and _children(block.self_attn) - {"q_norm", "k_norm"} == _ATTENTION
        and _children(block.mlp) == MLP
        for block in decoder.layers
    )


def linears(blocks: Iterable[Any]) -> list[Any]:
    """The linear layers of a plain model's `blocks`, as they are now: adapters come and go."""
    return [
        getattr(part, name)
        for block in blocks
        for part, names in ((block.self_attn, ("q_proj", "k_proj", "v_proj", "o_proj")),
                            (block.mlp, ("gate_proj", "up_proj", "down_proj")))
        for name in names
    ]  # fmt: skip
