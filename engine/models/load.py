"""Load a base model in a precision that suits the machine."""

import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import psutil
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from engine.errors import UserError
from engine.machine import Precision
from engine.models import precision as precisions
from engine.models.chat import end_of_turn
from engine.models.find import find_base, fingerprint
from engine.models.norms import fuse_norms
from engine.models.shape import Shape, shape_of

PRECISIONS = get_args(Precision)
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "float16": torch.float16}

transformers_logging.disable_progress_bar()
transformers_logging.set_verbosity_error()
warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")  # peft 0.21 asks by this name


@dataclass
class Base:
    """A loaded base model: the weights every role shares."""

    model: Any  # a transformers causal LM; its kind is known only when it is loaded
    tokenizer: PreTrainedTokenizerBase
    path: Path
    fingerprint: str
    precision: str
    device: torch.device

    @property
    def half(self) -> bool:
        """Whether it computes in float16, in which small gradients are rounded to zero."""
        return self.model.dtype == torch.float16


def choose_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def free_memory(device: torch.device) -> float:
    """Bytes that are free on `device`."""
    return float(psutil.virtual_memory().available if device.type == "cpu" else torch.cuda.mem_get_info(device)[0])


def fastest_precision(path: Path, device: torch.device) -> Precision:
    """What this machine is fastest in with a model of that kind; the usual one where its shape cannot be told."""
    shape: Shape | None = None
    with suppress(UserError):
        shape = shape_of(path)
    return precisions.choose(shape, device.type)


def _fits(path: Path, precision: Precision, device: torch.device) -> bool:
    """Whether the weights fit with room to answer. (For a run `engine.estimate` tells.)"""
    stored = sum(f.stat().st_size for f in path.glob("*.safetensors"))  # mostly in two bytes a number
    return 1.25 * stored * (2 if precision == "float32" else 1) < free_memory(device)


def load_base(name: str, precision: str = "auto", device: torch.device | None = None) -> Base:
    """Load a base for inference and LoRA training. Its weights are frozen, dropout is off.

    Only safetensors are read and no code that comes with a model is run.
    Raises UserError where the name or the precision is not usable.
    """
    if precision not in PRECISIONS:
        raise UserError(f'Precision "{precision}" is unknown. Choose one of {", ".join(PRECISIONS)}.')
    path = find_base(name)
    device = device or choose_device()
    if precision in ("auto", "nf4"):  # NF4's weights are unpacked to what is computed in
        fastest = fastest_precision(path, device)
        options: dict = {"dtype": DTYPES[fastest]}
        if precision == "auto":
            precision = fastest if _fits(path, fastest, device) else "nf4"
    else:
        options = {"dtype": DTYPES[precision]}
    if precision == "nf4":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=options["dtype"],
        )
        options["device_map"] = {"": device}
    weights = fingerprint(path)
    try:
        AutoConfig.from_pretrained(path, trust_remote_code=False, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False, local_files_only=True)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path, trust_remote_code=False, local_files_only=True, use_safetensors=True, output_loading_info=True,
            ignore_mismatched_sizes=True, **options,
        )  # fmt: skip
        model, found = loaded
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"The model in {path} does not load: {str(error).splitlines()[0]}") from error
    # Transformers would fill these with random numbers, and the model would talk nonsense.
    if lacking := sorted(found["missing_keys"]) + sorted(str(key[0]) for key in found["mismatched_keys"]):
        raise UserError(
            f"The weights in {path} are not those of its config.json: {lacking[0]} is missing or of another shape"
            f"{f', and {len(lacking) - 1} more' if len(lacking) > 1 else ''}. Fetch the model again."
        )
    if precision != "nf4":
        model.to(device)
    elif device.type == "cpu":
        _keep_trainable(model)
    model.requires_grad_(False)
    model.eval()
    if device.type == "cuda":
        fuse_norms(model)
    _ensure_pad(tokenizer)
    reach = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    tokenizer.model_max_length = min(tokenizer.model_max_length, reach or tokenizer.model_max_length)
    return Base(model, tokenizer, path, weights, precision, device)


def _keep_trainable(model: Any) -> None:
    """Keep bitsandbytes from repacking 4-bit weights on CPUs with AVX512-BF16 at the first pass without gradients.

    The repacked form serves inference only: a backward pass through it (0.50.2) gives gradients that point anywhere.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def _ensure_pad(tokenizer: PreTrainedTokenizerBase) -> None:
    """Padding is always masked out, so any token will do where a tokenizer names none."""
    if tokenizer.eos_token_id is None:
        raise UserError("The model's tokenizer has no end-of-text token, so answers could not end.")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token


def stop_ids(base: Base) -> list[int]:
    """Every token that ends an answer: the tokenizer's, its template's, those of the model's generation settings."""
    configured = getattr(base.model.generation_config, "eos_token_id", None)
    listed = configured if isinstance(configured, list) else [configured]
    own = base.tokenizer.eos_token_id, end_of_turn(base.tokenizer)
    return sorted({*own, *(i for i in listed if i is not None)})
