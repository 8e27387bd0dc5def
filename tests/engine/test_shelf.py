"""Versions as a person keeps them, the labelling queue, exports and the quality of feedback."""

import json
import random
import shutil
import zipfile

import pytest
from safetensors.torch import load_file, save_file

import engine
from engine import shelf
from engine.feedback.exporting import export_file
from engine.feedback.importing import import_file
from engine.models import find
from engine.store import browse, comparisons, conversations, feedback, labelling, models
from engine.store.quality import quality


def answered(store, version, text, source="chat", count=4):
    prompt = conversations.add_prompt(store, text, source)
    rows = [{"text": f"{text} {'word ' * i}{i}", "tokens": 3, "seed": i, "finish": "stop"} for i in range(count)]
    return prompt, conversations.add_responses(store, prompt, version, {}, rows)


@pytest.fixture
def policy(store, workspace, base_version):
    base = models.get_version(store, base_version)
    version = models.add_version(store, "policy", base, None, {"method": "ppo"})
    workspace.model(version).mkdir()
    (workspace.model(version) / "adapter_model.safetensors").write_bytes(b"x" * 1000)
    return version


def test_the_tree_has_parents_before_children(store, workspace, base_version, policy):
    found = shelf.tree(store, workspace)
    assert [(v["id"], v["depth"]) for v in found] == [(base_version, 0), (policy, 1)]
    comparisons.add_comparison(store, base_version, policy, [], {"win_rate": 0.75})
    assert shelf.tree(store, workspace)[1]["win"] == {"win_rate": 0.75}
    assert found[1]["bytes"] == 1000 and found[0]["bytes"] > 1_000_000


def test_what_is_deleted_comes_back_whole(store, workspace, base_version, policy):
    shelf.promote(store, policy)
    with pytest.raises(engine.UserError, match="in use"):
        shelf.delete(store, workspace, policy)
    shelf.promote(store, base_version)
    shelf.delete(store, workspace, policy)
    assert not workspace.model(policy).exists() and len(models.list_versions(store)) == 1
    later = models.add_version(store, "policy", models.get_version(store, base_version), None, {})
    shelf.restore(store, workspace, policy)
    assert (workspace.model(policy) / "adapter_model.safetensors").read_bytes() == b"x" * 1000
    assert [models.get_version(store, v)["name"] for v in (policy, later)] == ["round-1", "round-2"]
    assert shelf.trash(store, workspace) == []
    shelf.promote(store, policy)
    with pytest.raises(engine.UserError, match="base of other versions"):
        shelf.delete(store, workspace, base_version)


def test_the_trash_tells_what_is_in_it_and_can_be_emptied(store, workspace, base_version, policy):
    shelf.promote(store, base_version)
    shelf.delete(store, workspace, policy)
    assert shelf.trash(store, workspace) == [{"id": policy, "name": "round-1", "kind": "policy", "bytes": 1000}]
    shelf.empty_trash(workspace)
    assert shelf.trash(store, workspace) == []
    with pytest.raises(engine.UserError, match="nothing to bring back"):
        shelf.restore(store, workspace, policy)


def test_a_base_that_was_deleted_or_moved_is_added_again_with_all_that_was_made_from_it(
    store, workspace, base_version, tiny_folder, tmp_path
):
    old = shutil.copytree(tiny_folder, tmp_path / "old")
    base = shelf.add_base(store, str(old))
    shelf.delete(store, workspace, base)
    assert shelf.add_base(store, str(old)) == base and models.get_version(store, base)["name"] == "old"
    policy = models.add_version(store, "policy", models.get_version(store, base), None, {})
    new = old.rename(tmp_path / "new")
    assert shelf.add_base(store, str(new)) == base
    assert models.get_version(store, policy)["base"] == models.get_version(store, base)["base"] == str(new)


