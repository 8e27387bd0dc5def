"""Reward training: ours against trl's RewardTrainer, same base, data, LoRA rank, batch, epochs and threads.

    python benchmarks/reward_speed.py [--seeds 3]

Answers of the pocket model to its everyday questions, ranked by the simulated annotator. pairs: 320 pairs, 16 a step.
rankings: 64 rankings of four, 8 a step; trl has no such thing and trains on the six pairs of each, 48 a step. Each side
runs in a process of its own, A B A B; seconds are of the training call alone.
"""

import json
import random
import tempfile
import time
from itertools import combinations
from pathlib import Path

import click
from sides import alternate, line, middle, peak, resident

RANK, RATE, EPOCHS = 16, 5e-4, 2
PAIRS, RANKINGS = 320, 64


def prepare(folder: Path) -> None:
    """Rankings of four without ties, the same for both sides."""
    from engine.models.load import load_base
    from engine.models.roles import Roles
    from engine.prompts import load_prompts
    from engine.sampling.answers import answer
    from engine.sampling.settings import Sampling

    prompts = load_prompts("everyday")[:PAIRS]
    asked = [[{"role": "user", "content": p}] for p in prompts for _ in range(4)]
    drawn = answer(Roles(load_base("pocket")), None, asked, Sampling(), list(range(len(asked))))
    rng = random.Random(0)
    rows = []
    for i, prompt in enumerate(prompts):
        texts = [a.text for a in drawn[4 * i : 4 * i + 4]]
        rng.shuffle(texts)
        rows.append({"prompt": prompt, "best first": texts})
    (folder / "data.json").write_text(json.dumps(rows))


def ours(folder: Path, kind: str, seed: int) -> dict:
    from engine.feedback.examples import Ranking
    from engine.machine import keep_freed_memory
    from engine.methods.reward import train_reward
    from engine.methods.settings import RewardConfig
    from engine.models.load import load_base
    from engine.models.roles import Roles

    keep_freed_memory()  # as a run's process does
    before = resident()
    rows = json.loads((folder / "data.json").read_text())
    count, batch, each = (PAIRS, 16, 2) if kind == "pairs" else (RANKINGS, 8, 4)
    rankings = [
        Ranking((("user", r["prompt"]),), tuple(r["best first"][:each]), tuple(range(each)), (True,) * each)
        for r in rows[:count]
    ]
    config = RewardConfig(epochs=EPOCHS, batch=batch, min_steps=0, learning_rate=RATE, rank=RANK, seed=seed)
    roles = Roles(load_base("pocket"))
    started = time.perf_counter()
    train_reward(roles, rankings, [], config)
    return {"seconds": time.perf_counter() - started, "memory": peak() - before}


def theirs(folder: Path, kind: str, seed: int) -> dict:
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from trl import RewardConfig, RewardTrainer

    from engine.models.find import find_base

    before = resident()
    rows = json.loads((folder / "data.json").read_text())
    count, batch, each = (PAIRS, 16, 2) if kind == "pairs" else (RANKINGS, 48, 4)
    pairs = [
        {
            "prompt": [{"role": "user", "content": r["prompt"]}],
            "chosen": [{"role": "assistant", "content": r["best first"][i]}],
            "rejected": [{"role": "assistant", "content": r["best first"][j]}],
        }
        for r in rows[:count]
        for i, j in combinations(range(each), 2)
    ]
    path = find_base("pocket")
    model = AutoModelForSequenceClassification.from_pretrained(path, num_labels=1, dtype="float32")
    config = RewardConfig(
        output_dir=str(folder / "trl"), report_to="none", bf16=False, use_cpu=True, per_device_train_batch_size=batch,
        num_train_epochs=EPOCHS, learning_rate=RATE, seed=seed, save_strategy="no", logging_strategy="no",
        disable_tqdm=True, gradient_checkpointing=False,
    )  # fmt: skip
    lora = LoraConfig(
        r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="SEQ_CLS", modules_to_save=["score"]
    )
    trainer = RewardTrainer(
        model, args=config, train_dataset=Dataset.from_list(pairs), peft_config=lora,
        processing_class=AutoTokenizer.from_pretrained(path),
    )  # fmt: skip
    started = time.perf_counter()
    trainer.train()
    return {"seconds": time.perf_counter() - started, "memory": peak() - before}


@click.command()
@click.option("--seeds", default=3, show_default=True)
@click.option("--side", type=click.Choice(["ours", "trl"]), hidden=True)
@click.option("--seed", default=0, hidden=True)
@click.option("--folder", type=click.Path(path_type=Path), hidden=True)
@click.option("--kind", hidden=True)
def main(seeds: int, side: str | None, seed: int, folder: Path | None, kind: str) -> None:
    if side and folder:
        click.echo(json.dumps({"ours": ours, "trl": theirs}[side](folder, kind, seed)))
        return
    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name))
        for kind, pairs, goal in (("pairs", PAIRS, 2.5), ("rankings", RANKINGS * 6, 6.0)):
            found = alternate(__file__, ("ours", "trl"), list(range(seeds)), "--folder", name, "--kind", kind)
            speed = [EPOCHS * pairs / middle(found[side], "seconds") for side in ("ours", "trl")]
            ratio = speed[0] / speed[1]
            line(f"reward training, {kind}, pairs/s", *speed, ratio, f"at least {goal}x", ratio >= goal)


if __name__ == "__main__":
    main()
