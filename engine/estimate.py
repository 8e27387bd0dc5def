"""What memory a run will need, from the model's shape and the settings.

Needs no torch.

Counted are tensors; what interpreter and libraries take comes on top. The factors of activations are the tensors that
a transformer block keeps for its backward pass with LoRA on every linear layer and frozen weights: those whose
gradient an adapter or a nonlinearity needs.
"""

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from engine.errors import UserError
from engine.jobs.config import Recompute, RunConfig
from engine.machine import FOLDED_BYTES, Precision

PROMPT = 32  # tokens of a prompt, where nothing is known of it
ANSWERED = 0.5  # share of the longest answer that an answer takes, where nothing is known of it
MOMENT = {"adamw": 4.0, "adamw-8bit": 1.02}  # bytes of a moment, with the scales of 8-bit blocks
BYTES = {"float32": 4.0, "bf16": 2.0, "nf4": 0.53}  # a weight; NF4 with its doubly quantised scales

# Tensors kept for a token in a block: so many of the model's width, of the keys' width and of the MLP's inner width.
# Counting them by hand gives 11, 5 and 5; a tenth more is what runs on a CPU take (benchmarks/estimate.py), where the
# pieces that are freed on the way are not all given back.
KEPT_WIDTH, KEPT_KEYS, KEPT_INNER = 12.0, 5.5, 5.5
KEPT_LOGITS = 1.0  # probabilities in float32, which become their own gradient
WORKSPACES = 40e6  # bytes that torch's kernels and its allocator take beside the tensors, by the same benchmark


@dataclass(frozen=True)
class Shape:
    """What of a model's configuration decides its memory. Widths in numbers, not bytes."""

    parameters: int
    layers: int
    width: int
    keys: int  # width of all keys together
    inner: int  # width inside the MLP
    vocabulary: int
    embedding: int  # parameters that quantisation leaves alone

    @property
    def kept(self) -> float:
        """Numbers that a block keeps for a token on the way there."""
        return KEPT_WIDTH * self.width + KEPT_KEYS * self.keys + KEPT_INNER * self.inner

    def adapter(self, rank: int) -> int:
        """Parameters of a LoRA adapter on every linear layer of a Llama-like block."""
        attention = 2 * (self.width + self.width) + 2 * (self.width + self.keys)
        return self.layers * rank * (attention + 3 * (self.width + self.inner))


# Sizes that people run, from the config.json of each, to say what fits on a machine.
KNOWN = {
    "Qwen2.5-0.5B": Shape(494_032_768, 24, 896, 128, 4864, 151_936, 136_134_656),
    "Llama-3.2-1B": Shape(1_235_814_400, 16, 2048, 512, 8192, 128_256, 262_668_288),
    "Qwen2.5-3B": Shape(3_085_938_688, 36, 2048, 256, 11_008, 151_936, 311_164_928),
    "Llama-3-8B": Shape(8_030_261_248, 32, 4096, 1024, 14_336, 128_256, 1_050_673_152),
    "Qwen2.5-14B": Shape(14_770_033_664, 48, 5120, 1024, 13_824, 152_064, 1_557_135_360),
    "Llama-3-70B": Shape(70_553_706_496, 80, 8192, 1024, 28_672, 128_256, 2_101_346_304),
}


def _parameters(folder: Path) -> int:
    """Numbers in all safetensors files, from their headers alone."""
    total = 0
    for file in folder.glob("*.safetensors"):
        with file.open("rb") as handle:
            (size,) = struct.unpack("<Q", handle.read(8))
            header = json.loads(handle.read(size))
        for name, entry in header.items():
            if name != "__metadata__":
                count = 1
                for side in entry["shape"]:
                    count *= side
                total += count
    return total


