"""The whole loop without a browser: label, train, compare, on the pocket model with the simulated annotator.

Labelling, the run and the comparison are the ones a person uses, through the store; only the person is simulated.
"""

import random
import time
from collections.abc import Callable, Sequence
from typing import Literal

from engine.errors import UserError
from engine.estimate import stages_of
from engine.evaluation.winrate import mean_interval, wilson_in_groups, wins
from engine.feedback.examples import Ranking
from engine.feedback.gather import gather_rankings
from engine.jobs import launch, presets
from engine.jobs.config import parse_settings, read_config
from engine.jobs.job import attach
from engine.jobs.questions import opening
from engine.jobs.recipes import compare_versions
from engine.methods.active import most_telling
from engine.methods.design import Design, most_telling_answers
from engine.methods.reward import accuracy, load_reward, train_reward
from engine.methods.settings import RewardConfig
from engine.models.find import POCKET
from engine.models.load import load_base
from engine.models.roles import Roles
from engine.pocket.annotator import SimulatedAnnotator
from engine.pocket.corpus import understand
from engine.pocket.grammar import analyse, kinds
from engine.prompts import load_prompts
from engine.sampling.answers import Answer, answer
from engine.sampling.settings import DRAWN, Sampling
from engine.store import comparisons, conversations, feedback, models, runs
from engine.store.db import Store
from engine.training.passes import Encoded
from engine.workspace import Workspace

Choice = Literal["random", "telling", "active"]
# What is run on the rankings, one after another, by the method that makes the policy.
RUNS = {
    "improve": ("improve",),
    "reinforce": ("reward", "reinforce"),
    "dpo": ("dpo",),
    "kto": ("kto",),
    "sft": ("sft",),
    "ilql": ("ilql",),
}

ANSWERS = 4  # to every prompt
CHECKED = 200  # held-out rankings that measure the reward model and train nothing
COMPARED = 160  # held-out prompts
TIMES = 8  # that each is asked; with one draw a win rate moves by 0.03
FIRST = 6  # rankings before active choice begins
POOL = 4  # prompts looked at for each one chosen


def ask(
    roles: Roles, role: str | None, prompts: list[str], first_seed: int, times: int = ANSWERS
) -> list[list[Answer]]:
    """`times` answers to each prompt, with seeds from `first_seed` on."""
    seeds = [first_seed + i for i in range(len(prompts) * times)]
    drawn = answer(roles, role, opening([p for p in prompts for _ in range(times)]), Sampling(), seeds)
    return [drawn[i : i + times] for i in range(0, len(drawn), times)]


def _keep(store: Store, version: int, annotator: SimulatedAnnotator, answers: list[Answer]) -> None:
    """Store the answers to one prompt and the annotator's ranking of them."""
    prompt = answers[0].messages[-1]["content"]
    prompt_id = conversations.add_prompt(store, prompt, "demo")
    rows = [{"text": a.text, "tokens": len(a.ids), "seed": a.seed, "finish": a.finish} for a in answers]
    ids = conversations.add_responses(store, prompt_id, version, Sampling().as_dict(), rows)
    ranks = annotator.rank(prompt, [a.text for a in answers])
    tiers = [[r for r, rank in zip(ids, ranks, strict=True) if rank == n] for n in sorted(set(ranks))]
    feedback.add_ranking(store, prompt_id, tiers, annotator=f"simulated:{annotator.prefer}")


def label(
    store: Store,
    roles: Roles,
    role: str | None,
    version: int,
    annotator: SimulatedAnnotator,
    labels: int,
    seed: int,
    choose: Choice,
) -> None:
    """Have `labels` prompts' answers ranked: as they were drawn; those of many that would tell most (`methods.design`);
    or those that a reward model is least sure of.

    Active choice starts with a few at random and doubles: a committee learns from what is ranked so far and chooses
    as many again from a pool of four times that.
    """
    rng = random.Random(f"label {seed}")
    prompts = rng.sample(load_prompts("everyday"), len(load_prompts("everyday")))
    first_seed = seed * 1_000_000
    if choose != "active":
        design = Design()
        for answers in ask(roles, role, prompts[:labels], first_seed, DRAWN if choose == "telling" else ANSWERS):
            if choose == "telling":
                encoded = [Encoded(a.prompt_ids, a.ids) for a in answers]
                answers = [answers[i] for i in most_telling_answers(design, roles, encoded, ANSWERS)]
            _keep(store, version, annotator, answers)
        return
    done = min(FIRST, labels)
    for answers in ask(roles, role, prompts[:done], first_seed):
        _keep(store, version, annotator, answers)
    rest = prompts[done:]
    while done < labels:
        committee = Roles(load_base("pocket", roles.base.precision))
        reward, _ = train_reward(committee, gather_rankings(store), [], RewardConfig(heads=8, seed=seed))
        wanted = min(done, labels - done)
        pool, rest = rest[: POOL * wanted], rest[POOL * wanted :]
        groups = ask(roles, role, pool, first_seed + 10_000 * done)
        chosen = set(most_telling(reward, groups, wanted))
        for i in chosen:
            _keep(store, version, annotator, groups[i])
        rest += [p for i, p in enumerate(pool) if i not in chosen]
        done += wanted


