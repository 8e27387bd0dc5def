"""PPO: ours against trl's PPOTrainer, same base, prompts, reward model, LoRA rank, batch, lengths, epochs and threads.

    python benchmarks/ppo_vs_trl.py [--length ragged|fixed|0.5B] [--updates 10] [--seeds 3]

ragged: the pocket model, whose answers end by themselves. fixed: a random Llama of 5 million parameters, which as
good as never ends. 0.5B: a random model of Qwen2.5-0.5B's shape in bf16, on a GPU, 128 tokens an answer. Each side
runs in a process of its own, A B A B; seconds are from the training call to the end of its last update, memory is the
highest above what interpreter and libraries take (on a GPU, what torch holds there). Both learn from one reward model
(trl's copy has the adapter merged), and both policies are then judged by it on held-out prompts with the same sampler.
"""

import itertools
import json
import random
import tempfile
import time
from pathlib import Path
from statistics import median

import click
import torch
from sides import GPU, alternate, line, middle, peak, resident

BATCH, MINIBATCHES, EPOCHS, NEW_TOKENS, RANK, RATE, KL = 32, 2, 4, 48, 16, 4e-4, 0.05
JUDGED = 160  # held-out prompts
DTYPE = torch.bfloat16 if GPU else torch.float32
GOALS = {"ragged": 5.0, "fixed": 3.5, "0.5B": 4.0}


def new_tokens(length: str) -> int:
    return NEW_TOKENS if judging(length) else 128


def judging(length: str) -> bool:
    """Whether it matters what is learned: a random model of 0.5B has nothing to learn."""
    return length != "0.5B"


def in_all(times: list[float]) -> float:
    """Seconds of all updates, of which `times` has the beginning and each one's end. A GPU's first update takes seconds
    to set libraries up, so there it counts as much as the others take."""
    if GPU:
        return median(b - a for a, b in itertools.pairwise(times[1:])) * (len(times) - 1)
    return times[-1] - times[0]


def asked(name: str) -> list[list[dict]]:
    from engine.prompts import load_prompts

    return [[{"role": "user", "content": p}] for p in load_prompts(name)]


def prepare(folder: Path, length: str) -> None:
    """Base, reward model as ours and, its adapter merged, as a sequence classifier for trl."""
    from transformers import AutoModelForSequenceClassification

    from engine.feedback.examples import Ranking
    from engine.methods.reward import RewardModel, normalise, train_reward
    from engine.methods.settings import RewardConfig
    from engine.methods.text import new_model
    from engine.models.heads import RewardHead
    from engine.models.load import load_base
    from engine.models.roles import Roles
    from engine.pocket.annotator import SimulatedAnnotator
    from engine.sampling.answers import answer
    from engine.sampling.settings import Sampling

    pocket = load_base("pocket")
    if length == "0.5B":
        from gpu import random_model

        model = random_model(length)
    else:
        model = pocket.model if length == "ragged" else new_model(pocket.tokenizer, 256, 5, 512, seed=0)
    model.to(DTYPE).save_pretrained(folder / "base")
    pocket.tokenizer.save_pretrained(folder / "base")
    roles = Roles(load_base(str(folder / "base")))
    if length == "ragged":
        prompts = random.Random(0).sample(asked("everyday"), 50)
        drawn = answer(roles, None, [p for p in prompts for _ in range(4)], Sampling(), list(range(200)))
        annotator, rankings = SimulatedAnnotator("warm"), []
        for i, prompt in enumerate(prompts):
            texts = tuple(a.text for a in drawn[4 * i : 4 * i + 4])
            ranks = tuple(annotator.rank(prompt[0]["content"], list(texts)))
            rankings.append(Ranking((("user", prompt[0]["content"]),), texts, ranks, (True,) * 4))
        # trl's head is linear in the state alone.
        reward, _ = train_reward(roles, rankings, [], RewardConfig(gates=0, told_length=False))
    else:
        roles.add("reward", rank=RANK)
        head = RewardHead(roles.width)
        torch.nn.init.normal_(head.weight[:, :-1], generator=torch.Generator().manual_seed(0))
        head.to(roles.base.device)
        reward = RewardModel(roles, [("reward", head)])
    reward.opener = []  # trl reads the last token of the answer, so ours does here too
    normalise(reward, None, None, asked("everyday")[:64], Sampling(max_new_tokens=new_tokens(length)), 0)
    reward.save(folder / "ours")
    head = reward.members[0][1]
    judge = AutoModelForSequenceClassification.from_pretrained(folder / "base", num_labels=1, dtype=DTYPE)
    roles.peft.merge_adapter(["reward"])
    merged = roles.peft.get_base_model().get_decoder().state_dict()
    judge.get_decoder().load_state_dict(
        {k.replace("base_layer.", ""): v for k, v in merged.items() if "lora_" not in k}
    )
    with torch.no_grad():  # its head has no bias, which only shifts all rewards alike
        judge.score.weight.copy_(head.weight[:, :-1] / reward.std)
    judge.save_pretrained(folder / "theirs")
    (folder / "shift.json").write_text(json.dumps((float(head.bias) - reward.mean) / reward.std))


