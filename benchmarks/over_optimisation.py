"""How far to optimise a learned reward: its score against the true taste, over the KL (Gao et al. 2022, figure 1).

    python benchmarks/over_optimisation.py [--prefer warm] [--labels 50] [--seed 0] [--updates 150]

PPO with next to no KL penalty; every few updates held-out prompts are answered, several times each, and judged by the
reward model and by the annotator's true taste. One JSON line a look, then one that says what each way to stop costs of
the best true win rate seen: keeping the look with the highest learned reward (what `ppo.select_every` does), and ending
at the first look where the KL is above the default `ppo.kl_target` (what `ppo.kl_budget` does).
"""

import json
import tempfile
from dataclasses import replace

import click

import engine
from engine.feedback.gather import gather_rankings
from engine.methods.ppo import train_ppo
from engine.methods.reward import normalise, train_reward
from engine.methods.settings import PPOConfig, RewardConfig
from engine.models.load import load_base
from engine.models.roles import Roles
from engine.pocket.annotator import SimulatedAnnotator
from engine.pocket.demo import COMPARED, TIMES, ask, label, measure
from engine.prompts import load_prompts
from engine.sampling.settings import Sampling
from engine.store import models
from engine.training.context import Silent
from engine.training.passes import Encoded, whole_log_probs

LOOK_EVERY = 10  # updates


class Looking(Silent):
    def __init__(self, roles, reward, annotator):
        self.roles, self.reward, self.annotator = roles, reward, annotator
        self.prompts = load_prompts("everyday-test")[:COMPARED]
        self.before = self.asked(None)
        self.looks: list[dict] = []

    def asked(self, role):
        return ask(self.roles, role, self.prompts, 0, TIMES)

    def metrics(self, name, step, values):
        if step != 1 and step % LOOK_EVERY:
            return
        after = self.asked("policy")
        answers = [a for to_one in after for a in to_one]
        pairs = [Encoded(a.prompt_ids, a.ids) for a in answers]
        ours, base = (whole_log_probs(self.roles, role, pairs) for role in ("policy", None))
        texts = [[[a.text for a in to_one] for to_one in side] for side in (self.before, after)]
        judged = measure(self.prompts, *texts, self.annotator)
        look = {
            "update": step,
            "kl": round(sum(a - b for a, b in zip(ours, base, strict=True)) / len(answers), 3),
            "learned_reward": round(float(self.reward.scores(answers).mean()), 3),
            **{key: round(judged[key], 4) for key in ("win_rate", "win_rate_low", "win_rate_high")},
        }
        self.looks.append(look)
        click.echo(json.dumps(look))


@click.command()
@click.option("--prefer", default="warm", show_default=True)
@click.option("--labels", default=50, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--updates", default=150, show_default=True)
def main(prefer: str, labels: int, seed: int, updates: int) -> None:
    annotator = SimulatedAnnotator(prefer)
    roles = Roles(load_base("pocket"))
    with tempfile.TemporaryDirectory() as folder:
        store = engine.Store(engine.open_workspace(folder).database)
        version = models.ensure_base(store, str(roles.base.path), roles.base.fingerprint, "pocket")
        label(store, roles, None, version, annotator, labels, seed, "random")
        reward, _ = train_reward(roles, gather_rankings(store), [], RewardConfig(seed=seed))
        store.close()
    conversations = [[{"role": "user", "content": p}] for p in load_prompts("everyday")]
    normalise(reward, None, None, conversations[:128], Sampling(), seed)
    roles.add("policy", rank=PPOConfig().rank, seed=seed)
    looking = Looking(roles, reward, annotator)
    config = replace(PPOConfig(), updates=updates, kl_coefficient=0.01, kl_horizon=1e12, seed=seed)
    train_ppo(roles, reward, conversations, config, None, looking)
    click.echo(json.dumps({"prefer": prefer, "seed": seed, **stops(looking.looks)}))


def stops(looks: list[dict]) -> dict:
    """The best look by the true win rate; what each rule would have kept, and how much less that won."""
    best = max(looks, key=lambda look: look["win_rate"])
    over = (look for look in looks if look["kl"] > PPOConfig().kl_target)
    kept = {"select_every": max(looks, key=lambda look: look["learned_reward"]), "kl_budget": next(over, looks[-1])}
    lost = {rule: round(best["win_rate"] - look["win_rate"], 4) for rule, look in kept.items()}
    return {"best": best, **kept, "lost": lost}


if __name__ == "__main__":
    main()
