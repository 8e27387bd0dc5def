"""What each kind of run does, from the store to the store."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.errors import UserError
from engine.evaluation.compare import Item, compare
from engine.evaluation.reward_report import reward_report
from engine.feedback.examples import split_by_prompt
from engine.feedback.gather import gather_rankings, gather_valued
from engine.jobs import questions
from engine.jobs.config import RunConfig
from engine.jobs.job import Job, attach, load_roles, reference_of, set_machine
from engine.methods.dpo import train_dpo
from engine.methods.function import load_function
from engine.methods.ilql import train_ilql
from engine.methods.kto import train_kto
from engine.methods.ppo import train_ppo
from engine.methods.pretrain import perplexity, pretrain
from engine.methods.reinforce import train_reinforce
from engine.methods.reward import RewardModel, load_reward, normalise, ranking_scores, train_reward
from engine.methods.settings import OnlineConfig
from engine.methods.sft import demonstration_loss, train_sft, worth_copying
from engine.methods.text import new_model, new_tokenizer, packed, read_texts, split
from engine.models.find import fingerprint
from engine.models.load import choose_device, load_base
from engine.models.roles import Roles
from engine.store import comparisons, feedback, models
from engine.store.db import Store
from engine.training import checkpoint
from engine.training.context import Paused, Stopped
from engine.training.passes import Scorer
from engine.workspace import Workspace

MEASURED_FROM = 40  # rankings; with fewer, a reward model learns from all of them


def make_reward(job: Job, roles: Roles, start: str | None, reference: str | None) -> RewardModel:
    """Train a reward model on the store's feedback and keep it as a version; one already made is taken up."""
    if done := job.made("reward_model"):
        return load_reward(roles, job.workspace.model(done))
    rankings = gather_rankings(job.store)
    graded = [v for v in gather_valued(job.store) if v.grade is not None]
    if not rankings and not graded:
        raise UserError("There is no feedback to learn from yet. Rank or edit some answers in Chat first.")
    # A measurement on five rankings would say next to nothing, and they are a good part of what there is to learn from.
    share = job.config.reward.held_out if len(rankings) >= MEASURED_FROM else 0.0
    train, test = split_by_prompt(rankings, share) if share else (rankings, [])
    kept_back = {r.prompt for r in test}
    ratings = [v for v in graded if v.prompt not in kept_back]
    job.used([*train, *ratings], test)
    folder = job.checkpoints("reward")
    reward, figures = train_reward(roles, train, test, job.config.reward, job.context, ratings, folder)
    report = reward_report(test, ranking_scores(reward, test) if test else [], feedback.judged_twice(job.store))
    sampling = job.config.sampling
    prompts, _ = questions.practised(job.store, roles, job.config, sampling.max_new_tokens)
    normalise(reward, start, reference, prompts[: job.config.reward.NORMALISED], sampling, job.config.reward.seed)
    facts = {"method": "reward", **figures, "report": report}
    version = models.add_version(job.store, "reward", job.parent, job.run["id"], facts)
    reward.save(job.workspace.model(version))
    job.keep({"reward_model": version} | figures, version)
    return reward


def rewards_of(store: Store, roles: Roles) -> list[dict]:
    """The reward models of this base, newest last."""
    return [v for v in models.list_versions(store, "reward") if v["base_fingerprint"] == roles.base.fingerprint]


def newest_judge(workspace: Workspace, store: Store, roles: Roles) -> RewardModel | None:
    stored = rewards_of(store, roles)
    return load_reward(roles, workspace.model(stored[-1]["id"])) if stored else None


def find_scorer(job: Job, roles: Roles, config: OnlineConfig) -> Scorer:
    """What scores answers: the run's reward function, the reward model it names, or the newest of this base."""
    if job.config.reward_function:
        return load_function(job.config.reward_function)
    if job.config.reward_model is not None:
        named = models.get_version(job.store, job.config.reward_model)
        if named["kind"] != "reward":
            raise UserError(f"{named['name']} is no reward model. `rlhf-studio models list` shows which are.")
        stored = [named]
    else:  # where there are only other bases' models, the newest is refused by name as it loads
        stored = rewards_of(job.store, roles) or models.list_versions(job.store, "reward")
    if not stored:
        raise UserError("There is no reward model yet. Train one first: rlhf-studio train reward.")
    reward = load_reward(roles, job.workspace.model(stored[-1]["id"]))
    reward.pessimism = config.pessimism
    return reward


