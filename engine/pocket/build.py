"""Build the pocket model: tokenizer, pretraining, half-precision weights. ``python -m engine.pocket.build``.

It is trained in stretches, in each of which the learning rate falls to nearly nothing, and the mean of the weights over
the second halves of the last ones is kept (Izmailov et al. 2018, "Averaging weights leads to wider optima and better
generalization", section 3.1): it knows far more facts than the weights at the end of any.

On 2 CPU cores 3,000 to 7,000 tokens a second. The result goes to assets/pocket; `engine.pocket.check` measures it.
"""

import copy
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import click
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from engine.methods.pretrain import Document, perplexity, pretrain
from engine.methods.settings import PretrainConfig
from engine.methods.text import new_model, new_tokenizer
from engine.models.load import load_base
from engine.models.roles import Roles
from engine.pocket import corpus, grammar
from engine.pocket.check import measure, shortcomings
from engine.prompts import FOLDER as PROMPTS
from engine.training.context import Silent

POCKET = Path(__file__).parents[2] / "assets" / "pocket"

# Of the model, in numbers; INNER is within its feed-forward layers, where most of what it knows lies.
WIDTH, INNER, LAYERS, CONTEXT = 192, 1152, 4, 512

# What a token's loss counts. Questions, openers, closers and rambling are drawn at random: learning them is easy, but
# their noise hides the few tokens that say something. The one word of a verdict is all that a document teaches of
# judging.
WEIGHTS = {"core": 1.0, "around": 0.5, "question": 0.15, "verdict": 3.0}

# Sampling at temperature 1 then draws what this temperature drew before: a model this small spills a little
# probability over everything, which adds up over an answer.
SHARPEN = 0.65

