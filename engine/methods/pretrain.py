"""Pretraining: next-token cross-entropy on documents, Muon and AdamW, warm-up and cosine decay.

Loss: L(theta) = -mean over tokens of log p_theta(x_t | x_<t)   (Radford et al. 2018, eq. 1), the mean weighted
where the tokens have weights.
Matrices inside the model step by Muon, whose updates have all singular values alike (Jordan et al. 2024; scaled to
AdamW's size by Liu et al. 2025, "Muon is scalable for LLM training", section 2.2): on the pocket's corpus the
loss fell much sooner than with AdamW alone (docs/trials.md). AdamW takes the rest: embeddings, head, norms.

Documents of like length share a batch, so that little is spent on padding, and each starts at position 0.
"""

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

from engine.methods.settings import PretrainConfig
from engine.training import checkpoint, mixed
from engine.training.batches import pad_right
from engine.training.context import Context, Silent, Stopped
from engine.training.muon import Muon
from engine.training.optimizers import check_finite

Document = tuple[list[int], list[float]]  # token ids, and how much each counts in the loss


def token_batches(
    documents: Iterable[Document], batch_tokens: int, max_length: int, pad_id: int, generator: torch.Generator
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """(input_ids, mask, weights), each [rows, time], right-padded, at most `batch_tokens` cells a batch.

    Documents are taken 2048 at a time and sorted by length; the batches of each such window are shuffled.
    """
    documents = iter(documents)
    while window := list(islice(documents, 2048)):
        window.sort(key=lambda doc: len(doc[0]))
        batches: list[list[Document]] = [[]]
        for doc in window:
            if batches[-1] and min(len(doc[0]), max_length) * (len(batches[-1]) + 1) > batch_tokens:
                batches.append([])
            batches[-1].append(doc)
        for index in torch.randperm(len(batches), generator=generator).tolist():
            ids, mask = pad_right([tokens[:max_length] for tokens, _ in batches[index]], pad_id)
            weights = torch.zeros(mask.shape).masked_scatter(
                mask, torch.tensor([w for _, each in batches[index] for w in each[:max_length]])
            )
            yield ids, mask, weights


def next_token_loss(model, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy in nats over the next tokens of `ids` [rows, time], weighted; padding weighs 0."""
    # Right padding needs no attention mask: a causal model never looks at what comes later.
    hidden = model.base_model(input_ids=ids).last_hidden_state[:, :-1]
    wanted = weights[:, 1:] > 0
    each = cross_entropy(model.lm_head(hidden[wanted]).float(), ids[:, 1:][wanted], reduction="none")
    weights = weights[:, 1:][wanted]
    return (each * weights).sum() / weights.sum()


@torch.no_grad()
def perplexity(model, documents: list[Document], pad_id: int, batch_tokens: int = 8192) -> float:
    """exp of the mean next-token loss over `documents`, every token weighing the same."""
    total, count = 0.0, 0
    device = next(model.parameters()).device
    for ids, mask, _ in token_batches(documents, batch_tokens, 10**9, pad_id, torch.Generator().manual_seed(0)):
        tokens = int(mask[:, 1:].sum())
        total += float(next_token_loss(model, ids.to(device), mask.float().to(device))) * tokens
        count += tokens
    return math.exp(total / count)


def learning_rate_at(progress: float, config: PretrainConfig) -> float:
    """Linear warm-up, then half a cosine down to the final rate; `progress` runs from 0 to 1."""
    if progress < config.warmup:
        return config.learning_rate * progress / config.warmup
    rest = (progress - config.warmup) / (1 - config.warmup)
    span = config.learning_rate - config.final_learning_rate
    return config.final_learning_rate + span * 0.5 * (1 + math.cos(math.pi * min(rest, 1.0)))


def make_optimizers(
    model, config: PretrainConfig, products: torch.dtype = torch.float32
) -> list[torch.optim.Optimizer]:
    """Muon for the matrices between embedding and head, AdamW for what else there is; for adapters AdamW alone.

    products: what Muon multiplies in.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    tables = [m for m in model.modules() if isinstance(m, torch.nn.Embedding)]
    ends = {id(m.weight) for m in (*tables, model.get_output_embeddings())}
    inner = [p for p in trained if p.dim() == 2 and id(p) not in ends and config.start != "lora"]
    rest = [p for p in trained if all(p is not q for q in inner)]
    adam = torch.optim.AdamW(rest, lr=config.learning_rate, betas=(0.9, 0.95), weight_decay=0.0)
    if not inner:
        return [adam]
    return [Muon(inner, lr=config.learning_rate, weight_decay=config.weight_decay, dtype=products), adam]


def pretrain(
    model,
    documents: Iterable[Document],
    pad_id: int,
    config: PretrainConfig,
    context: Context | None = None,
    checkpoints: Path | None = None,
) -> dict[str, float]:
    """Train what `model` has to train in place on token-id `documents` until `config.tokens` were seen.

    Weights that are in float32 stay so; matrix products are of bfloat16 numbers where `config.mixed` has it so
    (`engine.training.mixed`). Returns the last step's figures. A resumed run passes over the batches it has seen;
    `documents` must come as they came before.
    """
    context = context or Silent()
    config = replace(config, learning_rate=config.rate(model.config.get_text_config().num_hidden_layers))
    torch.manual_seed(config.seed)
    mix = config.start != "lora" and (config.mixed == "always" or (config.mixed == "auto" and mixed.suits(model)))
    optimizers = make_optimizers(model, config, torch.bfloat16 if mix else torch.float32)
    trained = [p for p in model.parameters() if p.requires_grad]
    generator = torch.Generator().manual_seed(config.seed)
    kept = checkpoint.load(checkpoints, optimizers) if checkpoints else {}
    first, seen = kept.get("step", 0), 0
    figures: dict[str, float] = {}
    before, saved = time.monotonic(), time.monotonic()
    model.train()
    device = next(model.parameters()).device
    batches = token_batches(documents, config.batch_tokens, config.max_length, pad_id, generator)
    for step, (ids, mask, weights) in enumerate(batches, 1):
        if seen >= config.tokens:
            break
        rate = learning_rate_at(seen / config.tokens, config)
        tokens = int(mask.sum())
        seen += tokens
        if step <= first:
            continue
        try:
            context.stage("pretrain", min(seen - tokens, config.tokens), config.tokens)
        except Stopped:
            if checkpoints and step > 1:
                checkpoint.save(checkpoints, optimizers, step=step - 1)
            model.eval()
            raise
        for group in (g for o in optimizers for g in o.param_groups):
            group["lr"] = rate
        with mixed.rounded(model, mix):
            loss = next_token_loss(model, ids.to(device), weights.to(device))
        loss.backward()
        norm = float(torch.nn.utils.clip_grad_norm_(trained, config.max_grad_norm))
        check_finite(norm)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        now = time.monotonic()
        figures = {
            "tokens": seen,
            "loss": float(loss.detach()),
            "grad_norm": norm,
            "learning_rate": rate,
            "tokens_per_second": tokens / max(now - before, 1e-9),
        }
        before = now
        context.metrics("pretrain", step, figures)
        if checkpoints and now - saved > checkpoint.EVERY:
            checkpoint.save(checkpoints, optimizers, step=step)
            saved = now
    context.stage("pretrain", config.tokens, config.tokens)
    model.eval()
    return figures
