"""The estimate of what a run takes: read off a model's files, and scaled from runs before."""

import json
from dataclasses import replace

import pytest

import engine
from engine import estimate, timing
from engine.feedback import importing
from engine.jobs.config import read_config
from engine.models import precision as precisions
from engine.models.shape import KNOWN, shape_of
from engine.models.shift import AdvantageShift
from engine.store import conversations, feedback, runs


def test_the_shape_is_the_models_own(pocket_base):
    shape = shape_of(engine.find_base("pocket"))
    assert shape.parameters == sum(p.numel() for p in pocket_base.model.parameters())
    assert shape.embedding == pocket_base.model.get_input_embeddings().weight.numel()


def test_an_adapter_is_counted_to_the_number(pocket_roles):
    pocket_roles.add("policy", rank=8)
    counted = sum(p.numel() for p in pocket_roles.parameters("policy"))
    assert shape_of(engine.find_base("pocket")).adapter(8) == counted


def test_memory_follows_what_it_is_made_of():
    shape = shape_of(engine.find_base("pocket"))
    usual = estimate.memory(shape, read_config({"ppo": {"micro_batch": 8}}), "ppo", "float32")
    smaller = estimate.memory(shape, read_config({"ppo": {"micro_batch": 2}}), "ppo", "float32")
    assert smaller["activations"] == usual["activations"] / 4 and smaller["weights"] == usual["weights"]
    assert estimate.memory(shape, read_config({}), "ppo", "nf4")["weights"] < usual["weights"] / 2
    packed = estimate.memory(shape, read_config({"ppo": {"micro_batch": 8}}), "ppo", "nf4", "float32")
    assert packed["activations"] == usual["activations"]  # NF4 is how weights are held, not what is computed in
    assert estimate.memory(shape, read_config({}), "reward", "float32")["cache"] == 0


def test_the_answers_of_a_ranking_share_their_prompt():
    shape = shape_of(engine.find_base("pocket"))

    def activations(stage, prompt, **settings):
        config = read_config({stage: {"batch": 2, **settings}})
        return estimate.memory(shape, config, stage, "float32", prompt=prompt, answer=10)["activations"]

    a_token = activations("sft", 90) / (2 * 100)
    for stage in ("reward", "dpo"):
        assert activations(stage, 90) == pytest.approx(2 * (90 + 4 * 10) * a_token)
        assert activations(stage, 90, micro_batch=1) == pytest.approx(activations(stage, 90) / 2)


def test_the_heads_of_q_learning_and_their_slow_copies_are_counted():
    shape, config = KNOWN["Qwen2.5-0.5B"], read_config({})
    heads = AdvantageShift(shape.width, config.ilql.bottleneck, shape.vocabulary, 1.0)
    parameters = sum(p.numel() for p in heads.parameters())
    told = estimate.memory(shape, config, "ilql", "bf16")
    assert told["heads"] == pytest.approx(2 * 4 * parameters, rel=0.02)
    assert told["optimiser"] > 3 * 4 * parameters


def test_memory_on_a_gpu_is_what_was_measured_there():
    sizes = {"episodes": 16, "minibatches": 2, "max_new_tokens": 256}
    config = read_config({"precision": "nf4", "ppo": sizes})
    told = estimate.memory(KNOWN["Llama-3-8B"], config, "ppo", "nf4", "bf16", prompt=13, answer=256, device="cuda")
    # An H200 (docs/benchmarks.md); there was no reward model beside the policy, and a gated MLP still kept two tensors
    # more of its inner width for the way back.
    more = 2 * 8 * (13 + 256) * 32 * 14_336 * 2
    assert told["total"] - told["adapters"] / 2 + more == pytest.approx(19.87e9, rel=0.05)
    parts = sum(told[name] for name in ("weights", "adapters", "optimiser", "cache", "activations", "logits"))
    assert told["total"] == pytest.approx(parts + estimate.WORKSPACES["cuda"])  # the cache stays while it is trained


