"""Compare: two versions on the same questions, judged blind, with the win rate and its interval."""

import engine
from studio.markdown import rendered
from studio.pages import page
from studio.report import report
from studio.session import Session

SKELETON = """
<div class="row compare-head">
  <h2>Before and after</h2><select class="comparison" aria-label="Which comparison"></select>
  <button class="save-report" type="button" hidden>Save report</button>
</div>
<details class="anew"><summary>Compare two versions</summary>
  <form class="row">
    <select class="one" aria-label="Before"></select><span>→</span><select class="other" aria-label="After"></select>
    <label class="hint">Questions <input type="number" class="prompts" min="1" max="240" value="64"></label>
    <button type="submit">Compare</button>
  </form>
</details>
<p class="warning" role="alert" hidden></p>
<section class="figures" aria-label="Figures"></section>
<section class="ballot" aria-label="Blind vote"></section>
<details class="voted"><summary>Every answer, not blind</summary>
  <div class="reveal">
    <p class="hint">Here every answer stands under its side. Votes you give after that are kept, but not counted.</p>
    <button type="button">Show them</button>
  </div>
  <div class="plots"></div>
  <div class="scroll"><table>
    <thead><tr><th>Question</th><th>Before</th><th>After</th><th>Reward</th><th>KL</th><th>Tokens</th><th>Vote</th></tr>
    </thead><tbody class="items"></tbody>
  </table></div>
</details>
"""


def build(session: Session) -> None:
    """Put the page into the Blocks that is open."""

    def votes(comparison: int) -> dict:
        """The win rate by the blind votes, with an interval for one who looks after each, and how many others there
        are."""
        counted = engine.comparisons.vote_counts(session.store, comparison)
        count = counted["before"] + counted["after"] + counted["tie"]
        wins = counted["after"] + counted["tie"] / 2
        low, high = engine.confidence_sequence(wins, count)
        rate = wins / count if count else None
        more = engine.votes_to_decide(rate, count) if rate is not None else None
        return {"count": count, "rate": rate, "low": low, "high": high, "more": more, "seen": counted["seen"]}

    def overdone(result: dict, given: dict) -> bool:
        """Whether the reward rose and the votes did not: the reward model is being pleased, not the person."""
        return given["count"] >= 8 and given["rate"] <= 0.5 and result.get("win_rate_low", 0) > 0.5

    def load(wanted: int | None) -> dict:
        listed = engine.comparisons.list_comparisons(session.store)
        chosen = next((c for c in listed if c["id"] == wanted), listed[0] if listed else None)
        versions = [
            {"id": v["id"], "name": v["name"]}
            for v in engine.versions.list_versions(session.store)
            if v["kind"] in ("base", "policy")
        ]
        names = [{"id": c["id"], "before": c["before_name"], "after": c["after_name"]} for c in listed]
        if chosen is None:
            return {"list": [], "items": [], "versions": versions}
        every = engine.comparisons.items_of(session.store, chosen["id"])
        items = [i for i in every if i["before"] != i["after"]]  # the rest leaves nothing to vote on
        given = votes(chosen["id"])
        return {
            "list": names,
            "versions": versions,
            "id": chosen["id"],
            "result": chosen["result"],
            "votes": given,
            "revealed": chosen["revealed"] is not None,
            "overdone": overdone(chosen["result"], given),
            "same": len(every) - len(items),
            "items": [
                {key: i[key] for key in ("id", "prompt", "before", "after", "choice", "facts")}
                | {f"{side}_html": rendered(i[side]) for side in ("before", "after")}
                for i in items
            ],
        }

    def vote(item: int, choice: str) -> dict:
        if choice not in ("before", "after", "tie"):
            raise engine.UserError("A vote is for one side or for none.")
        comparison = engine.comparisons.add_vote(session.store, item, choice)
        given, chosen = votes(comparison), engine.comparisons.get_comparison(session.store, comparison)
        return {"votes": given, "overdone": overdone(chosen["result"], given)}

    def reveal(comparison: int) -> dict:
        engine.comparisons.reveal(session.store, comparison)
        return {}

    def anew(before: int, after: int, prompts: int) -> dict:
        if before == after:
            raise engine.UserError("Choose two different versions.")
        session.give_way()
        config = engine.read_config({"compare": {"prompts": prompts, "after": after}}).as_dict()
        return {"run": engine.launcher.start(session.workspace, session.store, "compare", config, before)}

    def progress(run: int) -> dict:
        engine.launcher.refresh(session.workspace, session.store)
        row = engine.runs.get_run(session.store, run)
        return {"status": row["status"], "reason": row["reason"]}

    def saved(comparison: int, language: str) -> dict:
        chosen = engine.comparisons.get_comparison(session.store, comparison)
        items = engine.comparisons.items_of(session.store, comparison)
        return {"html": report(chosen, items, votes(comparison), language)}

    page("compare", SKELETON, [load, vote, reveal, anew, progress, saved], session)
