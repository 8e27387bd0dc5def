"""What memory a run will need, from the model's shape and the settings.

Needs no torch.

Counted are tensors; what interpreter and libraries take comes on top.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

from engine.jobs.config import STAGES, Recompute, RunConfig
from engine.machine import LOGITS, MAPPED, PACKED_BYTES, Precision
from engine.models.shape import Shape

PROMPT = 32  # tokens of a prompt, where nothing is known of it
ANSWERED = 0.5  # share of the longest answer that an answer takes, where nothing is known of it
MOMENT = {"adamw": 4.0, "adamw-8bit": 1.02}  # bytes of a moment, with the scales of 8-bit blocks
BYTES = {"float32": 4.0, "bf16": 2.0, "float16": 2.0, "nf4": 0.53}  # a weight; NF4 with its doubly quantised scales

# Bytes beside the tensors; on a CPU most are gaps of the C library's allocator (benchmarks/estimate.py, gpu.py).
WORKSPACES = {"cpu": 77e6, "cuda": 40e6}
TRIMMED = 20e6  # of a CPU's, where freed memory goes back to the system at once
LEFT = 0.5  # share of the packed weights that gaps keep after they are gone


def memory(
    shape: Shape,
    config: RunConfig,
    stage: str,
    precision: str,
    usual: str = "bf16",
    prompt: int = PROMPT,
    answer: int | None = None,
    device: str = "cpu",
) -> dict[str, float]:
    """Bytes at the peak of a stage ("ppo", "reinforce", or one on stored examples), by part, with their "total".

    usual: the precision that an NF4 base computes in. prompt, answer: tokens that they take on average; an answer by
    default half of the longest allowed.
    """
    settings = getattr(config, stage)
    number = BYTES[usual if precision == "nf4" else precision]
    inner = shape.parameters - shape.embedding
    weights = inner * BYTES[precision] + shape.embedding * number
    adapter = shape.adapter(settings.rank)
    online = stage in ("ppo", "reinforce")
    if online:
        answer = answer or max(1, int(ANSWERED * settings.longest))
        examples, answers = settings.episodes // max(1, settings.minibatches), 1
        adapters = 2 if stage == "ppo" else 1  # the policy's and the reward model's
        cache = settings.episodes * (prompt + answer) * 2 * shape.layers * shape.keys * number
    else:
        answer = answer or max(1, int(ANSWERED * config.ppo.longest))
        examples, answers = settings.batch, settings.ANSWERS
        adapters, cache = 1, 0.0
    examples = min(examples, settings.micro_batch or examples)
    tokens = examples * (prompt + answers * answer)  # answers to one prompt share it
    short = config.recompute == "always"  # of memory: nothing is packed, and what is freed goes back at once
    packs = online and device == "cpu" and precision == "float32" and inner * number <= PACKED_BYTES and not short
    packed = (inner + shape.vocabulary * shape.width) * number if packs else 0.0  # `sampling.packed`
    heads, logit = 0, 4.0
    if stage == "ilql":  # two heads over the vocabulary, each with a slow copy; L_CQ has logits there twice, going back
        heads, logit = 2 * settings.bottleneck * (shape.width + shape.vocabulary), 8.0 if settings.conservative else 4.0
    # Computed again on the way back, a block keeps its input until its turn comes.
    whole_blocks, inputs = (1, shape.layers) if short else (shape.layers, 0)
    parts = {
        "weights": weights,
        "adapters": adapters * adapter * 4.0,
        "heads": heads * 8.0,
        "optimiser": (adapter + heads) * (4.0 + 2 * MOMENT[settings.optimizer]),  # gradient and AdamW's two moments
        "cache": cache,
        "packed": packed,
        "activations": tokens * (whole_blocks * shape.kept(device) + inputs * shape.width) * number,
        "logits": 0.0 if stage == "reward" else min(examples * answers * answer * shape.vocabulary, LOGITS) * logit,
    }
    kept = parts["weights"] + parts["adapters"] + parts["heads"] + parts["optimiser"]
    answering, training = parts["cache"] + parts["packed"], parts["activations"] + parts["logits"]
    # Rollouts and training do not overlap: the peak holds the larger. But on a GPU the cache stays where it is, since
    # the steps recorded there know it by its place.
    peak = answering + training if device == "cuda" else max(answering, training)
    beside = WORKSPACES[device] + LEFT * packed
    if precision == "nf4" and device == "cpu" and shape.width * shape.inner * number < MAPPED:
        beside += inner * number  # weights are unpacked between tensors that are kept, and leave gaps as large
    if short and device == "cpu":
        beside = TRIMMED
    return {**parts, "total": kept + peak + beside}


def stages_of(method: str) -> tuple[str, ...]:
    """The stages of a run whose memory can be estimated."""
    if method == "improve":
        return ("reward", "ppo")
    return (method,) if method in STAGES and method != "pretrain" else ()


def most(shape: Shape, config: RunConfig, stages: Sequence[str], usual: str, device: str = "cpu") -> float:
    """Bytes that the hungriest of `stages` takes in `config`'s precision, which must not be "auto"."""
    return max(memory(shape, config, stage, config.precision, usual, device=device)["total"] for stage in stages)


SPARE = 0.9  # share of the free memory that a run is planned into


def _part(shape: Shape, config: RunConfig, stage: str, usual: str, free: float, device: str) -> int | None:
    """The largest micro-batch, from the one that is set down, with which `stage` stays within `free` bytes; None if
    none does. 0 is for whole batches."""
    settings = getattr(config, stage)
    batch = settings.episodes // settings.minibatches if stage in ("ppo", "reinforce") else settings.batch
    rows = settings.micro_batch or batch
    for size in [settings.micro_batch] + [rows >> halvings for halvings in range(1, rows.bit_length())]:
        tried = replace(config, **{stage: replace(settings, micro_batch=size)})
        if memory(shape, tried, stage, tried.precision, usual, device=device)["total"] <= free:
            return size
    return None


def fitted(
    shape: Shape, config: RunConfig, stages: Sequence[str], usual: Precision, free: float, device: str = "cpu"
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
        parts = {stage: _part(shape, config, stage, usual, room, device) for stage in stages}
        if None not in parts.values():
            break
    chosen = {s: replace(getattr(config, s), micro_batch=1 if size is None else size) for s, size in parts.items()}
    return replace(config, **chosen), None not in parts.values()