def test_an_unknown_model_is_said_to_be_unknown(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "strange"}))
    with pytest.raises(engine.UserError, match="has no hidden_size"):
        shape_of(tmp_path)
    mixture = {"hidden_size": 32, "num_attention_heads": 4, "num_local_experts": 8}
    (tmp_path / "config.json").write_text(json.dumps(mixture))
    with pytest.raises(engine.UserError, match="among experts"):
        shape_of(tmp_path)


def finished(store, base_version, config, seconds):
    """A run of `improve` that took so long, five seconds of it for loading."""
    run = runs.add_run(store, "improve", config.as_dict(), base_version)
    for name, start, end in (("load", 0, 5), ("ppo", 5, seconds)):
        store.db.execute("INSERT INTO stages VALUES (?, ?, ?, ?)", (run, name, start, end))
    store.update("runs", run, status="finished")


def test_time_is_scaled_from_the_run_that_did_the_most_alike(store, base_version):
    fingerprint = engine.versions.get_version(store, base_version)["base_fingerprint"]
    config = read_config({"ppo": {"updates": 10}})
    assert timing.seconds(store, "improve", config, fingerprint, 50) is None
    finished(store, base_version, config, 105)
    assert timing.seconds(store, "improve", config, fingerprint, 50) == pytest.approx(105)
    twice = read_config({"ppo": {"updates": 20}})
    assert timing.seconds(store, "improve", twice, fingerprint, 50) == pytest.approx(205)
    assert timing.seconds(store, "improve", config, "another", 50) is None

    # A trial on two answers came after it: it paid for every start, and tells less of a run like the first.
    finished(store, base_version, read_config({"ppo": {"updates": 1, "episodes": 2}}), 25)
    assert timing.seconds(store, "improve", twice, fingerprint, 50) == pytest.approx(205)


def test_what_learns_from_each_answer_is_told_by_the_answers_that_were_judged(store, base_version, pocket_base):
    """A ranking of four is one example for DPO and four for KTO; a thumb is one for both."""
    shape = shape_of(pocket_base.path)

    def steps(method):
        """So many times the time of one step, less that of comparing, which does not grow."""
        one, some = (
            timing.first_seconds(store, method, read_config({method: {"epochs": n, "min_steps": 0}}), shape, 64)
            for n in (1, 2)
        )
        return some - one

    def judge(rank):
        prompt = conversations.add_prompt(store, "Tell me a story.", "chat")
        rows = [{"text": f"{n}", "tokens": 10, "seed": n, "finish": "stop"} for n in range(4)]
        ids = conversations.add_responses(store, prompt, base_version, {}, rows)
        if rank:
            feedback.add_ranking(store, prompt, [[i] for i in ids])
        else:
            feedback.add_rating(store, ids[0], 5)

    judge(rank=False)
    thumbs = {method: steps(method) for method in ("dpo", "kto", "ilql")}
    for _ in range(100):
        judge(rank=True)
    assert steps("dpo") == pytest.approx(thumbs["dpo"], rel=0.05)
    for method in ("kto", "ilql"):
        assert steps(method) == pytest.approx(4 * thumbs[method], rel=0.05)
    assert round(101 * timing.examples_each(store, read_config({}), "kto")) == 401


def test_an_imported_answer_is_as_long_as_its_letters_say(store, base_version, tmp_path):
    file = tmp_path / "pairs.jsonl"
    file.write_text(json.dumps({"prompt": "Say hi.", "chosen": "b" * 400, "rejected": "c" * 200}))
    importing.import_file(store, file)
    assert timing.lengths(store)[1] == 75
    prompt = conversations.add_prompt(store, "Hello", "chat")
    rows = [{"text": "Hi", "tokens": 30, "seed": n, "finish": "stop"} for n in range(2)]
    conversations.add_responses(store, prompt, base_version, {}, rows)
    assert timing.lengths(store)[1] == (100 + 50 + 30 + 30) // 4


