"""Chat: ask, read several answers side by side, rank, rate and rewrite them."""

import engine
from studio.pages import page
from studio.session import Session

SKELETON = """
<aside>
  <button class="new primary" type="button">New conversation</button>
  <nav class="conversations" aria-label="Conversations"></nav>
</aside>
<main>
  <div class="top">
    <span class="hint">Model: <b class="model"></b></span><span class="counts"></span>
    <button class="undo" type="button" title="Take back the last feedback (Z)">Undo</button>
  </div>
  <div class="talk"></div>
  <form class="composer">
    <textarea rows="1" placeholder="Ask something" aria-label="Your question"></textarea>
    <select aria-label="How many answers" title="How many answers">
      <option value="1">1 answer</option><option value="2">2 answers</option>
      <option value="3">3 answers</option><option value="4">4 answers</option>
    </select>
    <button class="send primary" type="submit">Send</button>
    <button class="stop" type="button" hidden>Stop</button>
  </form>
</main>
"""


def build(session: Session) -> None:
    """Put the page into the Blocks that is open."""

    def turn(row: dict, feedback: list[dict]) -> dict:
        ranking = [f["value"]["tiers"] for f in feedback if f["kind"] == "ranking" and f["prompt_id"] == row["id"]]
        said = {(f["kind"], f["response_id"]): f["value"] for f in feedback}
        return {
            "id": row["id"],
            "text": row["text"],
            "tiers": ranking[-1] if ranking else [],
            "responses": [
                {
                    "id": r["id"],
                    "text": r["text"],
                    "finish": r["finish"],
                    "edit": said.get(("edit", r["id"]), {}).get("text"),
                    "rating": said.get(("rating", r["id"]), {}).get("score"),
                }
                for r in row["responses"]
            ],
        }

    def load(conversation: int | None) -> dict:
        """The conversation asked for, or the newest; -1 opens none."""
        store = session.store
        listed = engine.conversations.list_conversations(store)
        known = {c["id"] for c in listed}
        wanted = conversation if conversation in known else (listed[0]["id"] if listed and conversation != -1 else None)
        current, live = None, None
        if wanted is not None:
            rows = engine.conversations.turns(store, wanted)
            feedback = [f for row in rows for f in engine.feedback_log.current(store, row["id"])]
            turns = [turn(row, feedback) for row in rows]
            for before, row in zip(turns, rows[1:], strict=False):
                before["chosen"] = row["parent_response_id"]
            current = {"id": wanted, "turns": turns}
            last = rows[-1]["id"] if rows else None
            writing = session.live.get(last) if last is not None else None
            if writing and not writing.done:
                live = {"prompt_id": last, "texts": writing.texts}
        return {
            "conversations": [{"id": c["id"], "title": c["title"]} for c in listed],
            "current": current,
            "live": live,
            "model": session.version["name"],
            "counts": engine.feedback_log.counts(store),
        }

    def ask(request: dict) -> dict:
        text, count = str(request["text"]).strip(), int(request["count"])
        if not text:
            raise engine.UserError("There is no question. Write one first.")
        if not 1 <= count <= 4:
            raise engine.UserError("Ask for 1 to 4 answers.")
        conversation = request["conversation"]
        if conversation is None:
            conversation = engine.conversations.start_conversation(session.store, text)
        prompt = engine.conversations.add_prompt(session.store, text, "chat", conversation, request["parent"])
        session.ask(prompt, count, engine.Sampling())
        return {"conversation": conversation, "prompt": prompt}

    def poll(prompt: int) -> dict:
        live = session.live.get(prompt)
        if live is None:
            return {"done": True, "texts": []}
        return {"done": live.done, "texts": live.texts, "problem": live.problem}

    def halt(prompt: int) -> dict:
        live = session.live.get(prompt)
        if live and not live.done:
            session.serving.stop(live.request)
        return {}

    def counts() -> dict:
        return {"counts": engine.feedback_log.counts(session.store)}

    def rank(prompt: int, tiers: list) -> dict:
        engine.feedback_log.add_ranking(session.store, prompt, tiers)
        return counts()

    def rate(response: int, score: float) -> dict:
        engine.feedback_log.add_rating(session.store, response, score)
        return counts()

    def edit(response: int, text: str) -> dict:
        engine.feedback_log.add_edit(session.store, response, text)
        return counts()

    def undo() -> dict:
        taken = engine.feedback_log.undo(session.store)
        return {"undone": taken["kind"] if taken else None}

    page("chat", SKELETON, [load, ask, poll, halt, rank, rate, edit, undo])