def _held_out_accuracy(
    workspace: Workspace, roles: Roles, version: int, annotator: SimulatedAnnotator, seed: int
) -> float:
    """Share of untied pairs that the reward model orders as the annotator does, on prompts it never saw."""
    prompts = load_prompts("everyday-test")[-CHECKED:]
    rankings = []
    for prompt, mine in zip(prompts, ask(roles, None, prompts, 77_000_000 + seed * 10_000), strict=True):
        texts = tuple(a.text for a in mine)
        ended = tuple(a.finish == "stop" for a in mine)
        rankings.append(Ranking((("user", prompt),), texts, tuple(annotator.rank(prompt, list(texts))), ended))
    right, pairs = accuracy(load_reward(roles, workspace.model(version)), rankings)
    return right / max(pairs, 1)


def _texts(roles: Roles, role: str | None, prompts: list[str]) -> list[list[str]]:
    """`TIMES` answers to each prompt, with seeds that are always the same."""
    return [[a.text for a in answers] for answers in ask(roles, role, prompts, 0, TIMES)]


def measure(
    prompts: list[str], before: list[list[str]], after: list[list[str]], annotator: SimulatedAnnotator
) -> dict[str, float]:
    """What the annotator thinks of before and after, several answers to each prompt, and whether sense was kept.

    Win rate: the mean over prompts of how often an answer after is liked better than one before, ties half; the
    interval is that of prompts, since answers to one are alike. Distinct answers are counted of the first to each
    prompt, right ones of the factual prompts, whose change has the interval of its mean over these.
    """
    won: list[tuple[float, int]] = []
    good: dict[str, list[bool]] = {"before": [], "after": []}
    right: dict[str, list[float]] = {"before": [], "after": []}
    for prompt, *sides in zip(prompts, before, after, strict=True):
        request = understand(prompt)
        read = [[analyse(request, text) for text in side] for side in sides]
        old, new = ([annotator.score(request, found) for found in side] for side in read)
        won.append((wins([b - a for a, b in zip(old, new, strict=True)]), len(new)))
        for name, side in zip(("before", "after"), read, strict=True):
            good[name] += [found.well_formed for found in side]
            if kinds()[request.kind].fact:
                right[name].append(_share([found.correctness == "right" for found in side]))
    low, high = wilson_in_groups(won)
    change_low, change_high = mean_interval([b - a for a, b in zip(right["before"], right["after"], strict=True)])
    return {
        "win_rate": sum(n for n, _ in won) / sum(count for _, count in won),
        "win_rate_low": low,
        "win_rate_high": high,
        "well_formed": _share(good["after"]),
        "well_formed_before": _share(good["before"]),
        "distinct_before": len({texts[0] for texts in before}),
        "distinct_after": len({texts[0] for texts in after}),
        "right_before": _share(right["before"]),
        "right_after": _share(right["after"]),
        "right_change_low": change_low,
        "right_change_high": change_high,
    }


def _share(found: Sequence[float]) -> float:
    return sum(found) / max(len(found), 1)


