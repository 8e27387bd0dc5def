"""What each kind of run does, from the store to the store."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from engine.errors import UserError
from engine.evaluation.compare import Item, compare
from engine.feedback.examples import Ranking, split_by_prompt
from engine.feedback.gather import gather_rankings
from engine.jobs.config import RunConfig, read_config
from engine.methods.ppo import train_ppo
from engine.methods.reward import RewardModel, normalise, train_reward
from engine.models.chat import Message, fits
from engine.models.load import load_base
from engine.models.roles import Roles, check_base, load_head, save_head
from engine.prompts import load_prompts
from engine.sampling.settings import Sampling
from engine.store import comparisons, conversations, models, runs
from engine.store.db import Store
from engine.training.context import Context, Stopped
from engine.workspace import Workspace


@dataclass
class Job:
    """One run at work: its row, and where it reads and writes."""

    workspace: Workspace
    store: Store
    run: dict
    context: Context

    @property
    def config(self) -> RunConfig:
        return read_config(self.run["config"])

    @property
    def parent(self) -> dict:
        return models.get_version(self.store, self.run["parent_version_id"])

    def finish(self, version_id: int, result: dict) -> None:
        self.store.update("runs", self.run["id"], model_version_id=version_id, result=self.run["result"] | result)
        self.run = runs.get_run(self.store, self.run["id"])


def load_roles(job: Job) -> tuple[Roles, str | None]:
    """(the base with its adapters, the role that training starts from: "reference", or None for the base)."""
    job.context.stage("load", 0, 1)
    if job.config.threads:
        torch.set_num_threads(job.config.threads)
    base = load_base(job.parent["base"], job.config.precision)
    if base.fingerprint != job.parent["base_fingerprint"]:
        raise UserError(
            f"The base {job.parent['base']} has changed since {job.parent['name']} was made "
            f"({base.fingerprint} now, {job.parent['base_fingerprint']} then). Put the old weights back."
        )
    roles = Roles(base)
    return roles, attach(roles, job.workspace, job.parent, "reference")


def attach(roles: Roles, workspace: Workspace, version: dict, role: str) -> str | None:
    """Load a version's adapter as `role`; None where the version is the base itself."""
    if version["kind"] == "base":
        if version["base_fingerprint"] != roles.base.fingerprint:
            raise UserError(f"{version['name']} is another base than {roles.base.path}. Compare versions of one base.")
        return None
    roles.load(role, workspace.model(version["id"]))
    return role


def load_reward(roles: Roles, workspace: Workspace, version: dict) -> RewardModel:
    """A stored reward model. Raises UserError where it belongs to another base."""
    folder = workspace.model(version["id"])
    facts = check_base(folder, roles.base)
    roles.load("reward", folder)
    head = load_head(roles.width, folder, "reward_head", roles.base.device)
    return RewardModel(roles, head, mean=facts["reward_mean"], std=facts["reward_std"])


def training_prompts(job: Job, tokenizer) -> list[list[Message]]:
    """What the policy practises on: the person's own prompts and the built-in set, without repeats.

    A conversation that leaves no room for an answer is left out; it must not end a run that could go without it.
    """
    own = conversations.own_prompts(job.store)
    builtin = [[{"role": "user", "content": p}] for p in load_prompts(job.config.prompt_set)]
    found = {repr(c): c for c in own + builtin if fits(tokenizer, c, job.config.ppo.max_new_tokens)}
    if not found:
        raise UserError("There are no prompts to practise on. Chat a little first, or set prompt_set=everyday.")
    return list(found.values())


def _reward(job: Job, roles: Roles, start: str | None) -> RewardModel:
    rankings: list[Ranking] = gather_rankings(job.store)
    if not rankings:
        raise UserError("There is no feedback to learn from yet. Rank or edit some answers in Chat first.")
    train, test = split_by_prompt(rankings, job.config.reward.held_out)
    sides = [sorted({i for r in side for i in r.feedback_ids}) for side in (train, test)]
    runs.record_feedback(job.store, job.run["id"], *sides)
    reward, figures = train_reward(roles, train, test, job.config.reward, job.context)
    sampling = Sampling(max_new_tokens=job.config.ppo.max_new_tokens)
    normalise(reward, start, training_prompts(job, roles.tokenizer)[:128], sampling, job.config.reward.seed)
    number = len(models.list_versions(job.store, "reward")) + 1
    version = models.add_version(job.store, "reward", f"reward-{number}", job.parent, job.run["id"], figures)
    folder = job.workspace.model(version)
    roles.save("reward", folder, {"kind": "reward", "reward_mean": reward.mean, "reward_std": reward.std})
    save_head(reward.head, folder, "reward_head")
    job.finish(version, {"reward_model": version} | figures)
    return reward


