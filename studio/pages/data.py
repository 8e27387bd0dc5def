"""Data: every prompt, response and piece of feedback in one table; bringing files in and taking them out."""

import base64
import binascii
from pathlib import Path

import engine
from studio.pages import page
from studio.session import Session

SKELETON = """
<div class="row data-head">
  <h2>Data</h2>
  <input type="search" class="search" placeholder="Search questions and answers" aria-label="Search">
  <select class="filter" aria-label="Filter"></select>
  <button class="bring" type="button">Import …</button>
  <select class="take" aria-label="Export"></select>
</div>
<section class="panel import" hidden>
  <h3>Import a file</h3>
  <p class="hint">Questions as text, CSV or JSON lines; preferences, thumbs and demonstrations as JSON lines.</p>
  <div class="row"><input type="file" class="file" accept=".txt,.text,.md,.csv,.json,.jsonl,.gz" aria-label="File">
  <select class="format" aria-label="Format"></select></div>
  <div class="preview"></div>
</section>
<div class="table"></div>
<button class="more" type="button" hidden>More</button>
"""

FILTERS = {
    "all": "Everything",
    "ranked": "Ranked",
    "edited": "Edited",
    "rated": "Rated",
    "commented": "Commented",
    "unjudged": "No feedback yet",
    "chat": "From Chat",
    "label": "From Label",
    "imported": "Imported",
}
EXPORTS = {
    "preference": "Pairs: chosen and rejected (TRL)",
    "thumbs": "Answers with a thumb (KTO)",
    "studio": "Everything, as it is stored",
}
SHOWN = 5  # records of a file in its preview


def build(session: Session) -> None:
    """Put the page into the Blocks that is open."""

    def shown(row: dict) -> dict:
        said = ("id", "kind", "response_id", "value", "annotator")
        return {
            **{key: row[key] for key in ("id", "text", "source", "created")},
            "responses": [{"id": r["id"], "text": r["text"]} for r in row["responses"]],
            "feedback": [{key: f[key] for key in said} for f in row["feedback"]],
        }

    def look(search: str, kind: str, before: int | None) -> dict:
        found = engine.browsing.browse(session.store, search, kind, before)
        return {
            "rows": [shown(row) for row in found["rows"]],
            "more": found["more"],
            "filters": list(FILTERS.items()),
            "exports": list(EXPORTS.items()),
            "formats": list(engine.IMPORT_FORMATS),
        }

    def anew(prompt: int) -> dict:
        row = engine.conversations.get_prompt(session.store, prompt)
        return {"row": shown(engine.browsing.with_all(session.store, row))}

    def take_back(prompt: int, feedback: int) -> dict:
        engine.feedback_log.take_back(session.store, feedback)
        return anew(prompt)

    def bring_back(prompt: int, feedback: int) -> dict:
        engine.feedback_log.bring_back(session.store, feedback)
        return anew(prompt)

    def uploaded(name: str, content: str) -> Path:
        """A file the page sent, in the workspace under its own name without any folder in it."""
        folder = session.workspace.folder / "uploads"
        folder.mkdir(exist_ok=True)
        path = folder / (Path(name.replace("\\", "/")).name or "file.txt")
        try:
            path.write_bytes(base64.b64decode(content, validate=True))
        except (OSError, binascii.Error) as error:
            raise engine.UserError(f"The file could not be taken in ({error}). Try again.") from error
        return path

    def preview(name: str, content: str, form: str) -> dict:
        path = uploaded(name, content)
        try:
            result, records = engine.read_file(session.store, path, form)
        except engine.UserError:
            path.unlink(missing_ok=True)
            raise
        sample = [{"context": r.context, "responses": list(r.responses)} for r in records[:SHOWN]]
        return {**result, "errors": result["errors"][:20], "sample": sample, "file": path.name}

    def bring(file: str, form: str) -> dict:
        path = session.workspace.folder / "uploads" / Path(file).name
        result = engine.import_file(session.store, path, form)
        path.unlink(missing_ok=True)
        return {**result, "errors": result["errors"][:20]}

    def take(form: str) -> dict:
        path = session.workspace.folder / "exports" / f"{form}.jsonl"
        return {"count": engine.export_file(session.store, path, form), "path": str(path)}

    page("data", SKELETON, [look, take_back, bring_back, preview, bring, take], session)
