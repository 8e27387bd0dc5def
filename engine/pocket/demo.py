"""The whole loop without a browser: label, train, compare, on the pocket model with the simulated annotator.

Labelling, the run and the comparison are the ones a person uses, through the store; only the person is simulated.
"""

import random
import time
from collections.abc import Callable

from engine.errors import UserError
from engine.evaluation.winrate import win_rate
from engine.feedback.examples import Ranking
from engine.jobs import launch
from engine.jobs.config import parse_settings
from engine.methods.reward import accuracy, load_reward
from engine.models.load import load_base
from engine.models.roles import Roles
from engine.pocket.annotator import SimulatedAnnotator
from engine.pocket.corpus import understand
from engine.pocket.grammar import analyse, kinds
from engine.prompts import load_prompts
from engine.sampling.answers import answer
from engine.sampling.settings import Sampling
from engine.store import comparisons, conversations, feedback, models, runs
from engine.store.db import Store
from engine.workspace import Workspace

ANSWERS = 4  # to every prompt
CHECKED = 60  # held-out rankings that measure the reward model and train nothing
COMPARED = 160  # held-out prompts


def _message(prompt: str) -> list[dict]:
    return [{"role": "user", "content": prompt}]


def _label(store: Store, roles: Roles, version: int, annotator: SimulatedAnnotator, labels: int, seed: int) -> None:
    """Sample answers to `labels` prompts and keep the annotator's rankings of them."""
    prompts = random.Random(f"label {seed}").sample(load_prompts("everyday"), labels)
    sampling = Sampling()
    seeds = [seed * 1_000_000 + i for i in range(labels * ANSWERS)]
    answers = answer(roles, None, [_message(p) for p in prompts for _ in range(ANSWERS)], sampling, seeds)
    for i, prompt in enumerate(prompts):
        mine = answers[i * ANSWERS : (i + 1) * ANSWERS]
        prompt_id = conversations.add_prompt(store, prompt, "demo")
        rows = [{"text": a.text, "tokens": len(a.ids), "seed": a.seed, "finish": a.finish} for a in mine]
        ids = conversations.add_responses(store, prompt_id, version, sampling.as_dict(), rows)
        ranks = annotator.rank(prompt, [a.text for a in mine])
        tiers = [[r for r, rank in zip(ids, ranks, strict=True) if rank == n] for n in sorted(set(ranks))]
        feedback.add_ranking(store, prompt_id, tiers, annotator=f"simulated:{annotator.prefer}")


def _held_out_accuracy(
    workspace: Workspace, roles: Roles, version: int, annotator: SimulatedAnnotator, seed: int
) -> float:
    """Share of untied pairs that the reward model orders as the annotator does, on prompts it never saw."""
    prompts = load_prompts("everyday-test")[-CHECKED:]
    seeds = [77_000_000 + seed * 10_000 + i for i in range(CHECKED * ANSWERS)]
    answers = answer(roles, None, [_message(p) for p in prompts for _ in range(ANSWERS)], Sampling(), seeds)
    rankings = []
    for i, prompt in enumerate(prompts):
        mine = answers[i * ANSWERS : (i + 1) * ANSWERS]
        texts = tuple(a.text for a in mine)
        ended = tuple(a.finish == "stop" for a in mine)
        rankings.append(Ranking((("user", prompt),), texts, tuple(annotator.rank(prompt, list(texts))), ended))
    right, pairs = accuracy(load_reward(roles, workspace.model(version)), rankings)
    return right / max(pairs, 1)


def _judge(items: list[dict], annotator: SimulatedAnnotator) -> dict:
    """What the annotator thinks of before and after, and whether sense was kept."""
    differences, before, after = [], [], []
    for item in items:
        request = understand(item["prompt"])
        differences.append(annotator.score(request, item["after"]) - annotator.score(request, item["before"]))
        before.append((request, analyse(request, item["before"])))
        after.append((request, analyse(request, item["after"])))

    def right(side) -> float:
        facts = [a.correctness == "right" for request, a in side if kinds()[request.kind].fact]
        return sum(facts) / max(len(facts), 1)

    return {
        **win_rate(differences),
        "well_formed": sum(a.well_formed for _, a in after) / len(after),
        "well_formed_before": sum(a.well_formed for _, a in before) / len(before),
        "distinct_before": len({i["before"] for i in items}),
        "distinct_after": len({i["after"] for i in items}),
        "right_before": right(before),
        "right_after": right(after),
    }


def run_demo(
    workspace: Workspace,
    labels: int,
    prefer: str,
    seed: int,
    assignments: list[str],
    say: Callable[[str], None],
) -> dict:
    """Run the loop once; returns the JSON object of `rlhf-studio demo`. `say` gets one line of progress at a time."""
    annotator = SimulatedAnnotator(prefer)
    if not 2 <= labels <= len(load_prompts("everyday")):
        raise UserError(f"--labels goes from 2 to {len(load_prompts('everyday'))}.")
    config = parse_settings([f"compare.prompts={COMPARED}", f"seed={seed}", *assignments])
    store = Store(workspace.database)
    if feedback.counts(store)["prompts"]:
        raise UserError(
            f"{workspace.folder} already holds feedback. Give the demo a folder of its own with --workspace."
        )
    started = time.monotonic()
    base = load_base("pocket", config["precision"])
    roles = Roles(base)
    version = models.ensure_base(store, str(base.path), base.fingerprint, "pocket")
    say(f"Ranking {ANSWERS} answers to each of {labels} prompts as someone who prefers: {prefer}")
    _label(store, roles, version, annotator, labels, seed)
    labelled = time.monotonic() - started

    run_id = launch.start(workspace, store, "improve", config, version)
    shown = ""
    while (run := runs.get_run(store, run_id))["status"] not in runs.ENDED:
        line = f"{run['stage']} {100 * run['done'] // max(run['total'], 1)}%" if run["stage"] else run["status"]
        if line.split()[0] != shown.split(" ")[0] or (line.endswith(("00%", "25%", "50%", "75%")) and line != shown):
            say(line)
            shown = line
        launch.refresh(store, workspace)
        time.sleep(0.2)
    if run["status"] != "finished":
        raise UserError(f"The run {run['status']}: {run['reason']}")

    summary = launch.summary(store, run_id)
    comparison = comparisons.list_comparisons(store)[0]
    items = comparisons.items_of(store, comparison["id"])
    reward_version = run["result"]["reward_model"]
    reward_accuracy = _held_out_accuracy(workspace, roles, reward_version, annotator, seed)
    judged = _judge(items, annotator)
    seconds = summary["seconds"]
    return {
        "labels": labels,
        "prefer": prefer,
        "seed": seed,
        "reward_accuracy": round(reward_accuracy, 4),
        **{key: round(value, 4) for key, value in judged.items()},
        "kl": round(comparison["result"]["kl"], 3),
        "seconds": {
            "label": round(labelled, 1),
            "reward": seconds.get("reward", 0),
            "ppo": seconds.get("ppo", 0),
            "compare": seconds.get("compare", 0),
            "total": round(time.monotonic() - started, 1),
        },
        "examples": [{key: item[key] for key in ("prompt", "before", "after")} for item in items[:8]],
    }
