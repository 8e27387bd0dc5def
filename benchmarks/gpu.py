"""On a CUDA GPU: rollouts against the memory's speed and transformers, and what an 8B in NF4 takes.

    python benchmarks/gpu.py [--peers] [rollouts|updates|large]...

rollouts: random models of Qwen2.5-0.5B's and Llama-3-8B's shape in bf16 with an adapter, 32 answers that never end. The
bound is reading the weights and, on average, the cache from memory once a token, as fast as a large copy does.
updates: what an update of PPO takes on the 0.5B (32 answers of 128 tokens, 4 epochs of 2 minibatches) to answer and to
learn from, passes recorded and not; the bound is their products at the speed of a large one.
large: PPO (16 answers of 256 tokens) and a reward model on the 8B in NF4, torch held to what a card of 24 GB has;
memory as estimated and as torch counts it.
PPO against trl is in ppo_vs_trl.py (`--length 0.5B`).
"""

import gc
import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch
from sides import line

SHAPES: dict[str, dict] = {
    "0.5B": {
        "model_type": "qwen2", "vocab_size": 151_936, "hidden_size": 896, "intermediate_size": 4864,
        "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2, "tie_word_embeddings": True,
        "max_position_embeddings": 32_768, "rope_theta": 1e6,
    },
    "8B": {
        "model_type": "llama", "vocab_size": 128_256, "hidden_size": 4096, "intermediate_size": 14_336,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "tie_word_embeddings": False,
        "max_position_embeddings": 8192, "rope_theta": 5e5,
    },
}  # fmt: skip
ROWS, PROMPT, NEW = 32, 32, 128
LARGE_ROWS, LARGE_NEW = 16, 256
CARD = 24e9 - 0.6e9  # bytes of a card of 24 GB that torch may take, beside what CUDA itself does