def test_what_is_pretrained_takes_its_time_by_the_token(store, base_version):
    fingerprint = engine.versions.get_version(store, base_version)["base_fingerprint"]
    run = runs.add_run(store, "pretrain", read_config({"pretrain": {"tokens": 1000}}).as_dict(), base_version)
    store.db.execute("INSERT INTO stages VALUES (?, 'pretrain', 5, 65)", (run,))
    store.update("runs", run, status="finished")
    longer = read_config({"pretrain": {"tokens": 5000}})
    assert timing.seconds(store, "pretrain", longer, fingerprint, 0) == pytest.approx(300)


@pytest.mark.parametrize(("free", "precision"), [(400e9, "bf16"), (40e9, "bf16"), (14e9, "nf4")])
def test_what_a_run_leaves_open_is_chosen_for_the_memory_there_is(free, precision):
    shape, stages = KNOWN["Llama-3-8B"], ("reward", "ppo")
    given = read_config({"ppo": {"micro_batch": 0, "episodes": 128, "max_new_tokens": 256}})
    config, fits = estimate.fitted(shape, given, stages, "bf16", free)
    assert fits and config.precision == precision
    for stage in stages:
        assert estimate.memory(shape, config, stage, precision)["total"] <= free
        settings = getattr(config, stage)
        if settings.micro_batch:  # the next larger part would not have fitted
            larger = replace(config, **{stage: replace(settings, micro_batch=2 * settings.micro_batch)})
            assert estimate.memory(shape, larger, stage, precision)["total"] > estimate.SPARE * free
    assert (config.ppo.micro_batch == 0) == (free == 400e9)


def test_a_precision_that_was_set_stays_and_parts_get_smaller_only_where_they_must():
    given = read_config({"precision": "float32", "ppo": {"micro_batch": 8}})
    config, fits = estimate.fitted(KNOWN["Llama-3-8B"], given, ("ppo",), "bf16", 14e9)
    assert not fits and (config.precision, config.ppo.micro_batch) == ("float32", 1)
    config, fits = estimate.fitted(KNOWN["Qwen2.5-0.5B"], given, ("ppo",), "bf16", 14e9)
    assert fits and config == replace(given, recompute="never")


def test_blocks_are_computed_again_where_nothing_else_fits():
    shape, stages = KNOWN["Llama-3-8B"], ("ppo",)
    long = {"episodes": 4, "minibatches": 1, "max_new_tokens": 8192}
    given = read_config({"precision": "nf4", "ppo": long})
    kept = replace(given, recompute="never", ppo=replace(given.ppo, micro_batch=1))
    least = estimate.memory(shape, kept, "ppo", "nf4")["total"]
    free = 0.9 * least / estimate.SPARE
    config, fits = estimate.fitted(shape, given, stages, "bf16", free)
    assert fits and config.recompute == "always"
    config, fits = estimate.fitted(shape, replace(given, recompute="never"), stages, "bf16", free)
    assert not fits and config.recompute == "never"


def test_on_a_cpu_nf4_is_told_the_gaps_that_unpacked_weights_leave_and_no_others():
    def beside(name, given, device="cpu", precision="nf4"):
        told = estimate.memory(KNOWN[name], read_config(given), "dpo", precision, "bf16", device=device)
        held = sum(told[part] for part in ("weights", "adapters", "optimiser", "activations", "logits"))
        return told["total"] - held

    usual = pytest.approx(estimate.WORKSPACES["cpu"])
    unpacked = 2 * (KNOWN["Qwen2.5-0.5B"].parameters - KNOWN["Qwen2.5-0.5B"].embedding)
    assert beside("Qwen2.5-0.5B", {}) == pytest.approx(estimate.WORKSPACES["cpu"] + unpacked)
    assert beside("Qwen2.5-0.5B", {}, precision="bf16") == usual
    assert beside("Llama-3-8B", {}) == usual  # weights so large go back to the system
    assert beside("Qwen2.5-0.5B", {}, "cuda") == pytest.approx(estimate.WORKSPACES["cuda"])
    again = {"recompute": "always"}  # what is freed goes back to the system at once, on a CPU
    assert beside("Qwen2.5-0.5B", again) == pytest.approx(estimate.TRIMMED)
    assert beside("Qwen2.5-0.5B", again, "cuda") == pytest.approx(estimate.WORKSPACES["cuda"])


