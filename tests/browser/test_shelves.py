"""Data and Models: what came in, what was made of it, and how it goes out."""

import json

import pytest

import engine

pytestmark = pytest.mark.browser


def test_data_comes_in_and_goes_out(studio, page, tmp_path):
    file = tmp_path / "prefs.jsonl"
    good = {"prompt": "Say hi.", "chosen": "Hello there!", "rejected": "No."}
    file.write_text(json.dumps(good) + "\n" + json.dumps({"prompt": "x"}) + "\n{broken\n")
    page.goto(f"{studio}/data")
    page.locator(".empty").wait_for()
    page.click(".bring")
    page.set_input_files(".file", file)
    page.locator(".figures-line", has_text="1 new, 0 already here, 2 not readable").wait_for()
    assert "Line 2" in page.locator(".problems").inner_text()
    page.click(".bring-in")
    page.locator(".entry", has_text="Say hi.").click()
    liked = page.locator(".entry .answer", has_text="Hello there!")
    assert "#1" in liked.inner_text()
    page.click(".entry .take-back")
    page.locator(".entry .take-back").wait_for(state="detached")
    assert "#1" not in liked.inner_text()
    page.click(".notice .bring-back")
    page.locator(".entry .take-back").wait_for()
    assert "#1" in liked.inner_text()
    page.fill(".search", "100% nothing like it")
    page.locator(".empty", has_text="Nothing matches").wait_for()
    page.fill(".search", "hello")
    page.locator(".entry", has_text="Say hi.").wait_for()
    page.select_option(".filter", "edited")
    page.locator(".empty").wait_for()
    page.select_option(".take", "preference")
    page.locator(".notice.show", has_text="1 line written").wait_for()
    (line,) = (tmp_path / "workspace" / "exports" / "preference.jsonl").read_text().splitlines()
    assert json.loads(line)["chosen"] == [{"role": "assistant", "content": "Hello there!"}]


def test_models_are_kept_in_order(shared, shared_folder, page, tmp_path):
    page.goto(f"{shared}/models")
    page.locator(".version.using", has_text="pocket").wait_for()
    page.click(".note")
    page.fill(".note-field", "where it all began")
    page.keyboard.press("Enter")
    page.locator(".note-text", has_text="where it all began").wait_for()
    page.fill(".folder", str(tmp_path))
    page.click(".add button")
    page.locator(".notice.error", has_text="holds no config.json").wait_for()
    page.click(".export")
    page.locator(".notice.show", has_text="pocket.zip").wait_for()
    assert (shared_folder / "workspace" / "exports" / "pocket.zip").stat().st_size > 1_000_000


def test_a_deleted_version_comes_back_until_the_trash_is_emptied(shared, shared_folder, page):
    workspace = engine.open_workspace(shared_folder / "workspace")
    store = engine.Store(workspace.database)
    base = engine.versions.newest_chat_version(store)
    run = engine.runs.add_run(store, "improve", engine.read_config({}).as_dict(), base["id"])
    reward = engine.versions.add_version(store, "reward", base, run, {"report": {}})
    made = engine.versions.add_version(store, "policy", base, run, {})
    store.update("runs", run, status="finished", result={"reward_model": reward}, model_version_id=made)
    engine.shelf.promote(store, base["id"])
    engine.shelf.delete(store, workspace, reward)
    store.close()
    workspace.model(made).mkdir()
    (workspace.model(made) / "adapter_model.safetensors").write_bytes(b"x" * 2_000_000)
    page.on("dialog", lambda dialog: dialog.accept())
    page.goto(f"{shared}/models")
    mine = page.locator(".version", has_text="round-1")
    mine.locator(".delete").click()
    mine.wait_for(state="detached")
    page.reload()
    page.click(".trash summary")
    page.click(".restore")
    mine.wait_for()
    mine.locator(".delete").click()
    page.locator(".trash", has_text="2.0 MB").wait_for()
    page.click(".empty-trash")
    page.locator(".trash").wait_for(state="hidden")
    assert not (workspace.folder / "trash").exists()
    page.goto(f"{shared}/train")  # the run that made them is still told of
    page.locator(".run-head", has_text="Run 1").wait_for()
