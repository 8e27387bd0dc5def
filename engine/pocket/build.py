"""Build the pocket model: tokenizer, pretraining, half-precision weights. ``python -m engine.pocket.build``.

About half an hour on 4 CPU cores. The result goes to assets/pocket; `check.py` then measures it.
"""

import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import click
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from engine.methods.pretrain import PretrainConfig, perplexity, pretrain
from engine.pocket import corpus

POCKET = Path(__file__).parents[2] / "assets" / "pocket"

LESSONS = 0.35  # share of the tokens that are lessons

SPECIAL = ["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>"]
CHAT_TEMPLATE = (
    "{% for m in messages %}"
    "{% if m.role == 'user' %}<|user|>{{ m.content }}<|end|>"
    "{% elif m.role == 'assistant' %}<|assistant|>{{ m.content }}<|end|>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def train_tokenizer(seed: int, vocabulary: int = 4096) -> PreTrainedTokenizerFast:
    """Byte-level BPE on 20,000 conversations; any text can be written in it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (m["content"] for c in islice(corpus.conversations(seed), 20_000) for m in c)
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=512,
        padding_side="left",
        extra_special_tokens=["<|user|>", "<|assistant|>"],
    )


def documents(tokenizer: PreTrainedTokenizerFast, stream: Iterator[list[corpus.Message]]) -> Iterator[list[int]]:
    """Token ids of a stream of conversations."""
    user, assistant, end = tokenizer.convert_tokens_to_ids(["<|user|>", "<|assistant|>", "<|end|>"])
    while chunk := list(islice(stream, 512)):
        texts = [m["content"] for c in chunk for m in c]
        encoded = iter(tokenizer(texts, add_special_tokens=False)["input_ids"])
        for conversation in chunk:
            ids: list[int] = []
            for message in conversation:
                ids += [user if message["role"] == "user" else assistant, *next(encoded), end]
            yield ids


def course(tokenizer: PreTrainedTokenizerFast, seed: int, lesson_tokens: int) -> Iterator[list[int]]:
    """Lessons first, then conversations.

    In a conversation two tokens of a hundred carry a fact; learning to look the question up takes far longer
    from those than from bare questions and answers.
    """
    seen = 0
    for ids in documents(tokenizer, corpus.lessons(seed)):
        yield ids
        seen += len(ids)
        if seen >= lesson_tokens:
            break
    yield from documents(tokenizer, corpus.conversations(seed))


def new_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=192,
            intermediate_size=576,
            num_hidden_layers=4,
            num_attention_heads=6,
            num_key_value_heads=6,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
        )
    )


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=POCKET, show_default=True)
@click.option("--tokens", default=PretrainConfig.tokens, show_default=True, help="Tokens to train on.")
@click.option("--seed", default=0, show_default=True)
def main(out: Path, tokens: int, seed: int) -> None:
    """Train the pocket model from nothing and write it to OUT."""
    tokenizer = train_tokenizer(seed)
    model = new_model(tokenizer, seed)
    click.echo(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer)} tokens", err=True)
    out.mkdir(parents=True, exist_ok=True)

    def save() -> None:
        model.half().save_pretrained(out)
        model.float()
        tokenizer.save_pretrained(out)

    def report(metrics: dict[str, float]) -> None:
        if metrics["step"] % 500 == 0:
            save()
        if metrics["step"] % 50 == 0:
            click.echo(
                f"{metrics['tokens'] / tokens:6.1%}  loss {metrics['loss']:.4f}  "
                f"{metrics['tokens_per_second']:,.0f} tokens/s",
                err=True,
            )

    stream = course(tokenizer, seed + 1, int(tokens * LESSONS))
    pretrain(model, stream, tokenizer.pad_token_id, PretrainConfig(tokens=tokens), report)
    held_out = list(islice(documents(tokenizer, corpus.conversations(seed + 2)), 1000))
    click.echo(f"perplexity on new conversations: {perplexity(model, held_out, tokenizer.pad_token_id):.3f}", err=True)
    save()


if __name__ == "__main__":
    sys.exit(main())
