"""Train: what feedback there is, one button, and how the run goes."""

import time

import engine
from studio.pages import page
from studio.session import Session

SKELETON = """
<aside>
  <div class="panel">
    <h2>Your feedback</h2>
    <div class="counts"></div>
    <p class="enough hint"></p>
    <label class="hint">How thorough
      <select class="preset" aria-label="How thorough">
        <option value="quick">Quick</option><option value="balanced" selected>Balanced</option>
        <option value="thorough">Thorough</option>
      </select>
    </label>
    <button class="improve primary" type="button" disabled>Improve</button>
    <p class="hint">Trains a reward model on your feedback, lets PPO tune the model against it, and answers
    the same questions before and after.</p>
  </div>
  <div class="panel"><h3>Runs</h3><div class="history"></div></div>
</aside>
<section class="run" aria-label="The run"></section>
"""

PRESETS = {
    "quick": {"reward": {"epochs": 8}, "ppo": {"updates": 15, "learning_rate": 1e-3}, "compare": {"prompts": 32}},
    "balanced": {},
    "thorough": {"reward": {"epochs": 16}, "ppo": {"updates": 140}, "compare": {"prompts": 128}},
}
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


def thin(points: list, most: int = 300) -> list:
    """At most about `most` points of a curve, the last always among them."""
    step = max(1, len(points) // most)
    return points[:-1:step] + points[-1:]


def build(session: Session) -> None:
    """Put the page into the Blocks that is open."""

    def shown(run: dict) -> dict:
        store = session.store
        curves: dict[str, list] = {}
        for row in engine.runs.metrics_of(store, run["id"]):
            curves.setdefault(f"{row['stage']}/{row['name']}", []).append([row["step"], row["value"]])
        stages = engine.runs.stages_of(store, run["id"])
        return {
            "id": run["id"],
            "method": run["method"],
            "status": run["status"],
            "stage": run["stage"],
            "done": run["done"],
            "total": run["total"],
            "reason": run["reason"],
            "active": run["status"] not in ("finished", "stopped", "failed"),
            "stopping": bool(run["stop_requested"]),
            "left": time_left(run, stages, time.time()),
            "curves": {
                "accuracy": thin(curves.get("reward/accuracy", [])),
                "reward": thin(curves.get("ppo/reward", [])),
                "kl": thin(curves.get("ppo/kl", [])),
                "length": thin(curves.get("ppo/length", [])),
            },
            "held_out": {key: run["result"].get(f"held_out_{key}") for key in ("accuracy", "pairs")},
            "samples": engine.runs.samples_of(store, run["id"], 6),
        }

    def state(chosen: int | None) -> dict:
        store = session.store
        engine.launcher.refresh(store, session.workspace)
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

    def improve(preset: str) -> dict:
        config = engine.read_config(PRESETS.get(preset, {})).as_dict()
        session.give_way()
        return {
            "run": engine.launcher.start(session.workspace, session.store, "improve", config, session.version["id"])
        }

    def stop(run: int) -> dict:
        engine.launcher.stop(session.store, session.workspace, run)
        return {}

    def resume(run: int) -> dict:
        session.give_way()
        engine.launcher.resume(session.workspace, session.store, run)
        return {}

    page("train", SKELETON, [state, improve, stop, resume])
