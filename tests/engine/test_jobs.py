"""Runs as processes of their own: real training on the pocket model, stopped, killed, resumed, queued."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

import engine
from engine.jobs import job, launch, recipes
from engine.methods.design import Design, most_telling_answers
from engine.methods.reward import RewardModel
from engine.models.chat import encode_prompt
from engine.models.heads import RewardHead
from engine.models.load import stop_ids
from engine.pocket import demo
from engine.store import comparisons, conversations, feedback, models, runs
from engine.training.context import Silent, Stopped
from engine.training.passes import Encoded
from tests.conftest import tiny_model, tiny_tokenizer
from tests.engine.toys import StopsAt

SHORT = [
    "reward.epochs=1",
    "reward.min_steps=0",
    "ppo.updates=2",
    "ppo.episodes=4",
    "compare.prompts=4",
    "ppo.max_new_tokens=24",
]
LONG = [
    "reward.epochs=1",
    "reward.min_steps=0",
    "ppo.updates=400",
    "ppo.episodes=8",
    "compare.prompts=4",
    "ppo.max_new_tokens=24",
]


@pytest.fixture
def ranked(store, base_version):
    """Feedback on so many prompts that some are kept for measuring: polite answers above impolite ones."""
    for i in range(recipes.MEASURED_FROM):
        prompt = conversations.add_prompt(store, f"What is {i} plus {i}?", "chat")
        texts = (f"How nice of you! It is {2 * i}.", f"{2 * i}, dummy.", f"Ugh. {2 * i}.")
        rows = [{"text": t, "tokens": 9, "seed": 0, "finish": "stop"} for t in texts]
        kind, rude, ugh = conversations.add_responses(store, prompt, base_version, {}, rows)
        feedback.add_ranking(store, prompt, [[kind], [rude, ugh]])
    return base_version


@pytest.fixture(scope="module")
def serving(tmp_path_factory):
    """The worker that answers on the page: one for all tests, as starting it takes seconds."""
    client = engine.ServingClient(tmp_path_factory.mktemp("serving") / "serving.log")
    yield client
    client.close()


def until(workspace, store, run_id, condition, seconds=120):
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        launch.refresh(workspace, store)
        run = runs.get_run(store, run_id)
        if condition(run):
            return run
        time.sleep(0.1)
    raise AssertionError(f"run {run_id} is {run['status']} at {run['stage']} {run['done']}/{run['total']}")


def ended(run):
    return run["status"] in runs.ENDED


def practising(run):
    return ended(run) or (run["stage"] == "ppo" and run["done"] >= 11)


def test_improve_trains_compares_and_records_what_it_did(workspace, store, ranked):
    # A reference surer of itself than practice is would be a little away from the policy from the first update on.
    config = engine.parse_settings([*SHORT, "ppo.reference_temperature=1"])
    run_id = launch.start(workspace, store, "improve", config, ranked)
    run = until(workspace, store, run_id, ended)
    assert run["status"] == "finished", launch.log_tail(workspace, run_id)

    policy = models.get_version(store, run["model_version_id"])
    assert policy["kind"] == "policy"
    assert policy["parent_id"] == ranked
    assert policy["run_id"] == run_id
    assert models.newest_chat_version(store)["id"] == policy["id"]
    assert (workspace.model(policy["id"]) / "adapter_model.safetensors").is_file()
    assert [v["kind"] for v in models.list_versions(store)] == ["base", "reward", "policy"]
    until(workspace, store, run_id, lambda r: not launch.alive(r), 10)
    assert not (workspace.run(run_id) / "checkpoints").exists()  # there is nothing left to go on from

    metrics = {(m["stage"], m["name"]) for m in runs.metrics_of(store, run_id)}
    assert {("reward", "accuracy"), ("ppo", "reward"), ("ppo", "kl"), ("reward", "held_out_accuracy")} <= metrics
    assert runs.samples_of(store, run_id)
    assert [s["name"] for s in runs.stages_of(store, run_id)] == ["load", "reward", "ppo", "compare"]
    used = store.rows("SELECT * FROM run_feedback WHERE run_id = ?", run_id)
    assert {u["feedback_id"] for u in used} == {f["id"] for f in feedback.current(store)}
    assert {u["split"] for u in used} == {"train", "held_out"}
    compared = comparisons.list_comparisons(store)[0]
    assert compared["result"]["prompts"] == len(comparisons.items_of(store, compared["id"])) == 4

    # The next round starts from this version, and its reference is what the first began with.
    second = launch.start(workspace, store, "improve", config, policy["id"])
    assert until(workspace, store, second, ended)["status"] == "finished", launch.log_tail(workspace, second)
    kl = [next(m["value"] for m in runs.metrics_of(store, r) if m["name"] == "kl") for r in (run_id, second)]
    assert abs(kl[0]) < 1e-4 < 1e-3 < abs(kl[1])


def test_a_run_is_known_by_its_process_whatever_the_clock_says(monkeypatch):
    wait = [sys.executable, "-c", "import time; time.sleep(60)"]
    own, handed_on = subprocess.Popen([*wait, launch.CHILD, "folder", "7"]), subprocess.Popen(wait)
    try:
        assert launch.alive({"id": 7, "pid": own.pid})  # from its first moment on, when it has no command line yet
        while not all(psutil.Process(process.pid).cmdline() for process in (own, handed_on)):
            time.sleep(0.01)
        assert launch.alive({"id": 7, "pid": own.pid})
        with monkeypatch.context() as clock:
            clock.setattr(psutil.Process, "create_time", lambda self: 0.0)
            assert launch.alive({"id": 7, "pid": own.pid})
        assert not launch.alive({"id": 8, "pid": own.pid})
        assert not launch.alive({"id": 7, "pid": handed_on.pid})
        assert not launch.alive({"id": 7, "pid": None})
    finally:
        own.kill()
        handed_on.kill()
    handed_on.wait()
    while psutil.Process(own.pid).status() != psutil.STATUS_ZOMBIE:  # killed, it takes a moment to end
        time.sleep(0.01)
    assert not launch.alive({"id": 7, "pid": own.pid})
    own.wait()
    assert not launch.alive({"id": 7, "pid": own.pid})


def test_a_run_pauses_goes_on_and_stops_with_what_it_has_learned(workspace, store, ranked):
    run_id = launch.start(workspace, store, "improve", engine.parse_settings(LONG), ranked)
    until(workspace, store, run_id, practising)
    launch.pause(workspace, store, run_id)
    run = until(workspace, store, run_id, ended, 30)
    assert run["status"] == "paused"
    assert not launch.alive(run) or until(workspace, store, run_id, lambda r: not launch.alive(r), 10)
    assert not models.list_versions(store, "policy")  # nothing is made of it yet
    with pytest.raises(engine.UserError, match="is paused"):
        launch.stop(workspace, store, run_id)

    for _ in ("after a pause", "after a stop"):
        launch.resume(workspace, store, run_id)
        run = until(workspace, store, run_id, lambda r: ended(r) or (r["stage"] == "ppo" and r["done"] > 0))
        assert run["status"] == "running"
        assert run["done"] >= 10
        assert len(models.list_versions(store, "reward")) == 1  # nor was the reward model trained again
        launch.stop(workspace, store, run_id)
        run = until(workspace, store, run_id, ended, 30)
        assert (run["status"], run["reason"]) == ("stopped", "Stopped on request.")
        assert models.get_version(store, run["model_version_id"])["kind"] == "policy"
    with pytest.raises(engine.UserError, match="already ended"):
        launch.pause(workspace, store, run_id)


def test_a_run_that_goes_on_takes_up_what_it_had_made(workspace, store, ranked):
    run_id = runs.add_run(store, "improve", engine.parse_settings(SHORT), ranked)
    with pytest.raises(Stopped):
        recipes.run_improve(job.Job(workspace, store, runs.get_run(store, run_id), StopsAt(0, "compare")))
    made = {kind: models.list_versions(store, kind)[0]["id"] for kind in ("reward", "policy")}
    assert not comparisons.list_comparisons(store)

    models.promote(store, ranked)
    engine.shelf.delete(store, workspace, made["reward"])  # what is there no more is made again
    recipes.run_improve(job.Job(workspace, store, runs.get_run(store, run_id), Silent()))
    assert [v["id"] for v in models.list_versions(store, "policy")] == [made["policy"]]
    assert [v["name"] for v in models.list_versions(store, "reward")] == ["reward-2"]
    assert comparisons.list_comparisons(store)[0]["after_id"] == made["policy"]


def test_a_killed_run_says_so_and_the_next_in_the_queue_starts(workspace, store, ranked):
    config = engine.parse_settings(LONG)
    first = launch.start(workspace, store, "improve", config, ranked)
    until(workspace, store, first, lambda r: r["status"] == "running")
    second = launch.start(workspace, store, "reward", engine.parse_settings(SHORT), ranked)
    time.sleep(2)
    assert runs.get_run(store, second)["status"] == "queued"  # one at a time on a device
    with pytest.raises(engine.UserError, match="only a paused, stopped or failed"):
        launch.resume(workspace, store, first)
    os.kill(runs.get_run(store, first)["pid"], signal.SIGKILL)
    run = until(workspace, store, first, ended, 20)
    assert run["status"] == "failed"
    assert "ended without a word" in run["reason"]
    assert until(workspace, store, second, ended)["status"] == "finished"


FAST = {
    "sft": ["sft.epochs=1", "sft.min_steps=1"],
    "dpo": ["dpo.epochs=1", "dpo.min_steps=1"],
    "kto": ["kto.epochs=1", "kto.min_steps=1"],
    "ilql": ["ilql.epochs=1", "ilql.min_steps=1"],
    "reinforce": ["updates=2", "episodes=8", "max_new_tokens=24"],
    "ppo": ["updates=2", "episodes=8", "max_new_tokens=24"],
    "pretrain": ["tokens=6000", "batch_tokens=1000", "max_length=64"],
}


@pytest.mark.parametrize("method", FAST)
def test_every_method_ends_in_a_version_that_is_compared_and_chatted_with(
    method, workspace, store, ranked, serving, tmp_path
):
    settings = [*FAST[method], "compare.prompts=4"]
    if method in ("ppo", "reinforce"):
        (tmp_path / "rewards.py").write_text("def short(prompt, response):\n    return -len(response)\n")
        settings.append(f"reward_function={tmp_path / 'rewards.py'}:short")
    if method == "pretrain":
        (tmp_path / "text.txt").write_text("\n\n".join(f"The number after {i} is {i + 1}." for i in range(400)))
        settings.append(f"text={tmp_path / 'text.txt'}")
    run_id = launch.start(workspace, store, method, engine.parse_settings(settings, method), ranked)
    run = until(workspace, store, run_id, ended)
    assert run["status"] == "finished", launch.log_tail(workspace, run_id)
    version = models.get_version(store, run["model_version_id"])
    assert (version["kind"], version["parent_id"], version["facts"]["method"]) == ("policy", ranked, method)
    assert models.newest_chat_version(store)["id"] == version["id"]
    assert comparisons.list_comparisons(store)[0]["result"]["prompts"] == 4
    assert {m["stage"] for m in runs.metrics_of(store, run_id)} == {method}
    if method == "pretrain":
        assert version["facts"]["perplexity"] < version["facts"]["perplexity_before"]
    # The page's own worker loads it and answers.
    events = serving.generate(
        serving.reserve(), base=version["base"], adapter=str(workspace.model(version["id"])),
        messages=[{"role": "user", "content": "Hello"}], seeds=[1], sampling={"max_new_tokens": 8},
    )  # fmt: skip
    assert list(events)[-1]["event"] == "done"


def test_the_serving_worker_keeps_the_answers_that_tell_most_beside_those_before(workspace, pocket_roles, serving):
    request = {"base": str(engine.find_base("pocket")), "adapter": None, "seeds": list(range(8)),
               "messages": [{"role": "user", "content": "Hello"}], "sampling": {"max_new_tokens": 80}}  # fmt: skip
    every, kept, again = (
        list(serving.generate(serving.reserve(), **request, keep=keep))[-1]["answers"] for keep in (0, 3, 3)
    )
    prompt = encode_prompt(pocket_roles.tokenizer, request["messages"])
    stop = stop_ids(pocket_roles.base)
    answers = [Encoded(prompt, [*pocket_roles.tokenizer(a["text"])["input_ids"], *stop]) for a in every]
    assert len(every) == 8 and all(a["finish"] == "stop" for a in every)
    design = Design()
    for shown in (kept, again):
        assert shown == [every[i] for i in most_telling_answers(design, pocket_roles, answers, 3)] != every[:3]
    assert kept != again


def test_the_serving_worker_scores_as_the_reward_model_does(workspace, pocket_roles, serving):
    pocket_roles.add("reward", rank=4)
    head = RewardHead(pocket_roles.width, gates=2)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
    reward = RewardModel(pocket_roles, [("reward", head)], mean=0.5, std=2.0)
    reward.save(workspace.model(7), {})
    texts = [["It is Paris.", "Go away."], ["Four."]]
    groups = [[{"prompt": "And?", "text": text, "finished": True} for text in group] for group in texts]
    expected = reward.score_texts([([{"role": "user", "content": "And?"}], t, True) for g in texts for t in g])
    found = serving.scores(str(engine.find_base("pocket")), str(workspace.model(7)), groups)
    assert [len(group) for group in found] == [2, 1]
    assert [score for group in found for score in group] == pytest.approx(expected.tolist(), abs=1e-4)


def test_answers_are_scored_by_the_newest_reward_model_or_the_one_that_is_named(
    workspace, store, base_version, pocket_roles
):
    base = models.get_version(store, base_version)

    def scorer(**settings):
        run = runs.add_run(store, "ppo", engine.read_config(settings).as_dict(), base_version)
        begun = job.Job(workspace, store, runs.get_run(store, run), Silent())
        return recipes.find_scorer(begun, pocket_roles, begun.config.ppo)

    with pytest.raises(engine.UserError, match="no reward model yet"):
        scorer()
    pocket_roles.add("reward", rank=4)
    made = [models.add_version(store, "reward", base, None, {}) for _ in range(2)]
    for version in made:
        head = RewardHead(pocket_roles.width)
        RewardModel(pocket_roles, [("reward", head)], mean=float(version)).save(workspace.model(version), {})
    assert scorer().mean == made[1]
    assert scorer(reward_model=made[0], ppo={"pessimism": 0.5}).mean == made[0]
    assert scorer(ppo={"pessimism": 0.5}).pessimism == 0.5
    with pytest.raises(engine.UserError, match="pocket is no reward model"):
        scorer(reward_model=base_version)


def test_two_versions_are_compared_by_a_run(workspace, store, ranked, base_version):
    settings = [*SHORT, "compare.prompts=3", f"compare.after={base_version}"]
    run_id = launch.start(workspace, store, "compare", engine.parse_settings(settings), base_version)
    run = until(workspace, store, run_id, ended)
    assert run["status"] == "finished", launch.log_tail(workspace, run_id)
    found = comparisons.list_comparisons(store)[0]
    assert (found["before_id"], found["after_id"], found["result"]["prompts"]) == (base_version, base_version, 3)
    assert all(item["before"] == item["after"] for item in comparisons.items_of(store, found["id"]))


def test_pretraining_makes_a_base_of_its_own(workspace, store, ranked, tmp_path):
    (tmp_path / "text.txt").write_text("\n\n".join(f"The number after {i} is {i + 1}." for i in range(400)))
    settings = [
        f"text={tmp_path / 'text.txt'}", "start=new", "width=32", "layers=1", "vocabulary=300", "tokens=20000",
        "batch_tokens=1000", "max_length=64",
    ]  # fmt: skip
    run_id = launch.start(workspace, store, "pretrain", engine.parse_settings(settings, "pretrain"), ranked)
    run = until(workspace, store, run_id, ended)
    assert run["status"] == "finished", launch.log_tail(workspace, run_id)
    version = models.get_version(store, run["model_version_id"])
    assert version["kind"] == "base"
    assert version["facts"]["perplexity"] < 0.5 * version["facts"]["perplexity_before"]
    assert version["base_fingerprint"] == engine.fingerprint(engine.find_base(version["base"]))


def test_a_base_that_changed_is_refused_with_the_reason(workspace, store, ranked):
    store.update("model_versions", ranked, base_fingerprint="0" * 16)
    run_id = launch.start(workspace, store, "reward", engine.parse_settings(SHORT), ranked)
    run = until(workspace, store, run_id, ended)
    assert run["status"] == "failed"
    assert "has changed" in run["reason"]


def test_a_run_that_breaks_down_says_so_and_makes_no_version_of_it(workspace, store, ranked):
    settings = [*SHORT, "ppo.updates=9", "ppo.learning_rate=1e4"]
    run_id = launch.start(workspace, store, "improve", engine.parse_settings(settings), ranked)
    run = until(workspace, store, run_id, ended)
    assert run["status"] == "failed"
    assert "lower learning rate" in run["reason"]
    assert [v["kind"] for v in models.list_versions(store)] == ["base", "reward"]
    assert all(m["value"] is not None for m in runs.metrics_of(store, run_id))


def test_a_run_that_goes_on_keeps_the_precision_it_began_with(workspace, store, ranked, monkeypatch):
    run_id = runs.add_run(store, "improve", engine.parse_settings(SHORT), ranked)
    begun = job.Job(workspace, store, runs.get_run(store, run_id), Silent())
    roles, _ = job.load_roles(begun)
    assert begun.run["result"]["precision"] == roles.base.precision == "float32"
    monkeypatch.setattr(job, "free_memory", lambda device: 1.0)  # now there would be room for NF4 at most
    fresh = job.Job(workspace, store, {**begun.run, "result": {}}, Silent())
    job.fit_to_machine(fresh)
    assert fresh.config.precision == "nf4"
    again = job.Job(workspace, store, runs.get_run(store, run_id), Silent())
    assert job.load_roles(again)[0].base.precision == "float32"


def test_settings_are_checked_before_anything_starts():
    assert engine.parse_settings(["updates=7"], "ppo")["ppo"]["updates"] == 7
    assert engine.parse_settings(["seed=3"])["reward"]["seed"] == 3
    for wrong, message in [
        ("nonsense=1", "no setting"),
        ("ppo.updates=many", "ppo.updates"),
        ("ppo.updates=-1", "greater than"),
        ("ppo.updates", "name=value"),
        ("precision=fp16", "'float16' or 'nf4'"),
    ]:
        with pytest.raises(engine.UserError, match=message):
            engine.parse_settings([wrong])


def test_more_feedback_is_worth_more_updates(workspace, store, base_version, monkeypatch):
    usual = engine.read_config({})
    updates = {n: usual.settled(n).ppo.updates for n in (0, 6, 50, 75, 100, 400)}
    assert updates == {0: 60, 6: 60, 50: 60, 75: 90, 100: 120, 400: 120}
    assert engine.read_config({"ppo": {"updates": 7}}).settled(400).ppo.updates == 7
    assert engine.read_config({"reward_function": "f.py:g"}).settled(400).ppo.updates == 60

    monkeypatch.setattr(engine.launcher, "_spawn", lambda *_: None)
    monkeypatch.setattr(engine.feedback_log, "counts", lambda _: {"ranking": 60, "edit": 15, "rating": 40})
    run = engine.launcher.start(workspace, store, "improve", engine.parse_settings([]), base_version)
    kept = runs.get_run(store, run)["config"]
    assert (kept["ppo"]["updates"], kept["reinforce"]["updates"]) == (90, 90)


def test_a_run_keeps_the_learning_rates_that_it_takes(workspace, store, tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "_spawn", lambda *_: None)
    experts = Qwen3MoeConfig(
        vocab_size=300, hidden_size=16, intermediate_size=16, moe_intermediate_size=16, num_hidden_layers=8,
        num_attention_heads=2, num_key_value_heads=1, head_dim=8, num_experts=2, num_experts_per_tok=1,
    )  # fmt: skip
    Qwen3MoeForCausalLM(experts).save_pretrained(tmp_path / "deep")
    tiny_tokenizer().save_pretrained(tmp_path / "deep")
    deep = engine.shelf.add_base(store, str(tmp_path / "deep"))
    run = engine.launcher.start(workspace, store, "improve", engine.parse_settings(["dpo.learning_rate=0.1"]), deep)
    kept = runs.get_run(store, run)["config"]
    assert (kept["ppo"]["learning_rate"], kept["reward"]["learning_rate"]) == (2e-4, 2.5e-4), "half of four blocks'"
    assert kept["dpo"]["learning_rate"] == 0.1, "as it was set"


def test_a_model_practises_at_its_own_temperature(workspace, store, base_version, tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "_spawn", lambda *_: None)
    tiny_model().save_pretrained(tmp_path / "other")
    tiny_tokenizer().save_pretrained(tmp_path / "other")
    (tmp_path / "other" / "generation_config.json").write_text('{"temperature": 0.6, "top_p": 0.9}')
    other = engine.shelf.add_base(store, str(tmp_path / "other"))

    def temperatures(base, settings):
        run = launch.start(workspace, store, "improve", engine.parse_settings(settings), base)
        kept = engine.read_config(runs.get_run(store, run)["config"])
        return kept.ppo.sampling.temperature, kept.reinforce.sampling.temperature, kept.sampling.temperature

    assert temperatures(other, []) == (0.6, 0.6, 0.6)
    assert temperatures(other, ["ppo.temperature=0.9", "compare.temperature=0.8"]) == (0.9, 0.6, 0.8)
    assert temperatures(base_version, []) == (1, 1, 1)


def test_practice_allows_answers_as_long_as_the_judged_ones(workspace, store, base_version, monkeypatch):
    monkeypatch.setattr(launch, "_spawn", lambda *_: None)

    def longest(settings):
        run = launch.start(workspace, store, "improve", engine.parse_settings(settings), base_version)
        kept = engine.read_config(runs.get_run(store, run)["config"])
        return kept.ppo.max_new_tokens, kept.sampling.max_new_tokens

    def answered(tokens):
        prompt = conversations.add_prompt(store, "Tell me a story.", "chat")
        rows = [{"text": f"{n} words", "tokens": n, "seed": 0, "finish": "length"} for n in tokens]
        return prompt, conversations.add_responses(store, prompt, base_version, {}, rows)

    assert longest([]) == (96, 96)
    prompt, (long, short) = answered((180, 30))
    answered((220, 20))  # of which nothing is said
    assert longest([]) == (96, 96)
    feedback.add_ranking(store, prompt, [[short], [long]])
    assert longest([]) == (180, 180)
    assert longest(["ppo.max_new_tokens=40"]) == (40, 40)


def test_a_demo_that_is_broken_off_takes_its_run_along(workspace, store, ranked):
    def say(line):
        if line.startswith("reward"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        demo._run(workspace, store, "improve", engine.parse_settings(["ppo.updates=500"]), ranked, say)
    (run,) = runs.list_runs(store)
    assert run["status"] == "stopped" and not launch.alive(run)
