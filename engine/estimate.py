"""What a run will need before it starts: memory from the model's shape and the settings, time from runs before it.

Needs no torch.

Counted are tensors; what interpreter and libraries take comes on top. The factors of activations are the tensors that
a transformer block keeps for its backward pass with LoRA on every linear layer and frozen weights: those whose
gradient an adapter or a nonlinearity needs.
"""

import json
import struct
from dataclasses import dataclass
from pathlib import Path

from engine.errors import UserError
from engine.jobs.config import RunConfig, read_config
from engine.store import runs
from engine.store.db import Store

PROMPT = 32  # tokens of a prompt, where nothing is known of it
ANSWERED = 0.5  # share of the longest answer that an answer takes, where nothing is known of it
BYTES = {"float32": 4.0, "bf16": 2.0, "nf4": 0.53}  # a weight; NF4 with its doubly quantised scales

# Tensors kept for a token in a block: so many of the model's width, of the keys' width and of the MLP's inner width.
# Counting them by hand gives 11, 5 and 5; half as much again is what runs on a CPU take (benchmarks/estimate.py), where
# the pieces that are freed on the way are not all given back.
KEPT_WIDTH, KEPT_KEYS, KEPT_INNER = 16.5, 7.5, 7.5
KEPT_LOGITS = 3.0  # logits in float32, their log-softmax and its gradient
WORKSPACES = 70e6  # bytes that torch's kernels and its allocator take beside the tensors, by the same benchmark


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

    def adapter(self, rank: int) -> int:
        """Parameters of a LoRA adapter on every linear layer of a Llama-like block."""
        attention = 2 * (self.width + self.width) + 2 * (self.width + self.keys)
        return self.layers * rank * (attention + 3 * (self.width + self.inner))


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
    weights = (shape.parameters - shape.embedding) * quantised + shape.embedding * number
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
    kept = KEPT_WIDTH * shape.width + KEPT_KEYS * shape.keys + KEPT_INNER * shape.inner
    parts = {
        "weights": weights,
        "adapters": adapters * adapter * 4.0,
        "optimiser": adapter * 12.0,  # gradient and AdamW's two moments
        "cache": cache,
        "activations": tokens * shape.layers * kept * number,
        "logits": 0.0 if stage == "reward" else rows * answer * shape.vocabulary * 4.0 * KEPT_LOGITS,
    }
    # Rollouts and training do not overlap: the peak holds the larger of the cache and of what training keeps.
    peak = max(parts["cache"], parts["activations"] + parts["logits"])
    return {**parts, "total": parts["weights"] + parts["adapters"] + parts["optimiser"] + peak + WORKSPACES}


def work(config: RunConfig, stage: str, feedback: int) -> float:
    """How much a stage does, in units that only compare with themselves. feedback: pieces it learns from."""
    if stage in ("ppo", "reinforce"):
        settings = getattr(config, stage)
        # An answer is written once, read by reference, reward and value once each, and twice (there and back) an epoch.
        return settings.updates * settings.episodes * (4 + 2 * settings.epochs)
    if stage == "compare":
        return config.compare.prompts
    if stage in ("reward", "sft", "dpo", "kto", "ilql"):
        settings = getattr(config, stage)
        return settings.steps(max(feedback, 1)) * settings.batch
    return 1.0


def seconds(store: Store, method: str, config: RunConfig, base_fingerprint: str, feedback: int) -> float | None:
    """How long a run will take, from the newest finished run of the method on the same base; None without one."""
    row = store.row(
        "SELECT r.id, r.config FROM runs r JOIN model_versions v ON v.id = r.parent_version_id "
        "WHERE r.method = ? AND r.status = 'finished' AND v.base_fingerprint = ? ORDER BY r.id DESC LIMIT 1",
        method,
        base_fingerprint,
    )
    if row is None:
        return None
    before = read_config(json.loads(row["config"]))
    used = store.rows("SELECT count(*) AS n FROM run_feedback WHERE run_id = ?", row["id"])[0]["n"]
    total = 0.0
    for stage in runs.stages_of(store, row["id"]):
        if stage["ended"]:
            ratio = work(config, stage["name"], feedback) / work(before, stage["name"], used)
            total += (stage["ended"] - stage["started"]) * ratio
    return total
