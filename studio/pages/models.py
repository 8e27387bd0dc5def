"""Models: the tree of versions, what each came from, and what can be done with it."""

import engine
from studio.pages import page
from studio.session import Session

SKELETON = """
<div class="row"><h2>Model versions</h2><span class="hint disk"></span></div>
<div class="tree"></div>
<details class="trash" hidden><summary>Trash</summary><div class="thrown"></div>
  <button type="button" class="empty-trash">Empty the trash</button></details>
<section class="panel add">
  <h3>Add a model of this machine</h3>
  <form class="row"><input type="text" class="folder" list="cached" placeholder="Folder of a Hugging Face model"
    aria-label="Folder or name of a model" spellcheck="false"><datalist id="cached"></datalist>
  <button type="submit">Add</button></form>
  <p class="hint">A folder with config.json and safetensors, or a model in the local Hugging Face cache. Nothing is
  downloaded.</p>
</section>
"""


def build(session: Session) -> None:
    """Put the page into the Blocks that is open."""

    def load() -> dict:
        versions = engine.shelf.tree(session.store, session.workspace)
        return {
            "versions": [
                {
                    **{k: v[k] for k in ("id", "name", "kind", "run_id", "note", "promoted", "created", "depth")},
                    **{k: v[k] for k in ("bytes", "feedback")},
                    "method": v["facts"].get("method"),
                    "accuracy": v["facts"].get("held_out_accuracy"),
                    "win": v["win"],
                }
                for v in versions
            ],
            "using": session.version["id"],
            "trash": engine.shelf.trash(session.store, session.workspace),
            "cached": engine.shelf.cached_bases(),
        }

    def add(name: str) -> dict:
        if not name.strip():
            raise engine.UserError("Give the folder of a model.")
        engine.shelf.add_base(session.store, name.strip())
        return load()

    def promote(version: int) -> dict:
        engine.shelf.promote(session.store, version)
        return load()

    def note(version: int, text: str) -> dict:
        engine.shelf.note(session.store, version, text)
        return load()

    def delete(version: int) -> dict:
        engine.shelf.delete(session.store, session.workspace, version)
        return load()

    def restore(version: int) -> dict:
        engine.shelf.restore(session.store, session.workspace, version)
        return load()

    def empty_trash() -> dict:
        engine.shelf.empty_trash(session.workspace)
        return load()

    def export(version: int) -> dict:
        return {"path": str(engine.shelf.export(session.store, session.workspace, version))}

    page("models", SKELETON, [load, add, promote, note, delete, restore, empty_trash, export], session)
