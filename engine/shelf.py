"""The model versions as a person keeps them: their tree, notes, disk, trash and export. Needs no torch."""

import json
import shutil
from pathlib import Path

from engine.errors import UserError
from engine.models.find import find_base, fingerprint
from engine.store import models
from engine.store.db import Store, now
from engine.workspace import Workspace

BUILT_IN = "pocket"
REPLACED = "Another built-in model has taken its place. What was made from this one cannot be loaded any more."
NOT_THERE = "The files of {name} are not where they were. It cannot be {done}."


def folder_of(workspace: Workspace, version: dict) -> Path:
    return Path(version["base"]) if version["kind"] == "base" else workspace.model(version["id"])


def disk_used(folder: Path) -> int:
    """Bytes of all files in a folder; 0 where there is none."""
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) if folder.is_dir() else 0


def tree(store: Store, workspace: Workspace) -> list[dict]:
    """Every version with "depth" below its base, parents before children; "bytes", "feedback" (how much its run
    learned from) and "win" (the newest comparison with its parent)."""
    versions = models.list_versions(store)
    used = {r["run_id"]: r["n"] for r in store.rows("SELECT run_id, count(*) AS n FROM run_feedback GROUP BY run_id")}
    wins = {
        (row["before_id"], row["after_id"]): json.loads(row["result"])
        for row in store.rows("SELECT before_id, after_id, result FROM comparisons ORDER BY id")
    }
    known = {v["id"] for v in versions}
    children: dict[int | None, list[dict]] = {}
    for version in versions:
        children.setdefault(version["parent_id"] if version["parent_id"] in known else None, []).append(version)
    found: list[dict] = []

    def walk(parent: int | None, depth: int) -> None:
        for version in children.get(parent, []):
            folder = folder_of(workspace, version)
            facts = {
                "depth": depth,
                "bytes": disk_used(folder),
                "feedback": used.get(version["run_id"], 0),
                "win": wins.get((version["parent_id"], version["id"])),
            }
            found.append({**version, **facts})
            walk(version["id"], depth + 1)

    walk(None, 0)
    return found


def add_base(store: Store, name: str) -> int:
    """Add a model of this machine by folder, or by its id in the local Hugging Face cache; returns the version."""
    path = find_base(name)
    label = name if "/" in name and not Path(name).expanduser().is_dir() else path.name
    return models.ensure_base(store, str(path), fingerprint(path), label)


def settle_built_in(store: Store) -> None:
    """See that there is a version to chat with, and that the built-in model is known by where it lies now.

    A workspace outlives the folder that the studio was installed in, and the built-in model of that day. Where that has
    moved, its versions follow. Where its weights are gone, nothing made from them can be loaded: the built-in model of
    today is put in use, and the old one says so.
    """
    path = find_base(BUILT_IN)
    weights = fingerprint(path)
    bases = {v["base_fingerprint"]: v for v in models.list_versions(store, "base")}
    used = models.newest_chat_version(store)
    old = bases.get(used["base_fingerprint"]) if used else None
    replaced = old is not None and old["name"] == BUILT_IN and weights != old["base_fingerprint"] and _gone(old)
    if used is None or replaced or weights in bases:
        version = models.ensure_base(store, str(path), weights, BUILT_IN)
        if old is not None and replaced:
            models.promote(store, version)
            note(store, old["id"], REPLACED)


def _gone(base: dict) -> bool:
    """Whether other weights, or none, lie where a base was."""
    try:
        return fingerprint(find_base(base["base"])) != base["base_fingerprint"]
    except UserError:
        return True


def cached_bases() -> list[str]:
    """The ids of models in the local Hugging Face cache that have safetensors weights."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repos = scan_cache_dir().repos
    except CacheNotFound:
        return []
    return sorted(
        repo.repo_id
        for repo in repos
        if repo.repo_type == "model"
        and any(f.file_name.endswith(".safetensors") for revision in repo.revisions for f in revision.files)
    )


def note(store: Store, version_id: int, text: str) -> None:
    models.get_version(store, version_id)
    store.update("model_versions", version_id, note=text.strip()[:500])


def promote(store: Store, version_id: int) -> dict:
    """Make a version the one that Chat answers with and the next run starts from."""
    version = models.get_version(store, version_id)
    if version["kind"] == "reward":
        raise UserError(f"{version['name']} is a reward model: it scores answers and cannot chat.")
    models.promote(store, version["id"])
    return version


def delete(store: Store, workspace: Workspace, version_id: int) -> dict:
    """Move a version's files to the trash folder; `restore` brings it back. A base's files are never touched."""
    version = models.get_version(store, version_id)
    if version["promoted"]:
        raise UserError(f"{version['name']} is the version in use. Promote another first.")
    if store.row("SELECT 1 AS x FROM runs WHERE status IN ('queued', 'running') AND parent_version_id = ?", version_id):
        raise UserError(f"A run that is under way starts from {version['name']}. Wait for it, or stop it first.")
    if version["kind"] == "base":
        bases = [v for v in models.list_versions(store, "base") if v["id"] != version_id]
        below = [v for v in models.list_versions(store) if v["parent_id"] == version_id]
        if below or not bases:
            raise UserError(f"{version['name']} is the base of other versions, or the only one. It has to stay.")
    else:
        _move(workspace.model(version_id), _in_trash(workspace, version_id))
    store.update("model_versions", version_id, deleted=now())
    return version


def trash(store: Store, workspace: Workspace) -> list[dict]:
    """The deleted versions that can be brought back, newest first, each with its "bytes" in the trash."""
    rows = store.rows("SELECT id, name, kind FROM model_versions WHERE deleted IS NOT NULL ORDER BY deleted DESC")
    found = [row | {"bytes": disk_used(_in_trash(workspace, row["id"]))} for row in rows]
    return [row for row in found if row["kind"] == "base" or row["bytes"]]


def restore(store: Store, workspace: Workspace, version_id: int) -> None:
    """Bring back a version from the trash."""
    row = next((row for row in trash(store, workspace) if row["id"] == version_id), None)
    if row is None:
        raise UserError("There is nothing to bring back.")
    if row["kind"] != "base":
        _move(_in_trash(workspace, version_id), workspace.model(version_id))
    store.update("model_versions", version_id, deleted=None)


def empty_trash(workspace: Workspace) -> None:
    """Delete the files of all deleted versions for good. What the store knows of them stays."""
    shutil.rmtree(workspace.folder / "trash", ignore_errors=True)


def _in_trash(workspace: Workspace, version_id: int) -> Path:
    return workspace.folder / "trash" / str(version_id)


def _move(source: Path, target: Path) -> None:
    if source.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(target, ignore_errors=True)
        shutil.move(source, target)


def export(store: Store, workspace: Workspace, version_id: int, to: Path | None = None) -> Path:
    """Write a version as a zip file, an adapter in PEFT's own layout; returns where. Default: workspace/exports."""
    version = models.get_version(store, version_id)
    folder = folder_of(workspace, version)
    if not folder.is_dir():
        raise UserError(NOT_THERE.format(name=version["name"], done="exported"))
    target = (to or workspace.folder / "exports" / version["name"]).expanduser()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        made = shutil.make_archive(str(target).removesuffix(".zip"), "zip", folder)
    except OSError as error:
        raise UserError(f"{target} cannot be written ({error.strerror}). Choose another place.") from error
    return Path(made)
