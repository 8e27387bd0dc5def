"""Train: what feedback there is, one button, and how the run goes."""

import time
from pathlib import Path

import engine
from studio.pages import page
from studio.session import Session

SKELETON = """
<aside>
  <div class="panel">
    <h2>Your feedback</h2>
    <div class="counts"></div>
    <p class="enough hint"></p>
    <details class="quality"><summary>How good is it?</summary><dl></dl></details>
    <label class="hint">How thorough
      <select class="preset" aria-label="How thorough">
        <option value="quick">Quick</option><option value="balanced" selected>Balanced</option>
        <option value="thorough">Thorough</option>
      </select>
    </label>
    <label class="hint">Way of learning
      <select class="method" aria-label="Way of learning"></select>
    </label>
    <p class="hint what"></p>
    <label class="hint text-path" hidden>Text file, or a folder of them
      <input type="text" aria-label="Text file or folder" placeholder="/home/me/texts" spellcheck="false">
    </label>
    <p class="hint cost" role="status"></p>
    <details class="advanced"><summary>Every setting</summary><div class="settings"></div></details>
    <button class="improve primary" type="button" disabled>Improve</button>
    <p class="hint">Afterwards the model answers the same questions as before, for you to compare.</p>
  </div>
  <div class="panel"><h3>Runs</h3><div class="history"></div>
  <p class="hint tick-hint">Tick runs to lay their curves over this one's.</p></div>
</aside>
<section class="run" aria-label="The run"></section>
"""

LABELS = {
    "improve": "Reward model + PPO (usual)",
    "dpo": "Direct preference (DPO)",
    "kto": "Thumbs (KTO)",
    "sft": "Copy the best (SFT)",
    "ilql": "Q-learning (ILQL)",
    "reward": "Reward model only",
    "ppo": "PPO on the last reward model",
    "reinforce": "Policy gradient (RLOO)",
    "pretrain": "Plain text (pretraining)",
}
LIBRARIES = 0.6  # gigabytes that interpreter and libraries of a run take
LONG = 30 * 60  # seconds of a run from which on shorter ways are named
ENOUGH = 50  # rankings and edits below which the advice is to give more


def _advice(counts: dict[str, int]) -> str:
    given = counts["ranking"] + counts["edit"]
    if not given and not counts["rating"]:
        return "No feedback yet. Rank some answers in Chat: that is what the model learns from."
    if given < ENOUGH:
        return f"Enough to try. With about {ENOUGH} rankings the change is easy to see."
    return "Enough to see a change. More feedback makes it surer."


def time_left(run: dict, stages: list[dict], now: float) -> float | None:
    """Seconds left in the stage that runs now, from its pace so far; None before there is one."""
    if run["status"] != "running" or not stages or not 0 < run["done"] < run["total"]:
        return None
    spent = now - stages[-1]["started"]
    return spent / run["done"] * (run["total"] - run["done"])


STAGES = {"improve": ["load", "reward", "ppo", "compare"], "reward": ["load", "reward"]}

# The stages whose settings a method reads, beside those of the run itself.
SETTINGS = {"improve": ["reward", "ppo", "compare"], "reward": ["reward"]}


def settings_stages(method: str) -> list[str]:
    return [*SETTINGS.get(method, [method, "compare"]), ""]


def used(run: dict) -> dict:
    """Of the settings of a run those that its method reads."""
    stages = settings_stages(run["method"])
    return {name: value for name, value in run["config"].items() if name in stages or not isinstance(value, dict)}


def changed(values: dict, given: dict) -> dict:
    """Settings `values` with those a person changed ("ppo.updates": 20) put in; checked."""
    for name, value in given.items():
        stage, dot, key = name.partition(".")
        if not dot:
            values[stage] = value
        elif isinstance(values.get(stage), dict):
            values[stage][key] = value
    return engine.read_config(values).as_dict()