def ours(folder: Path, length: str, updates: int, seed: int) -> dict:
    from engine.evaluation.compare import compare
    from engine.machine import keep_freed_memory
    from engine.methods.ppo import train_ppo
    from engine.methods.reward import load_reward
    from engine.methods.settings import PPOConfig
    from engine.models.load import load_base
    from engine.models.roles import Roles
    from engine.sampling.settings import Sampling
    from engine.training.context import Silent

    keep_freed_memory()  # as a run's process does
    before = resident()
    roles = Roles(load_base(str(folder / "base")))
    reward = load_reward(roles, folder / "ours")
    reward.opener = []
    roles.add("policy", rank=RANK, seed=seed)
    config = PPOConfig(
        updates=updates, episodes=BATCH, epochs=EPOCHS, minibatches=MINIBATCHES, learning_rate=RATE, rank=RANK,
        max_new_tokens=new_tokens(length), kl_coefficient=KL, improbable_penalty=0.0, missing_eos_penalty=0.0,
        reference_temperature=1.0, seed=seed,
    )  # fmt: skip
    seen, times = [], [time.perf_counter()]

    class Watch(Silent):
        def metrics(self, stage: str, step: int, values: dict[str, float]) -> None:
            seen.append(values)
            times.append(time.perf_counter())

    train_ppo(roles, reward, asked("everyday"), config, context=Watch())
    found = {"seconds": in_all(times), "memory": peak() - before, "length": sum(v["length"] for v in seen) / len(seen)}
    if not judging(length):
        return found
    _, summary = compare(
        roles, None, "policy", asked("everyday-test")[:JUDGED], Sampling(max_new_tokens=new_tokens(length)), 0, reward
    )
    return found | {key: summary[key] for key in ("reward_after", "kl")}