def test_what_was_packed_leaves_half_of_its_room_in_gaps(pocket_base):
    told = estimate.memory(shape_of(pocket_base.path), read_config({}), "ppo", "float32")
    held = sum(told[part] for part in ("weights", "adapters", "optimiser", "activations", "logits"))
    assert told["packed"] > 0 and told["activations"] > told["packed"] + told["cache"]
    assert told["total"] == pytest.approx(held + estimate.WORKSPACES["cpu"] + told["packed"] / 2)


def test_moments_in_8_bits_are_counted_as_such():
    shape = KNOWN["Llama-3-8B"]
    whole, small = (
        estimate.memory(shape, read_config({"ppo": {"optimizer": kind}}), "ppo", "bf16")["optimiser"]
        for kind in ("adamw", "adamw-8bit")
    )
    assert whole == 12 * shape.adapter(16) and small == pytest.approx(6.04 * shape.adapter(16))


def test_time_is_told_before_the_first_run_from_what_there_is_to_do(store, pocket_base):
    shape = shape_of(pocket_base.path)

    def told(method="improve", feedback=50, **settings):
        return timing.first_seconds(store, method, read_config(settings).settled(feedback), shape, feedback)

    usual, more = told(), told(ppo={"updates": 140})
    assert 20 < usual < 2000  # on any machine that is used
    assert more - usual == pytest.approx(told("ppo", ppo={"updates": 140}) - told("ppo"))
    updates = [told("ppo", ppo={"updates": number}) for number in (60, 120, 180)]
    assert updates[2] - updates[1] == pytest.approx(updates[1] - updates[0])
    assert told(ppo={"epochs": 8}) > 1.3 * usual
    rankings = [told("dpo", number) for number in (200, 400, 800)]
    assert rankings[2] - rankings[1] == pytest.approx(2 * (rankings[1] - rankings[0]), rel=0.01)
    many = {"prompts": 640}  # every policy is compared at the end; a reward model is none
    assert told("ppo", compare=many) - told("ppo") == pytest.approx(told(compare=many) - usual)
    assert told("reward", compare=many) == told("reward")
    assert told("pretrain") is None


def test_a_run_in_half_the_time_is_told_so(store, cache, monkeypatch):
    shape = KNOWN["Qwen2.5-0.5B"]
    # The machine on which the runs below were timed. The one that tests, beside others, may be slow at products alone.
    monkeypatch.setattr(timing, "machine_speed", lambda: 1.6e11)

    def told(**settings):
        config = read_config({"recompute": "never", **settings}).settled(50)
        return timing.first_seconds(store, "ppo", config, shape, 50)

    assert told(precision="bf16") == told(precision="float32")  # nothing is known of either
    precisions.remember(shape, "cpu", {"float32": 0.4, "bf16": 0.2})
    assert told(precision="bf16") == pytest.approx(told(precision="float32") / 2)
    assert told(precision="nf4") == told(precision="bf16")  # which it computes in
    assert 1.5 < told(recompute="always") / told() < 2.2  # Llamas of 512 x 6 and 768 x 8 took 1.9 to 2.1 times as long


def test_blocks_computed_again_are_told_as_one_more_pass_in_memory_that_is_fetched_anew():
    shape, speed = KNOWN["Qwen2.5-0.5B"], 1e11
    kept, short = (timing.Clock(shape, speed, 13, 64, recompute) for recompute in (False, True))
    fetched = 8 * (13 + 64) * shape.layers * shape.kept() * 4 / timing.CLEARED
    more = short.passing(8, train=True) - kept.passing(8, train=True)
    assert more == pytest.approx(kept.passing(8) + fetched)
    assert short.passing(8) == kept.passing(8) and short.answering(8, 64) == kept.answering(8, 64)