def _ppo(job: Job, roles: Roles, start: str | None, reward: RewardModel) -> dict:
    """Train a policy and keep it as a version; stopped early, what it had reached is kept all the same."""
    roles.add("policy", rank=job.config.ppo.rank, seed=job.config.ppo.seed)
    if start:
        roles.copy(start, "policy")
    checkpoints = job.workspace.run(job.run["id"])
    stopped = None
    figures: dict = {}
    try:
        prompts = training_prompts(job, roles.tokenizer)
        figures = train_ppo(roles, reward, prompts, job.config.ppo, start, job.context, checkpoints)
    except Stopped as stop:
        if not (checkpoints / "ppo.pt").is_file():
            raise  # nothing learned yet that would be worth a version
        stopped = stop
    number = len(models.list_versions(job.store, "policy")) + 1
    version = models.add_version(job.store, "policy", f"round-{number}", job.parent, job.run["id"], figures)
    roles.save("policy", job.workspace.model(version), {"kind": "policy"})
    job.finish(version, {f"ppo_{key}": value for key, value in figures.items()})
    if stopped:
        raise stopped
    return models.get_version(job.store, version)


def store_comparison(store: Store, before: int, after: int, items: list[Item], result: dict, run: int | None) -> int:
    rows = [
        {
            "prompt": i.prompt,
            "before": i.before.text,
            "after": i.after.text,
            "facts": {
                "seed": i.before.seed,
                "kl": i.kl,
                "reward_before": i.reward_before,
                "reward_after": i.reward_after,
                "length_before": len(i.before.ids),
                "length_after": len(i.after.ids),
            },
        }
        for i in items
    ]
    return comparisons.add_comparison(store, before, after, rows, result, run)


def run_reward(job: Job) -> None:
    roles, start = load_roles(job)
    _reward(job, roles, start)


def run_ppo(job: Job) -> None:
    roles, start = load_roles(job)
    stored = models.list_versions(job.store, "reward")
    if job.config.reward_model is not None:
        stored = [models.get_version(job.store, job.config.reward_model)]
    if not stored:
        raise UserError("There is no reward model yet. Train one first: rlhf-studio train reward.")
    _ppo(job, roles, start, load_reward(roles, job.workspace, stored[-1]))


def run_improve(job: Job) -> None:
    """Reward model, then PPO, then the comparison of before and after."""
    roles, start = load_roles(job)
    done = job.run["result"].get("reward_model")
    if done:  # a resumed run has its reward model already
        reward = load_reward(roles, job.workspace, models.get_version(job.store, done))
    else:
        reward = _reward(job, roles, start)
    after = _ppo(job, roles, start, reward)
    job.context.stage("compare", 0, 1)
    settings = job.config.compare
    prompts = [[{"role": "user", "content": p}] for p in load_prompts("everyday-test")[: settings.prompts]]
    items, result = compare(roles, start, "policy", prompts, job.config.sampling, settings.seed, reward)
    store_comparison(job.store, job.parent["id"], after["id"], items, result, job.run["id"])
    models.promote(job.store, after["id"])
    job.finish(after["id"], {"comparison": result})
    job.context.stage("compare", 1, 1)


RECIPES: dict[str, Callable[[Job], None]] = {"reward": run_reward, "ppo": run_ppo, "improve": run_improve}


def compare_versions(
    workspace: Workspace, store: Store, before: dict, after: dict, prompts: list[str], config: RunConfig
) -> dict:
    """Compare two stored versions of one base and keep the comparison; returns its summary."""
    roles = Roles(load_base(before["base"], config.precision))
    first, second = attach(roles, workspace, before, "before"), attach(roles, workspace, after, "after")
    stored = [v for v in models.list_versions(store, "reward") if v["base_fingerprint"] == roles.base.fingerprint]
    reward = load_reward(roles, workspace, stored[-1]) if stored else None
    conversations_ = [[{"role": "user", "content": p}] for p in prompts]
    items, result = compare(roles, first, second, conversations_, config.sampling, config.compare.seed, reward)
    comparison = store_comparison(store, before["id"], after["id"], items, result, None)
    return {"before": before["name"], "after": after["name"], "comparison": comparison, **result}
