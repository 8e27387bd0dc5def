"""Build the pocket model: tokenizer, pretraining, half-precision weights. ``python -m engine.pocket.build``.

About half an hour on 4 CPU cores. The result goes to assets/pocket; `engine.pocket.check` then measures it.
"""

import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import click
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from engine.methods.pretrain import Document, PretrainConfig, perplexity, pretrain
from engine.models.load import load_base
from engine.models.roles import Roles
from engine.pocket import corpus
from engine.pocket.check import measure, shortcomings

POCKET = Path(__file__).parents[2] / "assets" / "pocket"

LESSONS = 0.35  # share of the tokens that are lessons

# What a token's loss counts. Openers, closers and rambling are drawn at random: learning them is easy, but their
# noise hides the few tokens that say something. The first question is noise altogether.
WEIGHTS = {"core": 1.0, "around": 0.4, "first question": 0.1, "later question": 0.4}

# Sampling at temperature 1 then draws what this temperature drew before: a model this small spills a little
# probability over everything, which adds up over an answer.
SHARPEN = 0.8

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


def _weights(message: corpus.Message, spans: list[tuple[int, int]], first: bool) -> list[float]:
    """The weight of each token of a message; spans are the tokens' places in its text."""
    if message["role"] == "user":
        return [WEIGHTS["first question" if first else "later question"]] * len(spans)
    start = message["content"].index(message["core"])
    end = start + len(message["core"])
    return [WEIGHTS["core" if a < end and b > start else "around"] for a, b in spans]


def documents(tokenizer: PreTrainedTokenizerFast, stream: Iterator[list[corpus.Message]]) -> Iterator[Document]:
    """(token ids, weights) of a stream of conversations."""
    user, assistant, end = (tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("user", "assistant", "end"))
    while chunk := list(islice(stream, 512)):
        texts = [m["content"] for c in chunk for m in c]
        encoded = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
        found = iter(zip(encoded["input_ids"], encoded["offset_mapping"], strict=True))
        for conversation in chunk:
            ids: list[int] = []
            weights: list[float] = []
            for message in conversation:
                text, spans = next(found)
                weights += [0.0, *_weights(message, spans, first=not ids), WEIGHTS["core"]]
                ids += [user if message["role"] == "user" else assistant, *text, end]
            yield ids, weights


def course(tokenizer: PreTrainedTokenizerFast, seed: int, lesson_tokens: int) -> Iterator[Document]:
    """Lessons first, then conversations.

    In a conversation two tokens of a hundred carry a fact; learning to look the question up takes far longer
    from those than from bare questions and answers.
    """
    seen = 0
    for document in documents(tokenizer, corpus.lessons(seed)):
        yield document
        seen += len(document[0])
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
    with torch.no_grad():
        model.get_decoder().norm.weight.div_(SHARPEN)
    save()
    found = measure(Roles(load_base(str(out))))
    click.echo("  ".join(f"{name} {share:.1%}" for name, share in found.items()), err=True)
    if short := shortcomings(found):
        sys.exit("The model falls short: " + "; ".join(short))


if __name__ == "__main__":
    sys.exit(main())
