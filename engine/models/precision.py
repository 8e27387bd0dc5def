"""The precision that this machine computes a model of a given shape in fastest: tried once, and remembered.

A CPU that knows bf16 takes half of float32's time for wide models and twice as much for narrow ones; one that does not
takes many times as long. A GPU from before 2020 knows float16 alone. So a block of the model's shape is tried. Needs
torch only for trying.
"""

import json
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from engine.machine import Precision
from engine.models.shape import Shape

# What is tried, the usual one first. On CPUs float16 took twenty times as long as float32, and longer.
CANDIDATES: dict[str, tuple[Precision, ...]] = {"cpu": ("float32", "bf16"), "cuda": ("bf16", "float16")}
PAYS = 1.25  # how many times as fast another has to be for the usual one to be left
SMALL = 50_000_000  # parameters up to which nothing is tried: it would be over soon either way
TOKENS, FEW = 256, 16  # that go through the block; that are enough to see what is hopeless
HOPELESS = 8  # times as slow as the usual one with a few tokens: a CPU that only emulates it
ENOUGH = 1.0  # seconds of trying
HEAD = 64  # width of a head


def _file() -> Path:
    return user_cache_path("rlhf-studio") / "precision.json"


def _all_known() -> dict[str, dict[Precision, float]]:
    try:
        return json.loads(_file().read_text())
    except (OSError, ValueError):  # nothing yet, or half a file
        return {}


def _name(shape: Shape, device: str) -> str:
    return f"{platform.node()} {device} torch {version('torch')} {shape.width} x {shape.inner}"


def known(shape: Shape, device: str) -> dict[Precision, float]:
    """Seconds of a pass there and back by precision, as they were remembered; {} where none were."""
    return _all_known().get(_name(shape, device), {})


def remember(shape: Shape, device: str, seconds: dict[Precision, float]) -> None:
    with suppress(OSError):  # a full or read-only disk: it is tried again next time
        _file().parent.mkdir(parents=True, exist_ok=True)
        _file().write_text(json.dumps(_all_known() | {_name(shape, device): seconds}, indent=1))


def fastest(shape: Shape | None, device: str) -> Precision:
    """The precision for a model of `shape` on `device` ("cpu" or "cuda") by what is known of it."""
    usual, *others = CANDIDATES[device]
    seconds = known(shape, device) if shape and shape.parameters > SMALL else {}
    faster = [p for p in others if p in seconds and seconds[p] * PAYS < seconds[usual]]
    return min(faster, key=seconds.__getitem__, default=usual)


def measured(shape: Shape, device: str) -> dict[Precision, float]:
    """Seconds of a pass there and back by precision, tried now, and remembered."""
    passes = {precision: _a_pass(shape, device, precision) for precision in CANDIDATES[device]}
    for there_and_back in passes.values():
        there_and_back(FEW)  # the first takes longer
    found = {precision: _timed(there_and_back, FEW) * TOKENS / FEW for precision, there_and_back in passes.items()}
    usual = found[CANDIDATES[device][0]]
    tried = {precision: work for precision, work in passes.items() if found[precision] < HOPELESS * usual}
    for precision, there_and_back in tried.items():
        there_and_back(TOKENS)
        found[precision] = float("inf")
    began = time.monotonic()
    while time.monotonic() - began < ENOUGH:  # in turn, so that a slow moment of the machine is none's alone
        for precision, there_and_back in tried.items():
            found[precision] = min(found[precision], _timed(there_and_back, TOKENS))
    remember(shape, device, found)
    return found


def _timed(there_and_back: Callable[[int], None], tokens: int) -> float:
    started = time.perf_counter()
    there_and_back(tokens)
    return time.perf_counter() - started


def choose(shape: Shape | None, device: str) -> Precision:
    """The fastest precision, tried first where that is worth it and was not done before."""
    if shape and shape.parameters > SMALL and not known(shape, device):
        measured(shape, device)
    return fastest(shape, device)


def _a_pass(shape: Shape, device: str, precision: Precision) -> Callable[[int], None]:
    """Takes so many tokens through one Llama block of `shape`, its weights frozen, there and back, and waits."""
    import torch
    from transformers import LlamaConfig, LlamaModel

    from engine.models.load import DTYPES

    heads = -(-shape.width // HEAD)
    config = LlamaConfig(
        vocab_size=1, pad_token_id=None, hidden_size=shape.width, intermediate_size=shape.inner, num_hidden_layers=1,
        num_attention_heads=heads, num_key_value_heads=heads, head_dim=HEAD,
    )  # fmt: skip
    block: Any = LlamaModel(config).requires_grad_(False)
    block.to(device, DTYPES[precision])

    def there_and_back(tokens: int) -> None:
        given = torch.randn(1, tokens, shape.width, device=device, dtype=DTYPES[precision], requires_grad=True)
        block(inputs_embeds=given)[0].float().mean().backward()
        if device == "cuda":
            torch.cuda.synchronize()

    return there_and_back