def shape_of(folder: Path) -> Shape:
    """Read a model's shape from config.json. Raises UserError where it is not a transformer of a known kind."""
    config = json.loads((folder / "config.json").read_text())
    config = config.get("text_config", config)

    def get(*names: str) -> int:
        found = next((config[n] for n in names if config.get(n)), None)
        if found is None:
            raise UserError(f"What a run on {folder.name} needs cannot be told: its config.json has no {names[0]}.")
        return int(found)

    width, heads = get("hidden_size", "n_embd"), get("num_attention_heads", "n_head")
    head = int(config.get("head_dim") or width // heads)
    vocabulary = get("vocab_size")
    tied = config.get("tie_word_embeddings", True)
    return Shape(
        parameters=_parameters(folder),
        layers=get("num_hidden_layers", "n_layer"),
        width=width,
        keys=head * int(config.get("num_key_value_heads") or heads),
        inner=int(config.get("intermediate_size") or config.get("n_inner") or 4 * width),
        vocabulary=vocabulary,
        embedding=vocabulary * width * (1 if tied else 2),
    )


def memory(
    shape: Shape, config: RunConfig, stage: str, precision: str, prompt: int = PROMPT, answer: int | None = None
) -> dict[str, float]:
    """Bytes at the peak of a stage ("ppo", "reinforce", or one on stored examples), by part, with their "total".

    prompt, answer: tokens that they take on average; an answer by default half of the longest allowed.
    """
    settings = getattr(config, stage)
    number = 4.0 if precision == "float32" else 2.0
    quantised = BYTES[precision] if precision == "nf4" else number
    inner = shape.parameters - shape.embedding
    weights = inner * quantised + shape.embedding * number
    adapter = shape.adapter(settings.rank)
    online = stage in ("ppo", "reinforce")
    if online:
        longest = settings.max_new_tokens
        answer = answer or max(1, int(ANSWERED * longest))
        rows = settings.episodes // max(1, settings.minibatches)
        adapters = 2 if stage == "ppo" else 1  # the policy's and the reward model's
        cache = settings.episodes * (prompt + answer) * 2 * shape.layers * shape.keys * number
    else:
        answer = answer or max(1, int(ANSWERED * config.ppo.max_new_tokens))
        rows = settings.batch * (4 if stage == "reward" else 1)
        adapters, cache = 1, 0.0
    rows = min(rows, settings.micro_batch * (4 if stage == "reward" else 1)) if settings.micro_batch else rows
    tokens = rows * (prompt + answer)
    folded = inner * number if online and precision == "float32" and inner * number <= FOLDED_BYTES else 0.0
    # Computed again on the way back, a block keeps its input until its turn comes.
    whole_blocks, inputs = (1, shape.layers) if config.recompute == "always" else (shape.layers, 0)
    parts = {
        "weights": weights,
        "adapters": adapters * adapter * 4.0,
        "optimiser": adapter * (4.0 + 2 * MOMENT[settings.optimizer]),  # gradient and AdamW's two moments
        "cache": cache,
        "folded": folded,
        "activations": tokens * (whole_blocks * shape.kept + inputs * shape.width) * number,
        "logits": 0.0 if stage == "reward" else rows * answer * shape.vocabulary * 4.0 * KEPT_LOGITS,
    }
    # Rollouts and training do not overlap: the peak holds the larger of the cache and of what training keeps.
    peak = max(parts["cache"] + parts["folded"], parts["activations"] + parts["logits"])
    return {**parts, "total": parts["weights"] + parts["adapters"] + parts["optimiser"] + peak + WORKSPACES}


def stages_of(method: str) -> tuple[str, ...]:
    """The stages of a run whose memory can be estimated."""
    if method == "improve":
        return ("reward", "ppo")
    return (method,) if method in ("reward", "ppo", "reinforce", "sft", "dpo", "kto", "ilql") else ()


def most(shape: Shape, config: RunConfig, stages: Sequence[str]) -> float:
    """Bytes that the hungriest of `stages` takes in `config`'s precision, which must not be "auto"."""
    return max(memory(shape, config, stage, config.precision)["total"] for stage in stages)


SPARE = 0.9  # share of the free memory that a run is planned into


def _part(shape: Shape, config: RunConfig, stage: str, precision: str, free: float) -> int | None:
    """The largest micro-batch, from the one that is set down, with which `stage` stays within `free` bytes; None if
    none does. 0 is for whole batches."""
    settings = getattr(config, stage)
    batch = settings.episodes // settings.minibatches if stage in ("ppo", "reinforce") else settings.batch
    rows = settings.micro_batch or batch
    for size in [settings.micro_batch] + [rows >> halvings for halvings in range(1, rows.bit_length())]:
        tried = replace(config, **{stage: replace(settings, micro_batch=size)})
        if memory(shape, tried, stage, precision)["total"] <= free:
            return size
    return None


def fitted(
    shape: Shape, config: RunConfig, stages: Sequence[str], usual: Precision, free: float
) -> tuple[RunConfig, bool]:
    """(`config` with what it leaves to the machine chosen for `free` bytes, whether it fits).

    An "auto" precision becomes the machine's `usual` one where that fits in parts of any size, else NF4; with either,
    "auto" recomputes blocks only where an example at a time does not fit otherwise. What was set stays. A micro-batch
    that does not fit is halved until it does. Where nothing fits, what was tried last, an example at a time.
    """
    room = SPARE * free
    precisions: tuple[Precision, ...] = (usual, "nf4") if config.precision == "auto" else (config.precision,)
    ways: tuple[Recompute, ...] = ("never", "always") if config.recompute == "auto" else (config.recompute,)
    parts: dict[str, int | None] = {}
    for precision, way in product(precisions, ways):
        config = replace(config, precision=precision, recompute=way)
        parts = {stage: _part(shape, config, stage, precision, room) for stage in stages}
        if None not in parts.values():
            break
    chosen = {s: replace(getattr(config, s), micro_batch=1 if size is None else size) for s, size in parts.items()}
    return replace(config, **chosen), None not in parts.values()
