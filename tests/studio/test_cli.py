"""The command line: what it prints, and how a person's mistake ends."""

import json
import os
import signal
import socket
import subprocess
import sys

import click
import psutil
import pytest
from click.testing import CliRunner

import engine
from engine.pocket.demo import RUNS
from studio.cli import main
from studio.commands.demo import demo
from studio.commands.following import follow


def run(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def last_json(result):
    return json.loads(result.stdout.strip().splitlines()[-1])


def mistake(result):
    """The one line that a mistake ends with."""
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("rlhf-studio: ")]
    assert len(lines) == 1, result.stderr
    return lines[0]


@pytest.fixture
def empty(tmp_path):
    return tmp_path / "workspace"


def test_a_wrong_model_path(empty):
    line = mistake(run("chat", "-p", "Hello", "-m", "/no/such/model", "--workspace", empty))
    assert "/no/such/model" in line
    assert "pocket" in line


def test_an_empty_question_and_an_answer_without_room(empty):
    assert "no question" in mistake(run("chat", "-p", " ", "--workspace", empty))
    assert "allow fewer" in mistake(run("chat", "-p", "Hi", "--max-new-tokens", 5000, "--workspace", empty))


def test_settings_shows_what_can_be_set():
    shown = run("settings").stdout
    assert all(f"{name} " in shown for name in ("precision", "ppo.updates", "reward.epochs", "compare.prompts"))
    assert {one["name"] for one in last_json(run("settings", "ppo", "--json"))["settings"]} >= {"ppo.lam", "ppo.clip"}
    assert "stage" in mistake(run("settings", "everything"))


def test_a_folder_that_holds_no_model(empty, tmp_path):
    (tmp_path / "not-a-model").mkdir()
    assert "config.json" in mistake(run("chat", "-p", "Hi", "-m", tmp_path / "not-a-model", "--workspace", empty))


@pytest.mark.parametrize("method", ["reward", "improve"])
def test_training_without_feedback(empty, method):
    assert "no feedback" in mistake(run("train", method, "--workspace", empty))


def test_ppo_without_a_reward_model(empty):
    result = run("train", "ppo", "--workspace", empty)
    assert "no reward model" in mistake(result)


def test_an_unknown_method_setting_run_or_version(empty):
    assert "frobnicate" in mistake(run("train", "frobnicate", "--workspace", empty))
    assert "no setting" in mistake(run("train", "reward", "--set", "speed=9", "--workspace", empty))
    assert "ppo.updates?" in mistake(run("train", "ppo", "--set", "updats=9", "--workspace", empty))
    assert "no run" in mistake(run("runs", "show", "12", "--workspace", empty))
    assert "no prompt set" in mistake(run("compare", "pocket", "pocket", "--prompts", "nope", "--workspace", empty))


def test_a_workspace_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    line = mistake(run("runs", "list", "--workspace", tmp_path / "file" / "workspace"))
    assert "cannot be written to" in line
    assert "--workspace" in line


def test_a_database_of_something_else(empty):
    empty.mkdir()
    (empty / "studio.db").write_text("no database" * 100)
    assert "does not open" in mistake(run("runs", "list", "--workspace", empty))


def test_an_address_that_there_is_not(empty):
    assert "--host" in mistake(run("--workspace", empty, "--host", "nowhere.invalid", "--no-browser"))
    assert run("--workspace", empty, "--port", "70000", "--no-browser").exit_code == 2


def test_a_port_in_use(empty):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = mistake(run("--workspace", empty, "--port", port, "--no-browser"))
    assert str(port) in line
    assert "--port" in line


def test_chat_answers_and_the_same_seed_answers_the_same(empty):
    ask = ("chat", "-p", "What is the capital of France?", "-k", "3", "--seed", "5", "--json", "--workspace", empty)
    first, second = last_json(run(*ask)), last_json(run(*ask))
    assert first == second
    assert first["model"] == "pocket"
    assert [set(r) for r in first["responses"]] == [{"text", "tokens", "seed", "finish"}] * 3
    assert all(r["text"] for r in first["responses"])


def test_doctor_and_lists_speak_the_contract(empty, cache):
    found = last_json(run("doctor", "--json", "--workspace", empty))
    assert not (empty / "studio.db").exists()  # it tells what is wrong where the store cannot be opened too
    assert {"device", "memory", "precision", "fits", "problems"} <= set(found)
    assert found["problems"] == []
    tried = found["tried"]["seconds"]  # a block in each precision, here
    assert {found["precision"], found["precision_small"]} <= set(tried) and min(tried.values()) > 0
    assert last_json(run("runs", "list", "--json", "--workspace", empty)) == {"runs": []}
    assert "models" in last_json(run("models", "list", "--json", "--workspace", empty))