def theirs(folder: Path, length: str, updates: int, seed: int) -> dict:
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        AutoTokenizer,
        TrainerCallback,
    )
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    before = resident()
    tokenizer = AutoTokenizer.from_pretrained(folder / "base", padding_side="left")
    policy = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=DTYPE)
    value, judge = (
        AutoModelForSequenceClassification.from_pretrained(folder / name, num_labels=1, dtype=DTYPE)
        for name in ("base", "theirs")
    )
    with torch.no_grad():
        value.score.weight.zero_()
    prompts = [tokenizer.apply_chat_template(c, add_generation_prompt=True)["input_ids"] for c in asked("everyday")]
    config = PPOConfig(
        output_dir=str(folder / "trl"), report_to="none", use_cpu=not GPU, bf16=GPU, per_device_train_batch_size=BATCH,
        gradient_accumulation_steps=1, num_mini_batches=MINIBATCHES, num_ppo_epochs=EPOCHS, learning_rate=RATE,
        total_episodes=updates * BATCH, response_length=new_tokens(length), temperature=1.0, kl_coef=KL,
        stop_token="eos", missing_eos_penalty=None, num_sample_generations=0, save_strategy="no", seed=seed,
        disable_tqdm=True, gradient_checkpointing=False, eval_strategy="no",
    )  # fmt: skip
    rows = Dataset.from_dict({"input_ids": prompts})
    trainer = PPOTrainer(
        args=config, processing_class=tokenizer, model=policy, ref_model=None, reward_model=judge, value_model=value,
        train_dataset=rows, eval_dataset=rows.select(range(8)),
        peft_config=LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM"),
    )  # fmt: skip
    times = [time.perf_counter()]

    class Watch(TrainerCallback):
        def on_step_end(self, *_: object, **__: object) -> None:
            times.append(time.perf_counter())

    trainer.add_callback(Watch())
    trainer.train()
    found = {"seconds": in_all(times), "memory": peak() - before}
    return found | (judged(folder, length, trainer.model.policy) if judging(length) else {})


def judged(folder: Path, length: str, trained: torch.nn.Module) -> dict:
    """The policy that trl trained, judged as ours is: the same sampler, seeds and reward model."""
    from engine.evaluation.compare import compare
    from engine.methods.reward import load_reward
    from engine.models.load import load_base
    from engine.models.roles import Roles
    from engine.sampling.settings import Sampling

    roles = Roles(load_base(str(folder / "base")))
    reward = load_reward(roles, folder / "ours")
    reward.opener = []
    roles.add("policy", rank=RANK)
    learned = [p for name, p in trained.named_parameters() if "lora_" in name]
    with torch.no_grad():
        for to, start in zip(roles.parameters("policy"), learned, strict=True):
            to.copy_(start)
    _, summary = compare(
        roles, None, "policy", asked("everyday-test")[:JUDGED], Sampling(max_new_tokens=new_tokens(length)), 0, reward
    )
    return {key: summary[key] for key in ("reward_after", "kl")}


@click.command()
@click.option("--length", type=click.Choice(list(GOALS)), default="ragged", show_default=True)
@click.option("--updates", default=10, show_default=True)
@click.option("--seeds", default=3, show_default=True)
@click.option("--side", type=click.Choice(["ours", "trl"]), hidden=True)
@click.option("--seed", default=0, hidden=True)
@click.option("--folder", type=click.Path(path_type=Path), hidden=True)
def main(length: str, updates: int, seeds: int, side: str | None, seed: int, folder: Path | None) -> None:
    if side and folder:
        click.echo(json.dumps({"ours": ours, "trl": theirs}[side](folder, length, updates, seed)))
        return
    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name), length)
        found = alternate(
            __file__,
            ("ours", "trl"),
            list(range(seeds)),
            "--folder",
            name,
            "--length",
            length,
            "--updates",
            str(updates),
        )
    for key, row in ((side, row) for side, rows in found.items() for row in rows):
        click.echo(json.dumps({"side": key, **row}))
    speed = [updates * BATCH / middle(found[side], "seconds") for side in ("ours", "trl")]
    goal = GOALS[length]
    line(
        f"PPO, {length} length, episodes/s",
        *speed,
        speed[0] / speed[1],
        f"at least {goal}x",
        speed[0] >= goal * speed[1],
    )
    memory = [middle(found[side], "memory") for side in ("ours", "trl")]
    share = memory[0] / memory[1]
    line(f"PPO, {length} length, peak MB", *memory, share, "at most 0.35x", share <= 0.35)
    if length == "ragged":
        # Learned reward goes about with the root of the KL (Gao et al. 2022, section 3.1): equal KL, by that law.
        worth = [median(r["reward_after"] / r["kl"] ** 0.5 for r in found[side]) for side in ("ours", "trl")]
        line("PPO, reward for a nat's root of KL", *worth, worth[0] / worth[1], "at least 1x", worth[0] >= worth[1])


if __name__ == "__main__":
    main()
