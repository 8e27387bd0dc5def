"""Label: a queue of questions to rank, by keyboard alone."""

import engine
from studio.labelling import ANSWERS, Filler
from studio.markdown import rendered
from studio.pages import page
from studio.session import Session

SKELETON = """
<div class="row queue-head">
  <label class="hint">Questions <select class="sets" aria-label="Which questions"></select></label>
  <label class="hint">Goal <input type="number" class="goal" min="1" max="9999" value="50" aria-label="Goal"></label>
  <span class="bar progress" role="progressbar" aria-label="Progress"><span class="fill"></span></span>
  <span class="hint pace"></span>
  <button class="undo" type="button" title="Take back the last one (Z)">Undo</button>
  <button class="help" type="button" aria-label="Keys" title="Keys (?)">?</button>
</div>
<div class="item" aria-live="polite"></div>
<dialog class="keys"><h2>Keys</h2><dl></dl><button type="button" class="close">Close</button></dialog>
"""

SETS = {"everyday": "Everyday questions (built in)", "own": "Questions I brought in"}


def build(session: Session) -> None:
    """Put the page into the Blocks that is open."""
    fillers: dict[str, Filler] = {}

    def filler(name: str) -> Filler:
        if name not in SETS:
            raise engine.UserError("There is no such list of questions. Choose another.")
        return fillers.setdefault(name, Filler(session, name))

    def shown(row: dict, again: bool) -> dict:
        feedback = engine.feedback_log.current(session.store, row["id"])
        edits = {f["response_id"]: f["value"]["text"] for f in feedback if f["kind"] == "edit"}
        return {
            "id": row["id"],
            "text": row["text"],
            "again": again,
            "responses": [
                {
                    "id": r["id"],
                    "text": r["text"],
                    "html": rendered(r["text"]),
                    "edit": edits.get(r["id"]),
                    "finish": r["finish"],
                }
                for r in row["responses"]
            ],
        }

    def state(name: str, settings: dict | None = None, avoid: list[int] | None = None) -> dict:
        """Where the queue stands, and the next item; `avoid` are items that are on the screen or were put off.
        `settings`: how the person wants answers drawn, where that is told."""
        fill = filler(name)
        fill.settings = fill.settings if settings is None else settings
        fill.wake()
        store, source = session.store, fill.source
        again = engine.labelling.due_again(store, source)
        item = None
        if again is not None and again not in (avoid or []):
            row = engine.conversations.get_prompt(store, again)
            item = shown({**row, "responses": engine.conversations.responses_of(store, again)}, True)
        else:
            waiting = [i for i in engine.labelling.open_items(store, source) if i["id"] not in (avoid or [])]
            if waiting:
                best = max(waiting, key=lambda i: fill.doubts.get(i["id"], -1.0))  # the first, where none is judged
                item = shown(best, False)
        return {
            "sets": [[key, label] for key, label in SETS.items()],
            "set": name,
            "done": engine.labelling.done(store, source),
            "pace": engine.labelling.pace(store, source),
            "item": item,
            "informed": item is not None and fill.doubts.get(item["id"], 0.0) > 0.5,
            "problem": fill.problem,
            "writing": {"question": fill.question, "characters": fill.written} if item is None else None,
            "answers": ANSWERS,
            "left": len(fill.left()) if item is None else None,
        }

    def rank(name: str, prompt: int, tiers: list) -> dict:
        engine.feedback_log.add_ranking(session.store, prompt, tiers)
        return state(name, avoid=[prompt])

    def skip(name: str, prompt: int) -> dict:
        engine.labelling.skip(session.store, prompt)
        return state(name, avoid=[prompt])

    def edit(response: int, text: str) -> dict:
        engine.feedback_log.add_edit(session.store, response, text)
        return {}

    def undo(name: str) -> dict:
        """Take the last feedback back and show its item again."""
        taken = engine.feedback_log.undo(session.store)
        found = state(name)
        if taken is None:
            return found | {"undone": None}
        row = engine.conversations.get_prompt(session.store, taken["prompt_id"])
        responses = engine.conversations.responses_of(session.store, row["id"])
        return found | {"undone": taken["kind"], "item": shown({**row, "responses": responses}, False)}

    page("label", SKELETON, [state, rank, skip, edit, undo], session)
