"""Compare: the same questions before and after, judged blind, with the win rate and its interval."""

import engine
from studio.pages import page
from studio.session import Session

SKELETON = """
<div class="row"><h2>Before and after</h2><select class="comparison" aria-label="Which comparison"></select></div>
<section class="figures" aria-label="Figures"></section>
<section class="ballot" aria-label="Blind vote"></section>
<section class="voted" hidden>
  <h3>What you voted on</h3>
  <div class="scroll"><table>
    <thead><tr><th>Question</th><th>Before</th><th>After</th><th>Better</th></tr></thead>
    <tbody class="items"></tbody>
  </table></div>
</section>
"""


def build(session: Session) -> None:
    """Put the page into the Blocks that is open."""

    def votes(comparison: int) -> dict:
        counted = engine.comparisons.vote_counts(session.store, comparison)
        count = sum(counted.values())
        wins = counted["after"] + counted["tie"] / 2
        low, high = engine.wilson(wins, count)
        return {"count": count, "rate": wins / count if count else None, "low": low, "high": high}

    def load(wanted: int | None) -> dict:
        listed = engine.comparisons.list_comparisons(session.store)
        chosen = next((c for c in listed if c["id"] == wanted), listed[0] if listed else None)
        names = [{"id": c["id"], "before": c["before_name"], "after": c["after_name"]} for c in listed]
        if chosen is None:
            return {"list": [], "items": []}
        every = engine.comparisons.items_of(session.store, chosen["id"])
        items = [i for i in every if i["before"] != i["after"]]  # the rest leaves nothing to vote on
        return {
            "list": names,
            "id": chosen["id"],
            "result": chosen["result"],
            "votes": votes(chosen["id"]),
            "same": len(every) - len(items),
            "items": [{key: i[key] for key in ("id", "prompt", "before", "after", "choice")} for i in items],
        }

    def vote(item: int, choice: str) -> dict:
        if choice not in ("before", "after", "tie"):
            raise engine.UserError("A vote is for one side or for none.")
        row = session.store.row("SELECT comparison_id FROM comparison_items WHERE id = ?", item)
        if row is None:
            raise engine.UserError("That question is no longer there. Reload the page.")
        engine.comparisons.add_vote(session.store, item, choice, blind=True)
        return {"votes": votes(row["comparison_id"])}

    page("compare", SKELETON, [load, vote])
