"""Chat: ask, read several answers side by side, rank, rate and rewrite them."""

import engine
from studio.markdown import rendered
from studio.pages import page
from studio.session import Live, Session

SKELETON = """
<aside>
  <button class="new primary" type="button">New conversation</button>
  <input type="search" class="find" placeholder="Search conversations" aria-label="Search conversations">
  <nav class="conversations" aria-label="Conversations"></nav>
</aside>
<main>
  <div class="top">
    <span class="hint">Model: <b class="model"></b></span><span class="counts"></span>
    <span class="saved hint" role="status"></span>
    <button class="undo" type="button" title="Take back the last feedback (Z)">Undo</button>
    <button class="drawer-toggle" type="button" aria-expanded="false">Settings</button>
  </div>
  <section class="drawer panel" hidden aria-label="Settings">
    <label class="hint">Model <select class="version"></select></label>
    <label class="hint">Temperature <input type="number" class="temperature" min="0" max="2" step="0.1"></label>
    <label class="hint">Top-p <input type="number" class="top_p" min="0.05" max="1" step="0.05"></label>
    <label class="hint">Longest answer, tokens <input type="number" class="max_new_tokens" min="1" max="2048"></label>
    <label class="hint">Seed (empty: a new one each time) <input type="number" class="seed" min="0"></label>
    <label class="hint wide">System prompt <textarea rows="2" class="system"></textarea></label>
  </section>
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
        tags: dict[int, list] = {}
        for f in feedback:
            if f["kind"] == "tag" and f["response_id"] is not None:
                tags.setdefault(f["response_id"], []).append({"id": f["id"], "tag": f["value"]["tag"]})
        return {
            "id": row["id"],
            "text": row["text"],
            "tiers": ranking[-1] if ranking else [],
            "responses": [
                {
                    "id": r["id"],
                    "text": r["text"],
                    "html": rendered(r["text"]),
                    "finish": r["finish"],
                    "edit": said.get(("edit", r["id"]), {}).get("text"),
                    "rating": said.get(("rating", r["id"]), {}).get("score"),
                    "comment": said.get(("comment", r["id"]), {}).get("text"),
                    "tags": tags.get(r["id"], []),
                }
                for r in row["responses"]
            ],
        }

    def written(live: Live) -> list[dict]:
        return [{"text": text, "html": rendered(text)} for text in live.texts]

    def load(conversation: int | None, search: str = "") -> dict:
        """The conversation asked for, or the newest; -1 opens none."""
        store = session.store
        listed = engine.conversations.list_conversations(store, search)
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
                live = {"prompt_id": last, "answers": written(writing)}
        version, versions = session.version, engine.versions.list_versions(store)
        usual = {base: engine.usual_sampling(base).as_dict() for base in {v["base"] for v in versions}}
        return {
            "conversations": [{"id": c["id"], "title": c["title"]} for c in listed],
            "current": current,
            "live": live,
            "model": version["name"],
            "untaught": version["kind"] == "base" and version["name"] == engine.shelf.BUILT_IN,
            "versions": [
                {"id": v["id"], "name": v["name"], "usual": usual[v["base"]]}
                for v in versions
                if v["kind"] in ("base", "policy")
            ],
            "usual": usual[version["base"]],
            "tags": list(engine.feedback_log.TAGS),
            "counts": engine.feedback_log.counts(store),
        }

    def answering(settings: dict) -> dict:
        """The version that a person has chosen to answer, else the one in use."""
        chosen = settings.get("version")
        return engine.versions.get_version(session.store, chosen) if chosen else session.version

    def ask(request: dict) -> dict:
        text, count = str(request["text"]).strip(), int(request["count"])
        settings = request.get("settings") or {}
        version = answering(settings)
        sampling = session.sampling(settings, version)
        if not text:
            raise engine.UserError("There is no question. Write one first.")
        if not 1 <= count <= 4:
            raise engine.UserError("Ask for 1 to 4 answers.")
        conversation, parent = request["conversation"], request["parent"]
        system = str(settings.get("system") or "").strip()
        if system and parent is None:  # in front of what the person says first, where every chat template has room
            text = f"{system}\n\n{text}"
        if conversation is None:
            conversation = engine.conversations.start_conversation(session.store, str(request["text"]).strip())
        prompt = engine.conversations.add_prompt(session.store, text, "chat", conversation, parent)
        session.ask(prompt, count, sampling, version, settings.get("seed"))
        return {"conversation": conversation, "prompt": prompt}

    def again(prompt: int, count: int, settings: dict) -> dict:
        """More answers to a question that was answered before; the old ones stay."""
        version = answering(settings)
        session.ask(prompt, count, session.sampling(settings, version), version, None)
        return {}

    def poll(prompt: int) -> dict:
        live = session.live.get(prompt)
        if live is None:
            return {"done": True, "answers": []}
        return {"done": live.done, "answers": written(live), "problem": live.problem}

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

    def unrate(response: int) -> dict:
        engine.feedback_log.unrate(session.store, response)
        return counts()

    def edit(response: int, text: str) -> dict:
        engine.feedback_log.add_edit(session.store, response, text)
        return counts()

    def tag(response: int, name: str) -> dict:
        return {"id": engine.feedback_log.add_tag(session.store, response, name)}

    def untag(feedback: int) -> dict:
        engine.feedback_log.take_back(session.store, feedback)
        return {}

    def comment(response: int, text: str) -> dict:
        engine.feedback_log.add_comment(session.store, response, text)
        return {}

    def undo() -> dict:
        taken = engine.feedback_log.undo(session.store)
        return {"undone": taken["kind"] if taken else None}

    def rename(conversation: int, title: str) -> dict:
        engine.conversations.rename_conversation(session.store, conversation, title)
        return {}

    def delete(conversation: int, deleted: bool) -> dict:
        engine.conversations.delete_conversation(session.store, conversation, deleted)
        return {}

    page(
        "chat",
        SKELETON,
        [load, ask, again, poll, halt, rank, rate, unrate, edit, tag, untag, comment, undo, rename, delete],
        session,
    )