def curves_of(method: str) -> list[tuple[str, str, int]]:
    """(metric, title, digits) of the charts a run of `method` has."""
    reward = [("reward/loss", "Reward model loss", 3), ("reward/accuracy", "Reward model accuracy, while it learns", 2)]
    if method == "reward":
        return reward
    if method in ("improve", "ppo", "reinforce"):
        stage = "ppo" if method == "improve" else method
        return [
            *(reward[1:] if method == "improve" else []),
            (f"{stage}/reward", "Reward", 2),
            (f"{stage}/kl", "KL to the reference, nats", 2),
            (f"{stage}/length", "Answer length, tokens", 0),
            (f"{stage}/entropy", "Entropy, nats a token", 2),
            *([(f"{stage}/value_loss", "Value loss", 3)] if stage == "ppo" else []),
        ]
    more = {
        "dpo": [("dpo/accuracy", "Rankings it agrees with", 2)],
        "kto": [("kto/accuracy", "Answers it puts on the right side", 2)],
        "ilql": [("ilql/q_loss", "Q loss", 3), ("ilql/v_loss", "V loss", 3)],
    }
    return [(f"{method}/loss", "Loss", 3), *more.get(method, [])]


POINTS = 300  # of a curve; more would not be seen


def build(session: Session) -> None:
    """Put the page into the Blocks that is open."""

    def curves(run_id: int) -> dict[str, list]:
        """[step, value] pairs of a run's metrics, by "stage/name"."""
        found: dict[str, list] = {}
        for row in engine.runs.metrics_of(session.store, run_id, POINTS):
            found.setdefault(f"{row['stage']}/{row['name']}", []).append([row["step"], row["value"]])
        return found

    def shown(run: dict) -> dict:
        store = session.store
        found = curves(run["id"])
        stages = engine.runs.stages_of(store, run["id"])
        reward = run["result"].get("reward_model")
        report = engine.versions.once_made(store, reward)["facts"].get("report") if reward else None
        return {
            "id": run["id"],
            "method": run["method"],
            "status": run["status"],
            "stage": run["stage"],
            "stages": STAGES.get(run["method"], ["load", run["method"], "compare"]),
            "done": run["done"],
            "total": run["total"],
            "reason": run["reason"],
            "active": run["status"] not in engine.runs.ENDED,
            "resumable": run["status"] in engine.runs.RESUMABLE,
            "asked": run["asked"],
            "left": time_left(run, stages, time.time()),
            "compared": "comparison" in run["result"],
            "curves": [
                {"title": title, "digits": digits, "points": found.get(name, [])}
                for name, title, digits in curves_of(run["method"])
            ],
            "report": report,
            "samples": engine.runs.samples_of(store, run["id"], 60),
            "config": used(run),
            "log": engine.launcher.log_tail(session.workspace, run["id"], 40),
        }

    def overlay(run_ids: list[int]) -> list[dict]:
        """The curves of other runs, by metric."""
        found = []
        for run_id in run_ids[:4]:
            run = engine.runs.get_run(session.store, run_id)
            drawn = curves(run_id)
            titles = {title: drawn.get(name, []) for name, title, _ in curves_of(run["method"])}
            found.append({"id": run_id, "method": run["method"], "curves": titles})
        return found

    def state(chosen: int | None) -> dict:
        store = session.store
        engine.launcher.refresh(session.workspace, store)
        runs = engine.runs.list_runs(store)
        counts = engine.feedback_log.counts(store)
        run = next((r for r in runs if r["id"] == chosen), runs[0] if runs else None)
        return {
            "counts": counts,
            "advice": _advice(counts),
            "ready": counts["ranking"] + counts["edit"] + counts["rating"] > 0,
            "busy": any(r["status"] in ("queued", "running") for r in runs),
            "run": shown(run) if run else None,
            "runs": [{"id": r["id"], "method": r["method"], "status": r["status"]} for r in runs[:20]],
        }

    def ways() -> list[list[str]]:
        return [[name, LABELS[name], engine.launcher.METHODS[name]] for name in LABELS]

    def preset_of(preset: str) -> dict:
        compared = engine.feedback_log.compared(session.store)
        settled = engine.read_config({}).settled(compared).as_dict()
        return changed(settled, engine.presets.preset(preset, compared, Path(session.version["base"])))

    def offered(method: str, preset: str) -> dict:
        """The settings of a method as the preset has them."""
        values, usual = preset_of(preset), preset_of("balanced")
        shown = []
        for stage in settings_stages(method):
            mine, balanced = (values[stage], usual[stage]) if stage else (values, usual)
            for one in engine.described_settings(stage):
                name = one["name"].removeprefix(f"{stage}.")
                shown.append({**one, "default": balanced[name], "value": mine[name]})
        return {"settings": shown}

    def cost(method: str, preset: str, given: dict) -> dict:
        """What the run that is set up would take; where that is long, also the seconds of shorter ways: the same run's
        "quick" preset, and "direct", from the rankings without a reward model."""
        taken = takes(method, preset, given)
        long = method == "improve" and (taken["seconds"] or 0) > LONG
        ranked = engine.feedback_log.compared(session.store) > 0
        quick = takes(method, "quick", {})["seconds"] if long and preset != "quick" else None
        return taken | {"quick": quick, "direct": takes("dpo", preset, {})["seconds"] if long and ranked else None}

    def takes(method: str, preset: str, given: dict) -> dict:
        """Gigabytes of a run at its most hungry stage, in what precision, and seconds; None if unknown."""
        version, counts = session.version, engine.feedback_log.counts(session.store)
        config = engine.read_config(changed(preset_of(preset), given))
        config = engine.launcher.settled(session.store, config, version)
        device = session.serving.device or "cpu"
        machine = engine.memory_in_use(device)
        free = machine["total"] - machine["used"]
        feedback = counts["ranking"] + counts["edit"] + counts["rating"]
        stages = engine.estimates.stages_of(method)
        needs = None
        seconds = engine.timing.seconds(session.store, method, config, version["base_fingerprint"], feedback)
        judged = "machine" if seconds is None else "earlier run"
        if stages:
            try:
                shape = engine.shapes.shape_of(engine.find_base(version["base"]))
                usual = engine.precisions.fastest(shape, device)
                config, _ = engine.estimates.fitted(shape, config, stages, usual, free * 1e9, device)
                needs = engine.estimates.most(shape, config, stages, usual, device)
                if seconds is None and device == "cpu":
                    seconds = engine.timing.first_seconds(session.store, method, config, shape, feedback)
            except (engine.UserError, KeyError):
                pass  # of a kind that cannot be estimated
        return {
            "gigabytes": None if needs is None else needs / 1e9 + LIBRARIES,
            "precision": config.precision,  # the one chosen, where memory is told
            "free": free,
            "seconds": seconds,
            "judged": judged,
        }

    def quality() -> dict:
        return engine.quality.quality(session.store)

    def improve(method: str, preset: str, text: str, given: dict) -> dict:
        config = changed(preset_of(preset), given)
        if method == "pretrain":
            if not text or not Path(text).expanduser().exists():  # an empty path would be the folder we are in
                raise engine.UserError(f'There is no file or folder "{text}". Give the path of the text to learn from.')
            config["pretrain"]["text"] = text
        session.give_way()
        return {"run": engine.launcher.start(session.workspace, session.store, method, config, session.version["id"])}

    def stop(run: int) -> dict:
        engine.launcher.stop(session.workspace, session.store, run)
        return {}

    def pause(run: int) -> dict:
        engine.launcher.pause(session.workspace, session.store, run)
        return {}

    def resume(run: int) -> dict:
        session.give_way()
        engine.launcher.resume(session.workspace, session.store, run)
        return {}

    page("train", SKELETON, [state, ways, offered, cost, overlay, quality, improve, pause, stop, resume], session)