def test_the_built_in_model_may_move_and_be_replaced(store, workspace, tmp_path, monkeypatch):
    first = shutil.copytree(find.POCKET, tmp_path / "first" / "pocket")
    monkeypatch.setattr(find, "POCKET", first)
    shelf.settle_built_in(store)
    base = models.newest_chat_version(store)
    policy = models.add_version(store, "policy", base, None, {})

    second = first.rename(tmp_path / "pocket")  # the studio was installed elsewhere
    monkeypatch.setattr(find, "POCKET", second)
    shelf.settle_built_in(store)
    used = models.newest_chat_version(store)
    assert used["id"] == policy and used["base"] == str(second) and len(models.list_versions(store)) == 2

    weights = load_file(second / "model.safetensors")
    third = shutil.copytree(second, tmp_path / "third" / "pocket")  # another version of it, beside the first
    save_file({name: w * 0.5 for name, w in weights.items()}, third / "model.safetensors")
    monkeypatch.setattr(find, "POCKET", third)
    shelf.settle_built_in(store)
    assert models.newest_chat_version(store)["id"] == policy and len(models.list_versions(store, "base")) == 1

    shutil.copy(third / "model.safetensors", second)  # and in its place
    monkeypatch.setattr(find, "POCKET", second)
    for _ in range(2):
        shelf.settle_built_in(store)
        used = models.newest_chat_version(store)
        assert used["kind"] == "base" and used["base_fingerprint"] == find.fingerprint(second) and not used["note"]
        assert len(models.list_versions(store, "base")) == 2
    assert "cannot be loaded" in models.get_version(store, base["id"])["note"]


def test_a_version_is_exported_as_a_zip(store, workspace, policy, tmp_path):
    made = shelf.export(store, workspace, policy, tmp_path / "mine.zip")
    assert zipfile.ZipFile(made).namelist()[-1] == "adapter_model.safetensors"
    named = {"mine.zip": "mine.zip", "mine": "mine.zip", "mine.v1.5": "mine.v1.5.zip"}
    assert {given: shelf.export(store, workspace, policy, tmp_path / given).name for given in named} == named
    assert shelf.export(store, workspace, policy) == workspace.folder / "exports" / "round-1.zip"


def test_the_queue_holds_what_is_neither_ranked_nor_skipped(store, base_version):
    source = labelling.source_of("everyday", base_version)
    items = [answered(store, base_version, f"q{i}", source) for i in range(4)]
    answered(store, base_version, "elsewhere")
    conversations.add_prompt(store, "without answers", source)
    feedback.add_ranking(store, items[0][0], [[r] for r in items[0][1]])
    labelling.skip(store, items[1][0])
    assert [i["text"] for i in labelling.open_items(store, source)] == ["q2", "q3"]
    feedback.undo(store)
    assert [i["text"] for i in labelling.open_items(store, source)] == ["q1", "q2", "q3"]
    assert labelling.asked(store, source) == {"q0", "q1", "q2", "q3", "without answers"}


def test_one_of_ten_is_asked_again_and_never_at_once(store, base_version):
    source = labelling.source_of("everyday", base_version)
    items = []
    for i in range(10):
        assert labelling.due_again(store, source) is None and labelling.done(store, source) == i
        items.append(answered(store, base_version, f"q{i}", source))
        feedback.add_ranking(store, items[-1][0], [[r] for r in items[-1][1]])
    assert labelling.due_again(store, source) == items[0][0]
    feedback.add_ranking(store, items[0][0], [items[0][1]])
    assert labelling.done(store, source) == 10
    for i in range(10, 20):
        assert labelling.due_again(store, source) is None
        prompt, responses = answered(store, base_version, f"q{i}", source)
        feedback.add_ranking(store, prompt, [[r] for r in responses])
    assert labelling.due_again(store, source) == items[1][0]


def standing(store):
    return store.rows("SELECT id FROM standing_feedback")


def test_what_stands_is_kept_up_to_date_as_it_would_be_found_anew(store, base_version):
    rng = random.Random(0)
    given = []
    for n in range(3):
        prompt, responses = answered(store, base_version, f"q{n}")
        given += [(prompt, response) for response in responses]
    for _ in range(200):
        prompt, response = rng.choice(given)
        rng.choice([
            lambda: feedback.add_rating(store, response, rng.randint(1, 5)),  # noqa: B023
            lambda: feedback.add_edit(store, response, f"better {rng.random()}"),  # noqa: B023
            lambda: feedback.add_tag(store, response, rng.choice(["wrong", "rude"])),  # noqa: B023
            lambda: feedback.add_ranking(store, prompt, [[response]]),  # noqa: B023
            lambda: feedback.undo(store),
            lambda: [feedback.take_back(store, rng.choice(rows)["id"]) for rows in [standing(store)] if rows],
        ])()  # fmt: skip
        anew = store.rows(
            "SELECT max(id) AS id FROM standing_feedback GROUP BY kind, prompt_id, response_id, annotator, "
            "CASE WHEN kind = 'tag' THEN value END ORDER BY 1"
        )
        assert store.rows("SELECT id FROM current_ids ORDER BY id") == anew