def test_train_and_compare_speak_the_contract(workspace, store, base_version):
    for i in range(6):
        prompt = engine.conversations.add_prompt(store, f"Tell me about {i}.", "chat")
        rows = [{"text": t, "tokens": 2, "seed": 0, "finish": "stop"} for t in ("How lovely!", "Ugh.")]
        good, bad = engine.conversations.add_responses(store, prompt, base_version, {}, rows)
        engine.feedback_log.add_ranking(store, prompt, [[good], [bad]])
    folder = ("--workspace", workspace.folder)
    short = [part for s in ("updates=1", "episodes=4", "max_new_tokens=16") for part in ("--set", f"ppo.{s}")]
    reward = last_json(run("train", "reward", "--set", "epochs=1", "--json", *folder))
    assert {"run", "method", "status", "model", "seconds", "metrics"} <= set(reward)
    assert (reward["method"], reward["status"]) == ("reward", "finished")
    ppo = last_json(run("train", "ppo", *short, "--json", *folder))
    assert ppo["status"] == "finished"
    compared = last_json(run("compare", "pocket", "round-1", "--set", "compare.prompts=4", "--json", *folder))
    assert {"before", "after", "prompts", "win_rate", "win_rate_low", "win_rate_high", "kl"} <= set(compared)
    assert (compared["before"], compared["after"], compared["prompts"]) == ("pocket", "round-1", 4)
    listed = last_json(run("runs", "list", "--json", *folder))["runs"]
    assert [r["method"] for r in listed] == ["ppo", "reward"]
    last_json(run("models", "promote", "pocket", "--json", *folder))
    thrown = last_json(run("models", "delete", "round-1", "--json", *folder))
    assert last_json(run("models", "restore", "round-1", "--json", *folder))["id"] == thrown["id"]
    assert run("models", "restore", "round-1", *folder).exit_code == 2
    shown = last_json(run("runs", "show", reward["run"], "--json", *folder))
    assert shown["config"]["reward"]["epochs"] == 1
    words = run("runs", "show", reward["run"], *folder).stdout
    assert "reward-1: a reward model, from 6 rankings." in words
    words = run("runs", "show", ppo["run"], *folder).stdout
    assert "round-1: a version of pocket." in words and "after wins" in words
    for name in ("round-1", "reward-1"):
        last_json(run("models", "delete", name, "--json", *folder))
    assert run("runs", "show", reward["run"], *folder).exit_code == 0
    words = run("runs", "show", ppo["run"], *folder).stdout
    assert "round-1: a version of pocket, deleted since." in words and "rlhf-studio chat" not in words
    assert last_json(run("runs", "log", reward["run"], "--json", *folder))["log"]


def test_a_run_goes_on_when_the_one_who_watches_it_leaves(workspace, store, base_version, monkeypatch, capsys):
    run_id = engine.runs.add_run(store, "ppo", {}, base_version)

    def leave(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr("studio.commands.following.time.sleep", leave)
    with click.Context(click.Command("train")), pytest.raises(click.exceptions.Exit) as left:
        follow(workspace, store, run_id)
    assert left.value.exit_code == 130
    assert f"rlhf-studio runs stop {run_id}" in capsys.readouterr().err
    assert engine.runs.get_run(store, run_id)["status"] == "queued"


def test_the_demo_offers_every_method_that_it_knows():
    (option,) = [o for o in demo.params if o.name == "method"]
    assert list(option.type.choices) == list(RUNS)


def test_a_demo_whose_terminal_is_closed_takes_its_run_and_its_folder_along(tmp_path):
    command = [sys.executable, "-m", "studio.cli", "demo", "--labels", "2", "--set", "threads=1"]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(tmp_path)}
    ) as demo:
        while not demo.stderr.readline().startswith("reward"):  # its run has begun
            assert demo.poll() is None
        runs = psutil.Process(demo.pid).children(recursive=True)
        demo.send_signal(signal.SIGHUP)
        assert demo.wait(40) == 1
    assert runs
    psutil.wait_procs(runs, 5)
    assert not any(run.is_running() for run in runs)
    assert not list(tmp_path.glob("rlhf-studio-demo-*"))


def test_import_speaks_the_contract_and_says_what_it_could_not_read(empty, tmp_path):
    file = tmp_path / "preferences.jsonl"
    file.write_text(
        '{"prompt": "Q", "chosen": "A", "rejected": "B"}\n{"prompt": "Q", "chosen": "A", "rejected": "A"}\n'
    )
    found = last_json(run("import", file, "--json", "--workspace", empty))
    assert found == {
        "format": "trl", "imported": 1, "duplicates": 0, "refused": 1,
        "errors": [{"line": 2, "reason": "chosen and rejected are the same"}],
    }  # fmt: skip
    again = run("import", file, "--workspace", empty)
    assert "0 imported as trl, 1 were there already" in again.stdout
    assert "record 2: chosen and rejected are the same" in again.stdout
    assert "cannot be read" in mistake(run("import", tmp_path / "nowhere.json", "--workspace", empty))


def test_a_reward_function_in_place_of_a_reward_model(empty, tmp_path):
    (tmp_path / "rewards.py").write_text("def short(prompt, response):\n    return -len(response.split())\n")
    place = f"{tmp_path / 'rewards.py'}:short"
    short = [p for s in ("updates=1", "episodes=8", "max_new_tokens=16", "compare.prompts=4") for p in ("--set", s)]
    result = last_json(run("train", "reinforce", "--reward-function", place, *short, "--json", "--workspace", empty))
    assert (result["method"], result["status"]) == ("reinforce", "finished")
    assert result["metrics"]["reinforce/reward"] < 0
    assert "no reward function" in mistake(run("train", "ppo", "--reward-function", "x.py", "--workspace", empty))
    assert "ppo and reinforce" in mistake(run("train", "dpo", "--reward-function", place, "--workspace", empty))
    missing = run("train", "ppo", "--reward-function", f"{tmp_path / 'rewards.py'}:long", "--workspace", empty)
    assert "no function long" in mistake(missing)


def test_the_studio_never_loads_torch():
    code = (
        "import sys, studio.cli, studio.app, studio.pages.chat, studio.pages.train, studio.pages.compare\n"
        "import tempfile, engine\n"
        "from studio.session import Session\n"
        "session = Session(engine.open_workspace(tempfile.mkdtemp()))\n"
        "studio.app.application(session, '127.0.0.1', 7860)\n"
        "heavy = {'torch', 'transformers', 'peft', 'bitsandbytes'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
