"""What pretraining starts from: plain text, a tokenizer made for it, a new model."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from engine.errors import UserError

SUFFIXES = (".txt", ".text", ".md")
END, PAD = "<|end|>", "<|pad|>"


def read_texts(place: str) -> list[str]:
    """The texts in a file, or in all text files of a folder, in the order of their names.

    Raises UserError where there are none.
    """
    path = Path(place).expanduser()
    files = sorted(f for f in path.rglob("*") if f.suffix in SUFFIXES) if path.is_dir() else [path]
    try:
        texts = [file.read_text(encoding="utf-8-sig") for file in files]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The text in {place} cannot be read: {error}") from error
    texts = [text for text in texts if text.strip()]
    if not texts:
        raise UserError(f"There is no text in {place}. Give a text file, or a folder with {', '.join(SUFFIXES)} files.")
    return texts


def new_tokenizer(texts: Iterable[str], vocabulary: int, special: list[str], **options) -> PreTrainedTokenizerFast:
    """Byte-level BPE of at most `vocabulary` tokens (Sennrich et al. 2016, section 3.2); any text can be written in it.

    special: tokens beside the end and the padding. options: the tokenizer's own, such as its chat template.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, END, *special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, **options)


def new_model(
    tokenizer: PreTrainedTokenizerBase, width: int, layers: int, context: int, seed: int, inner: int = 0
) -> LlamaForCausalLM:
    """A Llama of random weights, heads 32 wide, its input and output embeddings one table.

    inner: the width within its feed-forward layers; 0 is three times the width.
    """
    if width % 32:
        raise UserError(f"The model's width must be a multiple of 32, not {width}.")
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=inner or 3 * width,
            num_hidden_layers=layers,
            num_attention_heads=width // 32,
            num_key_value_heads=width // 32,
            max_position_embeddings=context,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
        )
    )


def split(texts: list[str], share: float) -> tuple[list[str], list[str]]:
    """(training, held-out) parts. Of a single text the end is held out, cut between paragraphs where there are some."""
    if len(texts) > 1:
        count = max(1, round(share * len(texts)))
        return texts[:-count], texts[-count:]
    cut = texts[0].rfind("\n\n", 0, int((1 - share) * len(texts[0])))
    cut = cut if cut > len(texts[0]) // 2 else int((1 - share) * len(texts[0]))
    return [texts[0][:cut]], [texts[0][cut:]]


def packed(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], length: int, seed: int | None
) -> Iterator[tuple[list[int], list[float]]]:
    """Blocks of `length` tokens with nothing left empty: the texts one after another, an end token behind each.

    With a seed the texts come again and again, each time in another order, without end; without one they come once,
    the rest that fills no block as a shorter last one.
    """
    encoded = [tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] for text in texts]
    kept: list[int] = []
    order, rounds = list(range(len(texts))), 0
    while True:
        if seed is not None:
            order = Random(f"{seed} {rounds}").sample(order, len(order))
        for i in order:
            kept += [*encoded[i], tokenizer.eos_token_id]
            whole = len(kept) // length * length
            for start in range(0, whole, length):
                yield kept[start : start + length], [1.0] * length
            kept = kept[whole:]
        rounds += 1
        if seed is None:
            if len(kept) > 1:
                yield kept, [1.0] * len(kept)
            return
