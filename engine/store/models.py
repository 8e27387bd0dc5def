"""Model versions: a base and what was trained on it, each with its parent and the run that made it."""

import json
from pathlib import Path

from engine.errors import UserError
from engine.store.db import Store, now


def ensure_base(store: Store, base: str, fingerprint: str, name: str) -> int:
    """The version that is a base by itself, added when first seen. A base is named by its weights: one that lies
    elsewhere now is the same, and its versions follow it; one that was deleted comes back."""
    row = store.row("SELECT * FROM model_versions WHERE kind = 'base' AND base_fingerprint = ?", fingerprint)
    if row is None:
        return store.insert(
            "model_versions", name=name, kind="base", base=base, base_fingerprint=fingerprint, created=now()
        )
    if row["deleted"]:
        store.update("model_versions", row["id"], deleted=None)
    if not Path(row["base"]).is_dir():
        with store.writing() as connection:
            connection.execute("UPDATE model_versions SET base = ? WHERE base_fingerprint = ?", (base, fingerprint))
    return row["id"]


NAMES = {"policy": "round", "reward": "reward"}


def add_version(store: Store, kind: str, parent: dict, run_id: int, facts: dict) -> int:
    """Add what a run made of `parent`. It is named by its place among its kind, deleted ones counted, so that no name
    is given twice."""
    before = store.rows("SELECT id FROM model_versions WHERE kind = ?", kind)
    return store.insert(
        "model_versions",
        name=f"{NAMES[kind]}-{len(before) + 1}",
        kind=kind,
        parent_id=parent["id"],
        base=parent["base"],
        base_fingerprint=parent["base_fingerprint"],
        run_id=run_id,
        facts=facts,
        created=now(),
    )


def get_version(store: Store, version: int | str) -> dict:
    """A version by id or name (the newest of that name). Raises UserError where there is none."""
    row = None
    if str(version).isdigit():
        row = store.row("SELECT * FROM model_versions WHERE id = ? AND deleted IS NULL", int(version))
    if row is None:
        row = store.row(
            "SELECT * FROM model_versions WHERE name = ? AND deleted IS NULL ORDER BY id DESC", str(version)
        )
    if row is None:
        raise UserError(f'There is no model version "{version}". `rlhf-studio models list` shows what there is.')
    return _parsed(row)


def once_made(store: Store, version_id: int) -> dict:
    """A version by the id that a run or another version names, whether it was deleted since or not: its row stays."""
    row = store.row("SELECT * FROM model_versions WHERE id = ?", version_id)
    assert row is not None
    return _parsed(row)


ONLINE = ("improve", "ppo", "reinforce")  # methods that a KL penalty keeps near a reference


def first_of_line(store: Store, version: dict) -> dict:
    """What the rounds of PPO or the policy gradient that made `version` one after another began with; `version` itself
    where another method made it. A deleted one does not count."""
    found = version
    while version["parent_id"] and version["facts"].get("method") in ONLINE:
        version = once_made(store, version["parent_id"])
        if not version["deleted"]:
            found = version
    return found


def list_versions(store: Store, kind: str | None = None) -> list[dict]:
    rows = store.rows("SELECT * FROM model_versions WHERE deleted IS NULL ORDER BY id")
    return [_parsed(r) for r in rows if kind is None or r["kind"] == kind]


def newest_chat_version(store: Store) -> dict | None:
    """The version to chat with: the promoted one, else the newest policy, else the first base."""
    row = store.row(
        "SELECT * FROM model_versions WHERE deleted IS NULL AND kind IN ('policy', 'base') "
        "ORDER BY promoted DESC, kind = 'policy' DESC, CASE kind WHEN 'policy' THEN -id ELSE id END LIMIT 1"
    )
    return _parsed(row) if row else None


def newest_reward(store: Store, fingerprint: str) -> dict | None:
    """The newest reward model of the base with these weights."""
    row = store.row(
        "SELECT * FROM model_versions WHERE deleted IS NULL AND kind = 'reward' AND base_fingerprint = ? "
        "ORDER BY id DESC LIMIT 1",
        fingerprint,
    )
    return _parsed(row) if row else None


def promote(store: Store, version_id: int) -> None:
    with store.writing() as connection:
        connection.execute("UPDATE model_versions SET promoted = (id = ?)", (version_id,))


def _parsed(row: dict) -> dict:
    return {**row, "facts": json.loads(row["facts"])}