SPECIAL = ["<|user|>", "<|assistant|>"]
LABELS = [f"<|{label}|>" for label in grammar.TONES + grammar.LENGTHS + grammar.CORRECTNESS]
CHAT_TEMPLATE = (
    "{% for m in messages %}"
    "{% if m.role == 'user' %}<|user|>{{ m.content }}<|end|>"
    "{% elif m.role == 'assistant' %}<|assistant|>{{ m.content }}<|end|>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def train_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """A tokenizer from 20,000 conversations."""
    texts = (m["content"] for c in islice(corpus.conversations(seed), 20_000) for m in c)
    return new_tokenizer(
        texts,
        4096,
        SPECIAL + LABELS,
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT,
        padding_side="left",
        extra_special_tokens=SPECIAL,
    )


def _weights(message: corpus.Message, spans: list[tuple[int, int]]) -> list[float]:
    """The weight of each token of a message; spans are the tokens' places in its text."""
    if "core" not in message:
        return [WEIGHTS["question"]] * len(spans)
    start = message["content"].index(message["core"])
    end = start + len(message["core"])
    inside = "core" if message["role"] == "assistant" else "verdict"
    return [WEIGHTS[inside if a < end and b > start else "around"] for a, b in spans]


def documents(tokenizer: PreTrainedTokenizerFast, stream: Iterator[list[corpus.Message]]) -> Iterator[Document]:
    """(token ids, weights) of a stream of conversations."""
    vocabulary = tokenizer.get_vocab()
    user, assistant, end = (vocabulary[f"<|{name}|>"] for name in ("user", "assistant", "end"))
    while chunk := list(islice(stream, 512)):
        texts = [m["content"] for c in chunk for m in c if m["role"] != "labels"]
        encoded = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
        found = iter(zip(encoded["input_ids"], encoded["offset_mapping"], strict=True))
        for conversation in chunk:
            ids: list[int] = []
            weights: list[float] = []
            for message in conversation:
                if message["role"] == "labels":
                    labels = [vocabulary[f"<|{label}|>"] for label in message["content"].split()]
                    ids += labels
                    weights += [0.0] * len(labels)
                    continue
                text, spans = next(found)
                weights += [0.0, *_weights(message, spans), WEIGHTS["core"]]
                ids += [user if message["role"] == "user" else assistant, *text, end]
            yield ids, weights


KEPT = 3  # stretches whose weights are averaged


@torch.no_grad()
def scale_logits(model: LlamaForCausalLM, factor: float) -> None:
    model.get_decoder().norm.weight.mul_(factor)


@torch.no_grad()
def widened(model: LlamaForCausalLM, inner: int, seed: int) -> LlamaForCausalLM:
    """A model with `inner` neurons in each feed-forward layer that computes what `model` does.

    What the new neurons give counts nothing at first (compare Chen et al. 2016, "Net2Net: Accelerating learning via
    knowledge transfer", section 2).
    """
    torch.manual_seed(seed)
    config = copy.deepcopy(model.config)
    config.intermediate_size = inner
    wider = LlamaForCausalLM(config)
    state = model.state_dict()
    for name, new in wider.state_dict().items():
        old = state[name]
        if new.shape != old.shape:
            new.normal_(0, 0.0 if "down_proj" in name else float(old.std()))
        new[tuple(slice(n) for n in old.shape)] = old
    return wider


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=POCKET, show_default=True)
@click.option("--stretches", default=5, show_default=True, help=f"The mean of the last {KEPT} is kept.")
@click.option("--tokens", default=8_000_000, show_default=True, help="Tokens of a stretch.")
@click.option("--rate", default=5e-3, show_default=True, help="The highest learning rate.")
@click.option("--start", type=click.Path(path_type=Path, exists=True), help="Go on from this build, not from nothing.")
@click.option("--seed", default=0, show_default=True)
def main(out: Path, stretches: int, tokens: int, rate: float, start: Path | None, seed: int) -> None:
    """Train the pocket model and write it to OUT; write the built-in prompt sets too."""
    for name, prompts in corpus.prompt_sets().items():
        (PROMPTS / f"{name}.txt").write_text("\n".join(prompts) + "\n", encoding="utf-8")
    if start:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(start)
        model = LlamaForCausalLM.from_pretrained(start, dtype=torch.float32)
        scale_logits(model, SHARPEN)
        if model.config.intermediate_size < INNER:
            model = widened(model, INNER, seed)
    else:
        tokenizer = train_tokenizer(seed)
        model = new_model(tokenizer, WIDTH, LAYERS, CONTEXT, seed, INNER)
    click.echo(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer)} tokens", err=True)
    out.mkdir(parents=True, exist_ok=True)

    def save() -> None:
        copy.deepcopy(model).half().save_pretrained(out)
        tokenizer.save_pretrained(out)

    class Report(Silent):
        def metrics(self, name: str, step: int, values: dict[str, float]) -> None:
            if step % 20 == 0 and values["tokens"] > tokens / 2:
                half.update_parameters(model)
            if step % 500 == 0:
                save()
            if step % 50 == 0:
                click.echo(
                    f"{values['tokens'] / tokens:6.1%}  loss {values['loss']:.4f}  "
                    f"{values['tokens_per_second']:,.0f} tokens/s",
                    err=True,
                )

    config = PretrainConfig(start="new", tokens=tokens, learning_rate=rate, max_length=CONTEXT)
    halves: list[dict[str, Tensor]] = []
    for stretch in range(stretches):
        click.echo(f"stretch {stretch + 1} of {stretches}", err=True)
        stream = documents(tokenizer, corpus.course(seed + 2 * stretch + 1))
        half = AveragedModel(model)
        pretrain(model, stream, tokenizer.pad_token_id, config, Report())
        half.update_parameters(model)
        halves = [*halves[1 - KEPT :], half.module.state_dict()]
        model.load_state_dict(halves[-1])
    model.load_state_dict({name: torch.stack([each[name] for each in halves]).mean(0) for name in halves[0]})
    held_out = list(islice(documents(tokenizer, corpus.conversations(seed + 2)), 1000))
    click.echo(f"perplexity on new conversations: {perplexity(model, held_out, tokenizer.pad_token_id):.3f}", err=True)
    scale_logits(model, 1 / SHARPEN)
    save()
    found = measure(Roles(load_base(str(out))))
    click.echo("  ".join(f"{name} {share:.1%}" for name, share in found.items()), err=True)
    if short := shortcomings(found):
        sys.exit("The model falls short: " + "; ".join(short))


if __name__ == "__main__":
    sys.exit(main())
