"""A model's shape, read from its files: what decides its memory and its time. Needs no torch."""

import json
import struct
from dataclasses import dataclass
from pathlib import Path

from engine.errors import UserError

# What a block keeps of a token for its backward pass with LoRA on every linear layer and frozen weights, where the
# gradient of an adapter or a nonlinearity needs it: so many of the model's width, of the keys' and of the MLP's inner.
# Counting by hand gives 11, 5 and 3; runs on a CPU take five sixths of that (benchmarks/estimate.py). On a GPU a norm
# keeps what it reads alone, and torch's attention and products keep nothing twice (benchmarks/gpu.py).
KEPT = {"cpu": (9.2, 4.2, 2.5), "cuda": (7.0, 2.0, 2.0)}


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

    def kept(self, device: str = "cpu") -> float:
        """Numbers that a block keeps for a token on the way there, on a "cpu" or on "cuda"."""
        width, keys, inner = KEPT[device]
        return width * self.width + keys * self.keys + inner * self.inner

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


def _config_of(folder: Path) -> dict:
    """What config.json says of the model that reads and writes text."""
    config = json.loads((folder / "config.json").read_text())
    return config.get("text_config", config)


def _told(folder: Path, *names: str) -> int | None:
    """What config.json has under the first of `names` that it knows; None where it cannot be read or knows none."""
    try:
        config = _config_of(folder)
    except (OSError, ValueError):
        return None
    return next((config[name] for name in names if config.get(name)), None)


def reach(folder: Path) -> int | None:
    """How many tokens the model reads; None where its config.json does not say."""
    return _told(folder, "max_position_embeddings", "n_positions")


def blocks_of(folder: Path) -> int | None:
    """How many blocks the model has; None where its config.json does not say."""
    return _told(folder, "num_hidden_layers", "n_layer")


def shape_of(folder: Path) -> Shape:
    """Read a model's shape from config.json. Raises UserError where it is not a transformer of a known, dense kind."""
    try:
        return _shape_of(folder)
    except (OSError, ValueError, TypeError, struct.error) as error:
        raise UserError(f"What a run on {folder.name} needs cannot be told: its files are not whole.") from error


def _shape_of(folder: Path) -> Shape:
    config = _config_of(folder)

    def get(*names: str) -> int:
        found = next((config[n] for n in names if config.get(n)), None)
        if found is None:
            raise UserError(f"What a run on {folder.name} needs cannot be told: its config.json has no {names[0]}.")
        return int(found)

    if any(config.get(name) for name in ("num_experts", "num_local_experts", "n_routed_experts")):
        raise UserError(f"What a run on {folder.name} needs cannot be told: it chooses among experts.")
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