def make_policy(
    job: Job, roles: Roles, start: str | None, stage: str, train: Callable[[Path], dict[str, float]]
) -> dict:
    """Train the role "policy" and keep it as a version; one already made is taken up. Stopped early, what it had
    reached is kept all the same."""
    if done := job.made("policy"):
        roles.load("policy", job.workspace.model(done))
        return models.get_version(job.store, done)
    settings = getattr(job.config, stage)
    roles.add("policy", rank=settings.rank, seed=settings.seed)
    if start:
        roles.copy(start, "policy")
    stopped, figures = None, {}
    try:
        figures = train(job.checkpoints(stage))
    except Paused:
        raise
    except Stopped as stop:
        if not checkpoint.exists(job.checkpoints(stage)):
            raise  # nothing learned yet that would be worth a version
        stopped = stop
    facts = {"method": job.run["method"], **figures}
    version = models.add_version(job.store, "policy", job.parent, job.run["id"], facts)
    roles.save("policy", job.workspace.model(version), {"kind": "policy"})
    whole = {} if stopped else {"policy": version}
    job.keep({f"{stage}_{key}": value for key, value in figures.items()} | whole, version)
    if stopped:
        raise stopped
    return models.get_version(job.store, version)


def compare_with_parent(job: Job, roles: Roles, start: str | None, after: dict, scorer: Scorer | None) -> None:
    """Answer held-out prompts before and after, keep the comparison, and make the new version the one to chat with."""
    job.context.stage("compare", 0, 1)
    asked = questions.compared(job.store, roles, job.config)
    items, result = compare(roles, start, "policy", asked, job.config.sampling, job.config.compare.seed, scorer)
    store_comparison(job.store, job.parent["id"], after["id"], items, result, job.run["id"])
    models.promote(job.store, after["id"])
    job.keep({"comparison": result}, after["id"])
    job.context.stage("compare", 1, 1)


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
    make_reward(job, roles, start, reference_of(job, roles, start))


def _online(job: Job, stage: str, roles: Roles, start: str | None, reference: str | None, scorer: Scorer) -> None:
    """PPO or the policy gradient against `scorer`, from `start` and near `reference`, then the comparison."""
    settings = getattr(job.config, stage)
    prompts, kept = questions.practised(job.store, roles, job.config, settings.longest)
    if settings.select_every:  # what the best policy is chosen by, it must not have practised on
        prompts = [p for p in prompts if p not in kept]
    extra: dict = {}
    if stage == "ppo" and settings.pretraining_weight:
        examples = worth_copying(gather_valued(job.store), job.config.sft)
        extra["extra_loss"] = demonstration_loss(roles, examples, job.config.sft)
    train: Any = train_ppo if stage == "ppo" else train_reinforce
    after = make_policy(
        job, roles, start, stage,
        lambda folder: train(roles, scorer, prompts, settings, reference, job.context, folder, kept, **extra),
    )  # fmt: skip
    compare_with_parent(job, roles, start, after, scorer)


def run_ppo(job: Job) -> None:
    roles, start = load_roles(job)
    _online(job, "ppo", roles, start, reference_of(job, roles, start), find_scorer(job, roles, job.config.ppo))


def run_reinforce(job: Job) -> None:
    roles, start = load_roles(job)
    scorer = find_scorer(job, roles, job.config.reinforce)
    _online(job, "reinforce", roles, start, reference_of(job, roles, start), scorer)


def run_improve(job: Job) -> None:
    """Reward model, then PPO, then the comparison of before and after."""
    roles, start = load_roles(job)
    reference = reference_of(job, roles, start)
    reward = make_reward(job, roles, start, reference)
    reward.pessimism = job.config.ppo.pessimism
    _online(job, "ppo", roles, start, reference, reward)


def _offline(job: Job, stage: str, learn: Callable[[Roles, str | None, Path], dict[str, float]]) -> None:
    roles, start = load_roles(job)
    after = make_policy(job, roles, start, stage, lambda folder: learn(roles, start, folder))
    compare_with_parent(job, roles, start, after, newest_judge(job.workspace, job.store, roles))


def run_sft(job: Job) -> None:
    examples = worth_copying(gather_valued(job.store), job.config.sft)
    job.used(examples, [])
    _offline(job, "sft", lambda roles, _, to: train_sft(roles, examples, job.config.sft, job.context, to))


def run_dpo(job: Job) -> None:
    rankings = gather_rankings(job.store)
    job.used(rankings, [])
    _offline(job, "dpo", lambda roles, start, to: train_dpo(roles, rankings, job.config.dpo, start, job.context, to))


def run_kto(job: Job) -> None:
    valued = gather_valued(job.store)
    job.used(valued, [])
    _offline(job, "kto", lambda roles, start, to: train_kto(roles, valued, job.config.kto, start, job.context, to))


def run_ilql(job: Job) -> None:
    valued = gather_valued(job.store)
    job.used(valued, [])
    _offline(job, "ilql", lambda roles, _, to: train_ilql(roles, valued, job.config.ilql, job.context, to))


