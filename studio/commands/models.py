"""`rlhf-studio models`: the versions, and what to do with one."""

from pathlib import Path

import click

import engine
from studio.commands.common import answer_with, in_workspace


@click.group(name="models")
def models_group() -> None:
    """Model versions: bases and what was trained on them."""


@models_group.command(name="list")
@in_workspace
def models_list(space, store, as_json: bool) -> None:
    """All model versions."""
    found = engine.versions.list_versions(store)
    lines = [f"{v['id']:>4}  {v['name']:<16} {v['kind']:<7} {v['created'][:16]}" for v in found]
    answer_with({"models": found}, as_json, "\n".join(lines) or "No model versions yet.")


@models_group.command(name="show")
@click.argument("model")
@in_workspace
def models_show(space, store, model: str, as_json: bool) -> None:
    """One model version: where it comes from and what is known of it."""
    version = engine.versions.get_version(store, model)
    found = next(v for v in engine.shelf.tree(store, space) if v["id"] == version["id"])
    lines = [f"{key:<18} {value}" for key, value in found.items() if value not in (None, "", {}, 0)]
    answer_with(found, as_json, "\n".join(lines))


@models_group.command(name="add")
@click.argument("model")
@in_workspace
def models_add(space, store, model: str, as_json: bool) -> None:
    """Add a base of this machine: a folder, or a model in the local Hugging Face cache."""
    version = engine.versions.get_version(store, engine.shelf.add_base(store, model))
    answer_with(version, as_json, f"Added {version['name']} as version {version['id']}.")


@models_group.command(name="promote")
@click.argument("model")
@in_workspace
def models_promote(space, store, model: str, as_json: bool) -> None:
    """Make a version the one that chat answers with and the next run starts from."""
    version = engine.shelf.promote(store, engine.versions.get_version(store, model)["id"])
    answer_with(version, as_json, f"{version['name']} is in use now.")


@models_group.command(name="export")
@click.argument("model")
@click.argument("file", type=click.Path(path_type=Path), required=False)
@in_workspace
def models_export(space, store, model: str, file: Path | None, as_json: bool) -> None:
    """Write a version to a zip FILE: an adapter in PEFT's layout, or a base as it is."""
    made = engine.shelf.export(store, space, engine.versions.get_version(store, model)["id"], file)
    answer_with({"file": str(made)}, as_json, f"Written to {made}.")


@models_group.command(name="restore")
@click.argument("model")
@in_workspace
def models_restore(space, store, model: str, as_json: bool) -> None:
    """Bring a version back from the trash folder."""
    thrown = [v for v in engine.shelf.trash(store, space) if model in (str(v["id"]), v["name"])]
    if not thrown:
        raise engine.UserError(f'There is no "{model}" in the trash.')
    engine.shelf.restore(store, space, thrown[0]["id"])
    answer_with(thrown[0], as_json, f"{thrown[0]['name']} is back.")


@models_group.command(name="delete")
@click.argument("model")
@in_workspace
def models_delete(space, store, model: str, as_json: bool) -> None:
    """Move a version to the workspace's trash folder."""
    version = engine.shelf.delete(store, space, engine.versions.get_version(store, model)["id"])
    back = f"`rlhf-studio models restore {version['id']}` brings it back"
    answer_with(version, as_json, f"{version['name']} lies in {space.folder / 'trash'} now; {back}.")
