"""A reward model on real preferences: ours against trl's RewardTrainer, same base, split, steps and LoRA rank.

    python benchmarks/reward_vs_trl.py [--train 600] [--test 400] [--seeds 3]

Reads ../shared/data/hh-rlhf-harmless-base-test.jsonl.gz. One JSON line a seed with both held-out accuracies.
"""

import json
import random
import tempfile
import time
from pathlib import Path

import click
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from trl import RewardConfig as TRLRewardConfig
from trl import RewardTrainer

import engine
from engine.evaluation.winrate import wilson
from engine.feedback.examples import Ranking, messages_of
from engine.feedback.gather import gather_rankings
from engine.methods.reward import accuracy, encoded, train_reward
from engine.methods.settings import RewardConfig
from engine.models.find import find_base
from engine.models.load import load_base
from engine.models.roles import Roles

DATA = Path(__file__).parents[2] / "shared" / "data" / "hh-rlhf-harmless-base-test.jsonl.gz"
LENGTH = 384
BATCH, RATE, RANK = 8, 5e-4, 16


def preferences() -> list[Ranking]:
    """Pairs whose dialogues fit into LENGTH tokens, so that neither side cuts any."""
    with tempfile.TemporaryDirectory() as folder:
        store = engine.Store(engine.open_workspace(folder).database)
        engine.import_file(store, DATA)
        found = gather_rankings(store)
        store.close()
    tokenizer = AutoTokenizer.from_pretrained(find_base("pocket"))

    def length(r: Ranking) -> int:
        return max(sum(map(len, encoded(tokenizer, messages_of(r.prompt), text))) for text in r.responses)

    return [r for r in found if length(r) < LENGTH]


def ours(train: list[Ranking], test: list[Ranking], epochs: int, seed: int) -> float:
    config = RewardConfig(
        epochs=epochs,
        min_steps=0,
        batch=BATCH,
        learning_rate=RATE,
        rank=RANK,
        weight_decay=0.0,
        max_length=LENGTH,
        seed=seed,
    )
    reward, _ = train_reward(Roles(load_base("pocket")), train, [], config)
    right, pairs = accuracy(reward, test)
    return right / pairs


def theirs(train: list[Ranking], test: list[Ranking], epochs: int, seed: int) -> float:
    torch.manual_seed(seed)
    path = find_base("pocket")
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForSequenceClassification.from_pretrained(path, num_labels=1, dtype=torch.float32)

    def rows(rankings: list[Ranking]) -> Dataset:
        def side(r: Ranking, i: int) -> list[dict]:
            return [*messages_of(r.prompt), {"role": "assistant", "content": r.responses[i]}]

        return Dataset.from_list([{"chosen": side(r, 0), "rejected": side(r, 1)} for r in rankings])

    with tempfile.TemporaryDirectory() as folder:
        config = TRLRewardConfig(
            output_dir=folder, report_to="none", bf16=False, use_cpu=True, per_device_train_batch_size=BATCH,
            per_device_eval_batch_size=40, num_train_epochs=epochs, learning_rate=RATE, warmup_steps=0.1, seed=seed,
            max_length=LENGTH, save_strategy="no", logging_strategy="no", disable_tqdm=True,
            gradient_checkpointing=False,
        )  # fmt: skip
        lora = LoraConfig(
            r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="SEQ_CLS", modules_to_save=["score"]
        )
        trainer = RewardTrainer(
            model, args=config, train_dataset=rows(train), eval_dataset=rows(test), processing_class=tokenizer,
            peft_config=lora,
        )  # fmt: skip
        trainer.train()
        return trainer.evaluate()["eval_accuracy"]


@click.command()
@click.option("--train", "train_size", default=600, show_default=True)
@click.option("--test", "test_size", default=400, show_default=True, help="A multiple of 40: trl averages batches.")
@click.option("--epochs", default=2, show_default=True)
@click.option("--seeds", default=3, show_default=True)
def main(train_size: int, test_size: int, epochs: int, seeds: int) -> None:
    pairs = preferences()
    for seed in range(seeds):
        chosen = random.Random(seed).sample(pairs, train_size + test_size)
        train, test = chosen[:train_size], chosen[train_size:]
        result: dict = {"seed": seed, "train": train_size, "test": test_size, "epochs": epochs}
        for name, run in (("ours", ours), ("trl", theirs)):
            started = time.monotonic()
            share = run(train, test, epochs, seed)
            low, high = wilson(share * test_size, test_size)
            result[name] = {
                "accuracy": round(share, 4), "low": round(low, 4), "high": round(high, 4),
                "seconds": round(time.monotonic() - started, 1),
            }  # fmt: skip
        click.echo(json.dumps(result))


if __name__ == "__main__":
    main()
