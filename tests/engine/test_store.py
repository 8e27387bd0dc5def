"""The store: feedback that is never lost, and what is learned from it."""

import sqlite3

import pytest

import engine
from engine.feedback.gather import gather_rankings
from engine.store import comparisons, conversations, feedback, models, runs


@pytest.fixture
def asked(store, base_version):
    """A prompt with three answers: (store, prompt id, response ids)."""
    talk = conversations.start_conversation(store, "a talk")
    prompt = conversations.add_prompt(store, "Who are you?", "chat", talk)
    rows = [{"text": t, "tokens": 3, "seed": i, "finish": "stop"} for i, t in enumerate(("first", "second", "third"))]
    return store, prompt, conversations.add_responses(store, prompt, base_version, {}, rows)


def test_feedback_can_be_added_to_but_never_changed_or_removed(asked):
    store, prompt, (a, b, c) = asked
    feedback.add_ranking(store, prompt, [[a], [b, c]])
    for statement in ("UPDATE feedback SET value = '{}'", "DELETE FROM feedback"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            store.connection.execute(statement)
        store.connection.rollback()
    assert store.row("SELECT count(*) AS n FROM feedback")["n"] == 1


def test_a_changed_mind_counts_and_undo_goes_back_step_by_step(asked):
    store, prompt, (a, b, c) = asked
    feedback.add_ranking(store, prompt, [[a], [b], [c]])
    feedback.add_ranking(store, prompt, [[c], [b], [a]])
    assert [f["value"]["tiers"] for f in feedback.current(store)] == [[[c], [b], [a]]]
    assert feedback.undo(store)["kind"] == "ranking"
    assert [f["value"]["tiers"] for f in feedback.current(store)] == [[[a], [b], [c]]]
    feedback.undo(store)
    assert feedback.current(store) == []
    assert feedback.undo(store) is None
    assert store.row("SELECT count(*) AS n FROM feedback")["n"] == 4  # all of it is still there


def test_what_is_taken_back_leaves_no_former_mind_and_can_be_given_again(asked):
    store, prompt, (first, second, third) = asked
    feedback.add_ranking(store, prompt, [[first], [second, third]])
    feedback.add_tag(store, first, "helpful")
    tagged = feedback.add_tag(store, first, "rude")
    newer = feedback.add_ranking(store, prompt, [[third], [second], [first]])
    feedback.take_back(store, newer)
    feedback.take_back(store, tagged)
    assert [f["value"] for f in feedback.current(store, prompt)] == [{"tag": "helpful"}]
    feedback.bring_back(store, newer)
    assert feedback.current(store, prompt)[-1]["value"] == {"tiers": [[third], [second], [first]]}
    with pytest.raises(engine.UserError, match="taken back already"):
        feedback.take_back(store, newer)


def test_a_rating_that_is_taken_off_leaves_no_older_one(asked):
    store, _, (first, second, _) = asked
    for response, score in ((first, 1), (second, 2), (first, 5)):
        feedback.add_rating(store, response, score)
    feedback.unrate(store, first)
    assert [(f["response_id"], f["value"]["score"]) for f in feedback.current(store)] == [(second, 2)]
    feedback.add_rating(store, first, 4)
    assert feedback.counts(store)["rating"] == 2


def test_undo_takes_back_only_ones_own_feedback(asked):
    store, prompt, (a, b, c) = asked
    feedback.add_ranking(store, prompt, [[a], [b], [c]], annotator="someone else")
    assert feedback.undo(store) is None
    assert feedback.counts(store)["ranking"] == 1


def test_rankings_edits_and_ratings_become_rankings(asked):
    store, prompt, (a, b, c) = asked
    feedback.add_ranking(store, prompt, [[b], [a, c]])
    feedback.add_edit(store, a, "better than first")
    feedback.add_rating(store, a, 1)
    feedback.add_rating(store, c, 5)
    found = {r.responses: dict(zip(r.responses, r.ranks, strict=True)) for r in gather_rankings(store)}
    assert found[("second", "first", "third")] == {"second": 0, "first": 1, "third": 1}
    assert found[("better than first", "first")] == {"better than first": 0, "first": 1}
    rated = found[("first", "third")]
    assert rated["third"] < rated["first"]
    assert len(found) == 3


def test_feedback_that_prefers_nothing_is_left_out(asked):
    store, _, (a, b, _c) = asked
    feedback.add_rating(store, a, 5)
    feedback.add_rating(store, b, 5)
    feedback.add_edit(store, a, "first")  # the same words: nothing was edited
    assert gather_rankings(store) == []


def test_a_follow_up_is_learned_with_the_turns_before_it_as_the_person_left_them(asked, base_version):
    store, _, (a, _b, _c) = asked
    feedback.add_edit(store, a, "rewritten")
    talk = store.row("SELECT id FROM conversations")["id"]
    prompt = conversations.add_prompt(store, "And then?", "chat", talk, a)
    rows = [{"text": t, "tokens": 1, "seed": 0, "finish": "stop"} for t in ("x", "y")]
    x, y = conversations.add_responses(store, prompt, base_version, {}, rows)
    feedback.add_ranking(store, prompt, [[y], [x]])
    follow_up = next(r for r in gather_rankings(store) if "y" in r.responses)
    assert follow_up.prompt == (("user", "Who are you?"), ("assistant", "rewritten"), ("user", "And then?"))


def test_feedback_that_makes_no_sense_is_refused_in_a_sentence(asked):
    store, prompt, (a, b, _c) = asked
    for bad in ([[a], [a, b]], [[a], [999]]):
        with pytest.raises(engine.UserError, match="ranking must name"):
            feedback.add_ranking(store, prompt, bad)
    with pytest.raises(engine.UserError, match="1 to 5"):
        feedback.add_rating(store, a, 6)
    with pytest.raises(engine.UserError, match="empty"):
        feedback.add_edit(store, a, "   ")
    assert feedback.current(store) == []


def test_a_vote_given_when_the_sides_are_known_is_kept_and_not_counted(store, base_version):
    rows = [{"prompt": f"q{i}", "before": "a", "after": "b", "facts": {}} for i in range(3)]
    comparison = comparisons.add_comparison(store, base_version, base_version, rows, {})
    first, second, third = (item["id"] for item in comparisons.items_of(store, comparison))
    comparisons.add_vote(store, first, "after")
    comparisons.add_vote(store, second, "tie")
    comparisons.add_vote(store, second, "before")  # thought better of
    comparisons.reveal(store, comparison)
    comparisons.add_vote(store, third, "after")
    assert comparisons.vote_counts(store, comparison) == {"before": 1, "after": 1, "tie": 0, "seen": 1}
    comparisons.add_vote(store, first, "before")  # a blind vote changed by one who knows is no longer blind
    assert comparisons.vote_counts(store, comparison) == {"before": 1, "after": 0, "tie": 0, "seen": 2}
    assert [item["choice"] for item in comparisons.items_of(store, comparison)] == ["before", "before", "after"]
    with pytest.raises(engine.UserError, match="no longer there"):
        comparisons.add_vote(store, 10_000, "tie")


def test_a_line_of_rounds_is_held_against_what_its_first_began_with(store, base_version):
    def made_of(parent: int, method: str) -> int:
        run = runs.add_run(store, method, {}, parent)
        return models.add_version(store, "policy", models.get_version(store, parent), run, {"method": method})

    def first(version: int) -> int:
        return models.first_of_line(store, models.get_version(store, version))["id"]

    tuned = made_of(base_version, "sft")
    rounds = [made_of(tuned, "improve")]
    rounds += [made_of(rounds[0], "ppo")]
    rounds += [made_of(rounds[1], "reinforce")]
    assert [first(v) for v in (base_version, tuned, *rounds)] == [base_version, tuned, tuned, tuned, tuned]
    other = made_of(rounds[1], "dpo")
    assert first(other) == other  # another method begins a line of its own
    store.update("model_versions", tuned, deleted="2026-11-29")
    assert first(rounds[2]) == rounds[0]


def test_two_connections_see_and_write_the_same(workspace, store, asked):
    _, prompt, (a, b, c) = asked
    other = engine.Store(workspace.database)
    feedback.add_ranking(other, prompt, [[c], [b], [a]])
    assert feedback.counts(store)["ranking"] == 1
    assert store.connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert store.connection.execute("PRAGMA foreign_keys").fetchone()[0] == 1
    other.close()


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path):
    file = tmp_path / "studio.db"
    file.write_text("this is not a database, but someone may want it " * 50)
    before = file.read_bytes()
    with pytest.raises(engine.UserError, match="does not open"):
        engine.Store(file)
    assert file.read_bytes() == before
