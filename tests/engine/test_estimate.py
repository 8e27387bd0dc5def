"""The estimate of what a run takes: read off a model's files, and scaled from runs before."""

import json

import pytest

import engine
from engine import estimate
from engine.jobs.config import read_config
from engine.store import runs


def test_the_shape_is_the_models_own(pocket_base):
    shape = estimate.shape_of(engine.find_base("pocket"))
    assert shape.parameters == sum(p.numel() for p in pocket_base.model.parameters())
    assert shape.embedding == pocket_base.model.get_input_embeddings().weight.numel()


def test_an_adapter_is_counted_to_the_number(pocket_roles):
    pocket_roles.add("policy", rank=8)
    counted = sum(p.numel() for p in pocket_roles.parameters("policy"))
    assert estimate.shape_of(engine.find_base("pocket")).adapter(8) == counted


def test_memory_follows_what_it_is_made_of():
    shape = estimate.shape_of(engine.find_base("pocket"))
    usual = estimate.memory(shape, read_config({}), "ppo", "float32")
    smaller = estimate.memory(shape, read_config({"ppo": {"micro_batch": 8}}), "ppo", "float32")
    assert smaller["activations"] == usual["activations"] / 4 and smaller["weights"] == usual["weights"]
    assert estimate.memory(shape, read_config({}), "ppo", "nf4")["weights"] < usual["weights"] / 2
    assert estimate.memory(shape, read_config({}), "reward", "float32")["cache"] == 0


def test_an_unknown_model_is_said_to_be_unknown(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "strange"}))
    with pytest.raises(engine.UserError, match="has no hidden_size"):
        estimate.shape_of(tmp_path)


def test_time_is_scaled_from_the_last_run_of_the_kind(store, base_version):
    fingerprint = engine.versions.get_version(store, base_version)["base_fingerprint"]
    config = read_config({"ppo": {"updates": 10}})
    assert estimate.seconds(store, "improve", config, fingerprint, 50) is None
    run = runs.add_run(store, "improve", config.as_dict(), base_version)
    for name, start, end in (("load", 0, 5), ("ppo", 5, 105)):
        store.db.execute("INSERT INTO stages VALUES (?, ?, ?, ?)", (run, name, start, end))
    store.update("runs", run, status="finished")
    assert estimate.seconds(store, "improve", config, fingerprint, 50) == pytest.approx(105)
    twice = read_config({"ppo": {"updates": 20}})
    assert estimate.seconds(store, "improve", twice, fingerprint, 50) == pytest.approx(205)
    assert estimate.seconds(store, "improve", config, "another", 50) is None
