"""Several programs at one database: each gets its turn, or is told what keeps it from it."""

import multiprocessing
import sqlite3
import threading

import pytest

from engine.errors import UserError
from engine.store.db import Store


def _open(path, together, found) -> None:
    together.wait()
    try:
        Store(path).close()
        found.put("")
    except BaseException as error:
        found.put(str(error))


def test_a_new_one_is_made_once_however_many_open_it(tmp_path):
    context = multiprocessing.get_context("spawn")
    together, found = context.Barrier(4), context.Queue()
    openers = [context.Process(target=_open, args=(tmp_path / "studio.db", together, found)) for _ in range(4)]
    for opener in openers:
        opener.start()
    assert [found.get(timeout=60) for _ in openers] == [""] * 4
    for opener in openers:
        opener.join()


def test_one_of_a_newer_studio_is_left_alone(tmp_path):
    path = tmp_path / "studio.db"
    store = Store(path)
    store.db["_sqlite_migrations"].insert({"migration_set": "rlhf-studio", "name": "m999", "applied_at": "2030"})
    store.connection.commit()
    store.close()
    with pytest.raises(UserError, match="newer version of the studio"):
        Store(path)


def test_another_program_that_does_not_finish_its_changes(tmp_path):
    path = tmp_path / "studio.db"
    hasty, patient = Store(path, patience=0.1), Store(path, patience=60)
    other = sqlite3.connect(path, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(UserError, match="Another program has changed"):
        hasty.insert("conversations", title="one", created="")
    threading.Timer(0.5, other.rollback).start()
    patient.insert("conversations", title="two", created="")
    hasty.insert("conversations", title="three", created="")
    assert [row["title"] for row in hasty.rows("SELECT title FROM conversations")] == ["two", "three"]
    for each in (hasty, patient, other):
        each.close()