def test_doubt_is_highest_where_scores_are_alike_and_answers_are_not():
    assert labelling.doubt([1.0, 1.0, 1.0], ["a", "b", "c"]) == 1.0
    assert labelling.doubt([0.0, 0.5], ["a", "b"]) > labelling.doubt([0.0, 2.0], ["a", "b"]) > 0
    assert labelling.doubt([1.0, 1.0, 1.0], ["a", "a", "a"]) == 0.0  # nothing to choose between
    assert labelling.doubt([1.0, 1.0, 1.0], ["a", "a", "b"]) == pytest.approx(2 / 3)
    assert labelling.doubt([0.3], ["a"]) == 0.0


def test_search_finds_what_looks_like_a_pattern_as_it_is(store, base_version):
    for text in ("100% sure", "1000 sure", "a_b", "axb"):
        answered(store, base_version, text)
        conversations.start_conversation(store, text)
    assert [c["title"] for c in conversations.list_conversations(store, "100%")] == ["100% sure"]
    assert [c["title"] for c in conversations.list_conversations(store, "A_B")] == ["a_b"]
    assert [r["text"] for r in browse.browse(store, "100%")["rows"]] == ["100% sure"]
    assert [r["text"] for r in browse.browse(store, "a_b")["rows"]] == ["a_b"]


def test_pages_meet_without_gap_or_overlap(store, base_version):
    for i in range(25):
        answered(store, base_version, f"q{i}", count=1)
    seen, before = [], None
    while True:
        page = browse.browse(store, before=before, limit=10)
        seen += [r["text"] for r in page["rows"]]
        before = page["more"]
        if before is None:
            break
    assert seen == [f"q{i}" for i in reversed(range(25))]


def test_what_is_exported_can_be_brought_in_again(store, base_version, workspace, tmp_path):
    prompt, (a, b, c, d) = answered(store, base_version, "which?")
    feedback.add_ranking(store, prompt, [[b], [a, c], [d]])
    feedback.add_rating(store, a, 5)
    file = tmp_path / "out.jsonl"
    assert export_file(store, file, "preference") == 5  # six pairs, one of them a tie
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    texts = {r["id"]: r["text"] for r in conversations.responses_of(store, prompt)}
    pairs = {(row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in rows}
    assert pairs == {(texts[x], texts[y]) for x, y in ((b, a), (b, c), (b, d), (a, d), (c, d))}
    other = engine.Store(tmp_path / "other.db")
    assert import_file(other, file)["imported"] == 5
    other.close()
    assert export_file(store, tmp_path / "thumbs.jsonl", "thumbs") == 3  # best, worst, and the one rated 5
    with pytest.raises(engine.UserError, match="no format"):
        export_file(store, file, "xml")


def test_quality_counts_ties_length_and_change_of_mind(store, base_version):
    prompt, (a, b, c, d) = answered(store, base_version, "q")  # each longer than the one before
    feedback.add_ranking(store, prompt, [[d], [c], [b, a]])
    found = quality(store)
    assert found["ties"] == pytest.approx(1 / 6) and found["longer_wins"] == 1.0 and found["agreement"] is None
    feedback.add_ranking(store, prompt, [[c], [d], [b, a]])
    found = quality(store)
    assert found["agreement"] == pytest.approx(4 / 5) and found["contradictions"] == 1 and found["twice"] == 5
    answered(store, base_version, "not judged")
    assert quality(store)["unjudged"] == 1


def test_what_waits_to_be_labelled_is_not_among_what_was_said(store, base_version):
    source = labelling.source_of("everyday", base_version)
    chatted, _ = answered(store, base_version, "asked")
    (ranked, (a, b)), (skipped, _), (waiting, _) = (
        answered(store, base_version, text, source, 2) for text in ("ranked", "skipped", "waiting")
    )
    feedback.add_ranking(store, ranked, [[a], [b]])
    labelling.skip(store, skipped)
    ids = {kind: [row["id"] for row in browse.browse(store, kind=kind)["rows"]] for kind in ("all", "label")}
    assert ids == {"all": [skipped, ranked, chatted], "label": [waiting, skipped, ranked]}
