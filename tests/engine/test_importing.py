"""Imports: every shape, other people's real files, and what is wrong with a record."""

import gzip
import json
from pathlib import Path

import pytest

from engine.errors import UserError
from engine.feedback.gather import gather_rankings, gather_valued
from engine.feedback.importing import import_file
from engine.store import conversations

SHARED = Path(__file__).parents[3] / "shared" / "data"


def write(folder, name, records):
    path = folder / name
    path.write_text("\n".join(map(json.dumps, records)))
    return path


def shared(name):
    if not (SHARED / name).is_file():
        pytest.skip(f"{name} is not at ../shared/data")
    return SHARED / name


@pytest.mark.parametrize(
    ("name", "text", "form"),
    [
        ("p.txt", "First one\n\nSecond one\n", "text"),
        ("p.csv", 'id,prompt\n1,First one\n2,"Second one"\n', "csv"),
        ("p.jsonl", '{"prompt": "First one"}\n{"prompt": "Second one"}\n', "jsonl"),
    ],
)
def test_prompts_come_in_as_prompts_to_practise_on(store, tmp_path, name, text, form):
    (tmp_path / name).write_text(text)
    result = import_file(store, tmp_path / name)
    assert (result["format"], result["imported"], result["refused"]) == (form, 2, 0)
    assert {c[-1]["content"] for c in conversations.own_prompts(store)} == {"First one", "Second one"}
    again = import_file(store, tmp_path / name)
    assert (again["imported"], again["duplicates"]) == (0, 2)


def test_trl_preferences_as_texts_and_as_messages(store, tmp_path):
    user, good, bad = ({"role": r, "content": c} for r, c in (("user", "Q"), ("assistant", "A"), ("assistant", "B")))
    records = [
        {"prompt": "Q1", "chosen": "A", "rejected": "B"},
        {"prompt": [user], "chosen": [good], "rejected": [bad]},
        {"chosen": [{**user, "content": "Q3"}, good], "rejected": [{**user, "content": "Q3"}, bad]},
    ]
    result = import_file(store, write(tmp_path, "p.jsonl", records))
    assert (result["format"], result["imported"]) == ("trl", 3)
    assert [(r.prompt[-1][1], r.responses, r.ranks) for r in gather_rankings(store)] == [
        (q, ("A", "B"), (0, 1)) for q in ("Q1", "Q", "Q3")
    ]


def test_a_dialogue_keeps_its_turns(store, tmp_path):
    before = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: And?\n\nAssistant:"
    path = tmp_path / "h.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.write(json.dumps({"chosen": before + " Well.", "rejected": before + " No."}))
    assert import_file(store, path)["format"] == "hh-rlhf"
    (ranking,) = gather_rankings(store)
    assert ranking.prompt == (("user", "Hi"), ("assistant", "Hello."), ("user", "And?"))
    assert ranking.responses == ("Well.", "No.")


@pytest.mark.parametrize(
    ("name", "form", "rows"),
    [
        ("hh-rlhf-harmless-base-test.jsonl.gz", "hh-rlhf", 2312),
        ("llama-factory-dpo_en_demo.json", "sharegpt", 300),
        ("llama-factory-kto_en_demo.json", "thumbs", 300),
        ("llama-factory-alpaca_en_demo.json", "alpaca", 999),
    ],
)
def test_real_files_come_in_whole(store, name, form, rows):
    result = import_file(store, shared(name))
    assert result["format"] == form
    assert result["imported"] + result["duplicates"] + result["refused"] == rows
    assert result["imported"] >= 0.97 * rows, result["errors"][:3]
    found = gather_rankings(store) if form in ("hh-rlhf", "sharegpt") else gather_valued(store)
    assert len(found) == result["imported"]
    if form == "thumbs":
        assert {v.grade for v in found} == {1, 5}


def test_what_is_wrong_with_a_record_is_said_and_the_rest_comes_in(store, tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text(
        '{"prompt": "Q", "chosen": "A", "rejected": "A"}\n'
        "not json\n"
        '{"prompt": "", "chosen": "A", "rejected": "B"}\n'
        '{"prompt": "Q", "chosen": "A"}\n'
        '{"prompt": "Q", "chosen": "A", "rejected": "B"}\n'
    )
    result = import_file(store, path, "trl")
    assert (result["imported"], result["refused"]) == (1, 4)
    assert [e["line"] for e in result["errors"]] == [1, 2, 3, 4]
    reasons = " | ".join(e["reason"] for e in result["errors"])
    for said in ("the same", "not a JSON object", '"prompt" is missing or empty', "'rejected' is missing"):
        assert said in reasons


def test_a_text_may_hold_any_sign_that_ends_a_line_elsewhere(store, tmp_path):
    text = "a\u2028b\x85c\u2029d\x0ce\rf"
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps({"prompt": "Q", "chosen": text, "rejected": "B"}, ensure_ascii=False) + "\r\n")
    assert import_file(store, path)["imported"] == 1
    assert gather_rankings(store)[0].responses == (text, "B")


def test_a_file_that_cannot_be_read_at_all(store, tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        import_file(store, tmp_path / "nowhere.json")
    with pytest.raises(UserError, match="--format"):
        import_file(store, write(tmp_path, "x.jsonl", [{"question": "Q"}]))
    with pytest.raises(UserError, match="Choose one of"):
        import_file(store, tmp_path / "x.jsonl", "parquet")
    whole = gzip.compress(json.dumps({"prompt": "Q"}).encode() * 100)
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="cannot be read"):
        import_file(store, tmp_path / "cut.jsonl.gz")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match="cannot be read"):
        import_file(store, tmp_path / "deep.json")
    (tmp_path / "long.csv").write_text("prompt\n" + "x" * 200_000)
    with pytest.raises(UserError, match="cannot be read"):
        import_file(store, tmp_path / "long.csv")
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(UserError, match="nothing in"):
        import_file(store, tmp_path / "empty.txt")