def random_model(name: str) -> Any:
    """A model of a real shape, its weights random, made on the GPU: on a CPU that takes minutes."""
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = dict(SHAPES[name])
    ends = {"bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0}  # the pocket tokenizer's
    config = AutoConfig.for_model(shape.pop("model_type"), **shape, **ends)
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    return model.eval().requires_grad_(False)


def as_base(model: Any) -> Any:
    from engine.models.find import find_base
    from engine.models.load import Base, load_base

    tokenizer = load_base("pocket", device=torch.device("cpu")).tokenizer
    return Base(model, tokenizer, find_base("pocket"), "random", "bf16", model.device)


def seconds(work: Callable[[], Any], rounds: int = 3) -> float:
    """The median of a few, after one that counts for nothing."""
    found = []
    for _ in range(rounds + 1):
        torch.cuda.synchronize()
        started = time.perf_counter()
        work()
        torch.cuda.synchronize()
        found.append(time.perf_counter() - started)
    return median(found[1:])


def copy_speed() -> float:
    """Bytes a second that a large copy reads and writes."""
    a, b = (torch.empty(1 << 31, dtype=torch.uint8, device="cuda") for _ in range(2))
    return 2 * a.numel() / seconds(lambda: b.copy_(a), 5)


def rollouts(peers: bool) -> None:
    from engine.models.roles import Roles
    from engine.sampling.rollout import rollout
    from engine.sampling.settings import Sampling

    speed = copy_speed()
    click.echo(f"{torch.cuda.get_device_name(0)}: a copy moves {speed / 1e12:.2f} TB/s")
    for name in SHAPES:
        roles = Roles(as_base(random_model(name)))
        roles.add("policy", rank=16)
        for p in roles.parameters("policy"):
            torch.nn.init.normal_(p, std=0.01)
        prompts = torch.randint(3, 1000, (ROWS, PROMPT)).tolist()

        def ours(roles=roles, prompts=prompts) -> None:
            with roles.acting("policy") as model:
                rollout(model, prompts, 0, [], Sampling(max_new_tokens=NEW), list(range(ROWS)))

        step, bound = seconds(ours) / NEW, bytes_read(roles.base.model) / speed
        line(f"rollouts, {name} bf16 with an adapter, {ROWS} rows, ms a token (theirs: the bound)", step * 1e3,
             bound * 1e3, bound / step, "at least half", bound / step >= 0.5)  # fmt: skip
        if peers:
            against_peers(name, roles, prompts, ours, step)
        del roles, ours
        gc.collect()  # the model, and with it the room in which its answers stood
        torch.cuda.empty_cache()


def bytes_read(model: Any) -> float:
    """What a step has to read: all weights but the embeddings, of which it takes a row, and on average the cache."""
    config = model.config
    weights = sum(p.nbytes for p in model.parameters() if p.dtype == torch.bfloat16)
    if not config.tie_word_embeddings:
        weights -= model.get_input_embeddings().weight.nbytes
    keys = config.num_key_value_heads * (config.hidden_size // config.num_attention_heads)
    return weights + ROWS * (PROMPT + NEW / 2) * 2 * config.num_hidden_layers * keys * 2


def against_peers(name: str, roles: Any, prompts: list[list[int]], ours: Callable[[], None], step: float) -> None:
    """transformers' two ways, and our own steps started one operation at a time."""
    from transformers import ContinuousBatchingConfig, GenerationConfig

    from engine.sampling import ways

    @torch.no_grad()
    def generate() -> None:
        with roles.acting("policy") as model:
            model.generate(
                torch.tensor(prompts, device="cuda"), do_sample=True, top_k=0, max_new_tokens=NEW, min_new_tokens=NEW,
                pad_token_id=0, attention_mask=torch.ones(ROWS, PROMPT, device="cuda").long(),
            )  # fmt: skip

    @torch.no_grad()
    def continuous() -> None:
        options = GenerationConfig(do_sample=True, max_new_tokens=NEW, eos_token_id=-1, pad_token_id=0, top_k=0)
        batching = ContinuousBatchingConfig(max_memory_percent=0.3, return_logprobs=True)
        with roles.acting("policy") as model:
            model.generate_batch(prompts, generation_config=options, continuous_batching_config=batching)

    def one_by_one() -> None:
        kept = ways.WAYS["cuda"]
        ways.WAYS["cuda"] = kept[1:]
        ways._ways.clear()
        ours()
        ways.WAYS["cuda"] = kept
        ways._ways.clear()

    for what, work in (("generate", generate), ("continuous batching", continuous), ("not recorded", one_by_one)):
        other = seconds(work, 1) / NEW
        line(f"rollouts, {name}, against {what}, ms a token", step * 1e3, other * 1e3, other / step, "", None)


def product_speed() -> float:
    """Operations a second of a large product in bf16."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2 * 8192**3 / seconds(lambda: a @ b, 9)


class Variety:
    """Scores answers by how many different tokens they have."""

    def scores(self, answers):
        return torch.tensor([float(len(set(a.ids))) for a in answers])


def updates(_: bool) -> None:
    from engine.estimate import memory
    from engine.jobs.config import read_config
    from engine.methods.online import gather
    from engine.methods.ppo import PPO
    from engine.models import replayed
    from engine.models.roles import Roles
    from engine.models.shape import KNOWN

    base, speed = as_base(random_model("0.5B")), product_speed()
    config = read_config({
        # Learning from the same answers again and again is not to stop.
        "ppo": {"episodes": ROWS, "minibatches": 2, "epochs": 4, "max_new_tokens": NEW, "stop_kl": 1e9},
    })  # fmt: skip
    prompts = torch.randint(3, 1000, (ROWS, PROMPT)).tolist()
    found = {}
    for way, devices in (("recorded", {"cuda"}), ("not recorded", set())):
        replayed.DEVICES = devices
        roles = Roles(base)
        roles.add("policy", rank=config.ppo.rank)
        learner = PPO(roles, config.ppo)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()

        def answers(roles=roles):
            return gather(roles, None, Variety(), [[]] * ROWS, prompts, list(range(ROWS)), 0.05, config.ppo)

        experience = answers()
        found[way] = seconds(answers), seconds(lambda learner=learner, given=experience: learner.learn(given, 0))
        click.echo(f"{way}: {found[way][0]:.2f} s to answer, {found[way][1]:.2f} s to learn, "
                   f"{torch.cuda.max_memory_allocated() / 1e9:.2f} GB at most")  # fmt: skip
        roles.remove("policy")
        replayed.forget_passes()
    shape = KNOWN["Qwen2.5-0.5B"]
    told = memory(shape, config, "ppo", "bf16", prompt=PROMPT, answer=NEW, device="cuda")["total"]
    # There and back through frozen weights are two products each; the vocabulary's is needed for answers alone.
    tokens = config.ppo.epochs * ROWS
    work = 4 * tokens * ((PROMPT + NEW) * (shape.parameters - shape.embedding) + NEW * shape.embedding)
    (_, fast), (_, plain) = found["recorded"], found["not recorded"]
    click.echo(f"told {told / 1e9:.2f} GB; products alone {work / speed:.3f} s at {speed / 1e12:.0f} TFLOP/s")
    line("learning from an update, 0.5B, s (theirs: not recorded)", fast, plain, plain / fast, "", None)


def large(_: bool) -> None:
    from engine.estimate import fitted, memory
    from engine.feedback.examples import Ranking
    from engine.jobs.config import RunConfig, read_config
    from engine.methods.ppo import train_ppo
    from engine.methods.reward import train_reward
    from engine.models.load import load_base
    from engine.models.roles import Roles
    from engine.models.shape import shape_of
    from engine.prompts import load_prompts

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        random_model("8B").save_pretrained(folder)
        load_base("pocket", device=torch.device("cpu")).tokenizer.save_pretrained(folder)
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(CARD / total)
        torch.cuda.reset_peak_memory_stats()
        base, shape = load_base(str(folder), "nf4"), shape_of(folder)
    click.echo(f"8B in NF4: {torch.cuda.memory_allocated() / 1e9:.2f} GB, while it was loaded "
               f"{torch.cuda.max_memory_reserved() / 1e9:.2f}")  # fmt: skip
    prompts = [[{"role": "user", "content": p}] for p in load_prompts("everyday")]
    texts = tuple(" ".join([f"{first}, and so it went on"] * 20) for first in ("This", "That", "One", "All"))
    rankings = [Ranking((("user", p[0]["content"]),), texts, (1, 2, 3, 4), (True,) * 4) for p in prompts[:16]]

    def ppo(roles: Roles, config: RunConfig) -> None:
        roles.add("policy", rank=config.ppo.rank)
        train_ppo(roles, Variety(), prompts, config.ppo)

    def reward(roles: Roles, config: RunConfig) -> None:
        train_reward(roles, rankings, [], config.reward)

    sizes = {"episodes": LARGE_ROWS, "minibatches": 2, "max_new_tokens": LARGE_NEW, "updates": 2, "epochs": 2}
    asked = read_config({"precision": "nf4", "ppo": sizes, "reward": {"epochs": 1, "min_steps": 0, "batch": 4}})
    works = (("ppo", ppo, LARGE_NEW), ("reward", reward, len(base.tokenizer(texts[0])["input_ids"])))
    for stage, work, answer in works:
        config, _ = fitted(shape, asked, (stage,), "bf16", CARD, "cuda")
        roles = Roles(base)
        if config.recompute == "always":
            roles.recompute()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        started = time.perf_counter()
        work(roles, config)
        taken, found = time.perf_counter() - started, torch.cuda.max_memory_allocated()
        told = memory(shape, config, stage, "nf4", "bf16", prompt=13, answer=answer, device="cuda")["total"]
        rows, reserved = getattr(config, stage).micro_batch, torch.cuda.max_memory_reserved() / 1e9
        click.echo(
            f"{stage}: {taken:.1f} s, {rows} at a time, recompute {config.recompute}, {reserved:.2f} GB reserved"
        )
        line(f"8B in NF4, {stage}, GB told and measured", told / 1e9, found / 1e9, told / found, "within 15%",
             abs(told / found - 1) <= 0.15)  # fmt: skip
        for role in roles.names():
            roles.remove(role)


PARTS = {"rollouts": rollouts, "updates": updates, "large": large}


@click.command()
@click.argument("parts", nargs=-1, type=click.Choice(list(PARTS)))
@click.option("--peers", is_flag=True, help="Also time transformers, and our own steps one operation at a time.")
def main(parts: tuple[str, ...], peers: bool) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # why a faster way was not taken
    if not torch.cuda.is_available():
        raise click.ClickException("This needs a CUDA GPU.")
    for part in parts or PARTS:
        PARTS[part](peers)


if __name__ == "__main__":
    main()