def _learn_text(job: Job, model: Any, tokenizer: Any, texts: tuple[list[str], list[str]], folder: Path) -> dict:
    """Pretrain `model` on the first of `texts`, measured on the second before and after."""
    config = job.config.pretrain
    measured = list(packed(tokenizer, texts[1], config.max_length, None))
    before = perplexity(model, measured, tokenizer.pad_token_id)
    stream = packed(tokenizer, texts[0], config.max_length, config.seed)
    figures = pretrain(model, stream, tokenizer.pad_token_id, config, job.context, folder)
    after = perplexity(model, measured, tokenizer.pad_token_id)
    return {"perplexity_before": before, "perplexity": after, **figures}


def _trainable_base(job: Job, texts: list[str]) -> tuple[Any, Any]:
    """(tokenizer, model): a new one made for `texts`, or the parent with all of its weights to train."""
    config = job.config.pretrain
    if config.start == "new":
        job.context.stage("load", 0, 1)
        set_machine(job.config)
        tokenizer = new_tokenizer(texts, config.vocabulary, [])
        model: Any = new_model(tokenizer, config.width, config.layers, 2 * config.max_length, config.seed)
        return tokenizer, model.to(choose_device())
    if job.config.precision == "auto":  # weights that are trained: half precision would lose their small steps
        job.config = replace(job.config, precision="float32")
    roles, start = load_roles(job)
    if start:
        raise UserError("All weights can be trained of a base only, not of a version with an adapter. Use start=lora.")
    if roles.base.precision == "nf4":
        raise UserError("The weights of a 4-bit base cannot be trained. Use start=lora, or another precision.")
    return roles.tokenizer, roles.base.model.requires_grad_(True)


def run_pretrain(job: Job) -> None:
    """Next-token prediction on plain text: a version of the base, or a base of its own."""
    config = job.config.pretrain
    if not config.text:
        raise UserError("Say which text to learn from: pretrain.text=FILE or a folder of text files.")
    texts = split(read_texts(config.text), config.held_out)
    if config.start == "lora":
        roles, start = load_roles(job)

        def learn(folder: Path) -> dict[str, float]:
            with roles.acting("policy", train=True) as model:
                return _learn_text(job, model, roles.tokenizer, texts, folder)

        compare_with_parent(job, roles, start, make_policy(job, roles, start, "pretrain", learn), None)
        return
    tokenizer, model = _trainable_base(job, texts[0])
    figures = _learn_text(job, model, tokenizer, texts, job.checkpoints("pretrain"))
    folder = job.workspace.folder / "bases" / str(job.run["id"])
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    version = models.ensure_base(job.store, str(folder), fingerprint(folder), f"base-{job.run['id']}")
    job.store.update("model_versions", version, run_id=job.run["id"], facts={"method": "pretrain", **figures})
    job.keep({f"pretrain_{key}": value for key, value in figures.items()}, version)


def run_compare(job: Job) -> None:
    """The run's parent against the version that its settings name."""
    if job.config.compare.after is None:
        raise UserError("Say which version to compare with: compare.after=ID.")
    job.context.stage("load", 0, 1)
    after = models.get_version(job.store, job.config.compare.after)
    job.context.stage("compare", 0, 1)
    found = compare_versions(job.workspace, job.store, job.parent, after, None, job.config, job.run["id"])
    job.keep({"comparison": found})
    job.context.stage("compare", 1, 1)


RECIPES: dict[str, Callable[[Job], None]] = {
    "improve": run_improve,
    "reward": run_reward,
    "ppo": run_ppo,
    "reinforce": run_reinforce,
    "pretrain": run_pretrain,
    "sft": run_sft,
    "dpo": run_dpo,
    "kto": run_kto,
    "ilql": run_ilql,
    "compare": run_compare,
}


def compare_versions(
    workspace: Workspace, store: Store, before: dict, after: dict, prompts: list[str] | None, config: RunConfig,
    run: int | None = None,
) -> dict:  # fmt: skip
    """Compare two stored versions of one base and keep the comparison; returns its summary.

    prompts: what both are asked; None for what a run's own comparison asks.
    """
    roles = Roles(load_base(before["base"], config.precision))
    first, second = attach(roles, workspace, before, "before"), attach(roles, workspace, after, "after")
    reward = newest_judge(workspace, store, roles)
    asked = questions.compared(store, roles, config) if prompts is None else questions.opening(prompts)
    items, result = compare(roles, first, second, asked, config.sampling, config.compare.seed, reward)
    comparison = store_comparison(store, before["id"], after["id"], items, result, run)
    return {"before": before["name"], "after": after["name"], "comparison": comparison, **result}
