"""The page's server time with a full store: 100,000 responses, 50,000 rankings and a run of 10,000 steps.

    python benchmarks/page.py [--responses 100000]

Calls the server functions as the page does, 20 times each; p95 in milliseconds. Exit code 1 where one is above its
bound: 200 ms for any action, 100 ms for Label's next item.
"""

import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import click

import engine
from studio.pages import chat, compare, data, label, models, train
from studio.session import Session

MODULES = (chat, label, train, compare, models, data)
BOUND, NEXT_BOUND = 200, 100  # milliseconds
STEPS = 10_000


def fill(store: Any, version: int, responses: int) -> None:
    """Prompts with four responses each, twice as many rankings as prompts, and a finished run with long curves."""
    rng, now = random.Random(0), "2026-01-01T00:00:00.000+00:00"
    prompts = responses // 4
    with store.writing() as connection:
        connection.executemany(
            "INSERT INTO conversations (id, title, created) VALUES (?, ?, ?)",
            ((i, f"talk {i}", now) for i in range(1, prompts // 10 + 1)),
        )
        connection.executemany(
            "INSERT INTO prompts (id, conversation_id, text, source, created) VALUES (?, ?, ?, ?, ?)",
            (
                (i, i // 10 if i % 2 and i >= 10 else None, f"question {i} about {rng.randrange(999)}",
                 "chat" if i % 2 else engine.labelling.source_of("everyday", version), now)
                for i in range(1, prompts + 1)
            ),
        )  # fmt: skip
        connection.executemany(
            "INSERT INTO responses (id, prompt_id, model_version_id, text, tokens, seed, sampling, finish, created) "
            "VALUES (?, ?, ?, ?, 20, 0, '{}', 'stop', ?)",
            ((i, (i - 1) // 4 + 1, version, f"answer {i} " * 8, now) for i in range(1, 4 * prompts + 1)),
        )
        rankings = []
        for i in range(2 * prompts):
            prompt = i % prompts + 1
            ids = [4 * (prompt - 1) + k for k in (1, 2, 3, 4)]
            rng.shuffle(ids)
            rankings.append((prompt, json.dumps({"tiers": [[r] for r in ids]}), now))
        connection.executemany(
            "INSERT INTO feedback (kind, prompt_id, value, created) VALUES ('ranking', ?, ?, ?)", rankings
        )
    run = engine.runs.add_run(store, "improve", engine.read_config({}).as_dict(), version)
    with store.writing() as connection:
        connection.executemany(
            "INSERT INTO metrics VALUES (?, 'ppo', ?, ?, ?)",
            (
                (run, step, name, rng.random())
                for step in range(STEPS)
                for name in ("reward", "kl", "length", "entropy", "value_loss", "policy_loss")
            ),
        )
    store.update("runs", run, status="finished", stage="ppo", ended=now)


def functions(session: Session) -> dict[str, Callable]:
    """Every page's server functions by "page.name"."""
    found: dict[str, Callable] = {}

    def collect(name: str, skeleton: str, given: list[Callable], session: Session) -> None:
        found.update({f"{name}.{f.__name__}": f for f in given})

    for module in MODULES:
        module.page = collect  # type: ignore[attr-defined]
        module.build(session)
    return found


@click.command()
@click.option("--responses", default=100_000, show_default=True)
def main(responses: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        workspace = engine.open_workspace(folder)
        session = Session(workspace)
        fill(session.store, session.version["id"], responses)
        found = functions(session)
        prompts = iter(range(1, 10_000))
        actions: dict[str, Callable] = {
            "chat.load": lambda: found["chat.load"](None),
            "chat.load (search)": lambda: found["chat.load"](None, "question 77"),
            "chat.rank": lambda: found["chat.rank"](p := next(prompts), [[4 * p], [4 * p - 1]]),
            "chat.rate": lambda: found["chat.rate"](4 * next(prompts), 4),
            "label.state": lambda: found["label.state"]("everyday"),
            "label.rank": lambda: found["label.rank"]("everyday", p := 2 * next(prompts), [[4 * p], [4 * p - 1]]),
            "train.state": lambda: found["train.state"](None),
            "train.quality": found["train.quality"],
            "train.cost": lambda: found["train.cost"]("improve", "balanced", {}),
            "compare.load": lambda: found["compare.load"](None),
            "models.load": found["models.load"],
            "data.look": lambda: found["data.look"]("", "all", None),
            "data.look (search)": lambda: found["data.look"]("answer 4242", "all", None),
            "data.look (nothing found)": lambda: found["data.look"]("not there", "all", None),
            "data.look (unjudged)": lambda: found["data.look"]("", "unjudged", None),
        }
        slow = False
        for name, action in actions.items():
            taken = []
            for _ in range(20):
                started = time.perf_counter()
                action()
                taken.append(1000 * (time.perf_counter() - started))
            p95, bound = sorted(taken)[18], NEXT_BOUND if name.startswith("label.") else BOUND
            slow |= p95 > bound
            click.echo(json.dumps({"action": name, "p95_ms": round(p95, 1), "bound_ms": bound, "held": p95 <= bound}))
        session.serving.close()
        sys.exit(slow)


if __name__ == "__main__":
    main()