def run_demo(
    workspace: Workspace,
    labels: int,
    prefer: str,
    seed: int,
    assignments: list[str],
    say: Callable[[str], None],
    choose: Choice = "random",
    errs: float = 0.0,
    rounds: int = 1,
    method: str = "improve",
    preset: str = "balanced",
) -> dict:
    """Run the loop; returns the JSON object of `rlhf-studio demo`. `say` gets one line of progress at a time.

    choose: what is ranked, as `label` has it. errs: share of the pairs in which the
    annotator is wrong while it ranks; what comes out is judged by its true taste. rounds: each ranks answers of the
    last round's policy and goes on from it; the win rates are over the model that the first began with. method: what
    learns from the rankings, one of `RUNS`; those without a reward model have no accuracy of one. preset: how thorough
    its runs are, one of `presets.EFFORT`.
    """
    annotator = SimulatedAnnotator(prefer)
    if not 2 <= labels <= len(load_prompts("everyday")):
        raise UserError(f"--labels goes from 2 to {len(load_prompts('everyday'))}.")
    chosen = presets.assignments(preset, labels, POCKET)
    config = parse_settings([*chosen, f"compare.prompts={COMPARED}", f"seed={seed}", *assignments])
    store = Store(workspace.database)
    if feedback.counts(store)["prompts"]:
        raise UserError(
            f"{workspace.folder} already holds feedback. Give the demo a folder of its own with --workspace."
        )
    started = time.monotonic()
    base = load_base("pocket", config["precision"])
    roles = Roles(base)
    first = version = models.ensure_base(store, str(base.path), base.fingerprint, "pocket")
    tested = load_prompts("everyday-test")[:COMPARED]
    untaught: list[list[str]] = []
    labelled, reached = 0.0, []
    for number in range(rounds):
        ranking = SimulatedAnnotator(prefer, errs, seed + 1000 * number)
        say(f"Ranking {ANSWERS} answers to each of {labels} prompts as someone who prefers: {prefer}")
        before = time.monotonic()
        role = attach(roles, workspace, models.get_version(store, version), f"round-{number}")
        label(store, roles, role, version, ranking, labels, seed + 1000 * number, choose)
        labelled += time.monotonic() - before
        ran = [_run(workspace, store, name, config, version, say) for name in RUNS[method]]
        version = ran[-1]["model_version_id"]
        if number:  # the run compared with the round before; what counts is how far it is from the start
            start, now = (models.get_version(store, v) for v in (first, version))
            compare_versions(workspace, store, start, now, tested, read_config(config))
        comparison = comparisons.list_comparisons(store)[0]
        after = attach(roles, workspace, models.get_version(store, version), f"after-{number}")
        if not untaught:
            say(f"Asking the untaught model the {COMPARED} questions of the comparison, {TIMES} times each")
            untaught = _texts(roles, None, tested)
        taught = _texts(roles, after, tested)
        judged = measure(tested, untaught, taught, annotator)
        reached.append({key: round(judged[key], 4) for key in ("win_rate", "win_rate_low", "win_rate_high")})
        say(f"round {number + 1}: after wins {judged['win_rate']:.0%} by the annotator's own taste")

    items = comparisons.items_of(store, comparison["id"])
    judge = ran[0]["result"].get("reward_model")
    accurate = _held_out_accuracy(workspace, roles, judge, annotator, seed) if judge else None
    seconds: dict[str, float] = {}
    for run in ran:
        seconds |= launch.summary(store, run["id"])["seconds"]
    stages = [stage for name in RUNS[method] for stage in stages_of(name)]
    return {
        "labels": labels,
        "prefer": prefer,
        "seed": seed,
        "method": method,
        "preset": preset,
        "reward_accuracy": None if accurate is None else round(accurate, 4),
        **{key: round(value, 4) for key, value in judged.items()},
        "kl": round(comparison["result"]["kl"], 3),
        **({"rounds": reached} if rounds > 1 else {}),
        "seconds": {
            "label": round(labelled, 1),
            **{stage: seconds.get(stage, 0) for stage in (*stages, "compare")},
            "total": round(time.monotonic() - started, 1),
        },
        "examples": [{key: item[key] for key in ("prompt", "before", "after")} for item in items[:8]],
    }


def _run(
    workspace: Workspace, store: Store, method: str, config: dict, parent: int, say: Callable[[str], None]
) -> dict:
    """Run `method` from the version `parent`, telling its stages; returns its row. Raises UserError where it does not
    finish.

    Where the demo is broken off, its run ends too: nobody else knows of it.
    """
    run_id, shown = launch.start(workspace, store, method, config, parent), ""
    try:
        while (run := runs.get_run(store, run_id))["status"] not in runs.ENDED:
            line = f"{run['stage']} {100 * run['done'] // max(run['total'], 1)}%" if run["stage"] else run["status"]
            quarter = line.endswith(("00%", "25%", "50%", "75%")) and line != shown
            if line.split()[0] != shown.split(" ")[0] or quarter:
                say(line)
                shown = line
            launch.refresh(workspace, store)
            time.sleep(0.2)
    except BaseException:
        launch.end(store, run_id)
        raise
    if run["status"] != "finished":
        raise UserError(f"The run {run['status']}: {run['reason']}")
    return run
