"""Files cut off or garbled: a sentence says which and what to do, and nothing else is lost."""

import json

import pytest
import torch

import engine
from engine.errors import UserError
from engine.methods.reward import RewardModel, load_reward
from engine.models.heads import RewardHead
from engine.models.load import load_base
from engine.models.roles import Roles
from engine.training import checkpoint
from tests.engine.toys import shake

FILES = ("adapter_model.safetensors", "adapter_config.json", "studio.json", "reward_head.safetensors")


@pytest.fixture
def version(tiny_roles, tmp_path):
    """The folder of a reward model."""
    tiny_roles.add("reward", rank=4)
    reward = RewardModel(tiny_roles, [("reward", RewardHead(tiny_roles.width))])
    reward.save(tmp_path / "version", {"kind": "reward"})
    return tmp_path / "version"


def test_a_version_that_does_not_load_leaves_none_of_it_behind(tiny_roles, tmp_path):
    """It is not taken for loaded the next time, when it would answer as the base."""
    for role in ("good", "bad"):
        tiny_roles.add(role, rank=4, seed=1)
        shake(tiny_roles, role)
        tiny_roles.save(role, tmp_path / role, {})
    whole = (tmp_path / "bad" / FILES[0]).read_bytes()
    (tmp_path / "bad" / FILES[0]).write_bytes(whole[:200])
    for before in ([], ["good"]):
        roles = Roles(load_base(str(tiny_roles.base.path)))
        for role in before:
            roles.load(role, tmp_path / role)
        for _ in range(2):
            with pytest.raises(UserError, match="damaged"):
                roles.load("bad", tmp_path / "bad")
            assert roles.names() == before
        (tmp_path / "bad" / FILES[0]).write_bytes(whole)
        roles.load("bad", tmp_path / "bad")
        pairs = zip(roles.parameters("bad"), tiny_roles.parameters("bad"), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
        (tmp_path / "bad" / FILES[0]).write_bytes(whole[:200])


@pytest.mark.parametrize("damage", ["cut", "garbled", "empty", "gone"])
@pytest.mark.parametrize("name", FILES)
def test_a_model_version(version, tiny_folder, name, damage):
    roles = Roles(load_base(str(tiny_folder)))
    load_reward(roles, version)
    roles.remove("reward")
    whole = (version / name).read_bytes()
    if damage == "gone":
        (version / name).unlink()
    else:
        (version / name).write_bytes({"cut": whole[: len(whole) // 2], "garbled": b"\x93" * 400, "empty": b""}[damage])
    with pytest.raises(UserError) as told:
        load_reward(Roles(load_base(str(tiny_folder))), version)
    assert str(version) in str(told.value)
    assert "damaged" in str(told.value) or "is missing" in str(told.value)
    (version / name).write_bytes(whole)
    load_reward(Roles(load_base(str(tiny_folder))), version)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_what_a_run_would_go_on_from(tmp_path, share):
    weight = torch.nn.Parameter(torch.randn(200, 50))
    optimizer = torch.optim.AdamW([weight])
    weight.square().sum().backward()
    optimizer.step()
    checkpoint.save(tmp_path, [optimizer], update=7)
    file = tmp_path / checkpoint.NAME
    whole, learned = file.read_bytes(), weight.detach().clone()
    file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(UserError, match=r"training\.pt is damaged .* Delete that file"):
        checkpoint.load(tmp_path, [optimizer])
    assert torch.equal(weight, learned)
    file.unlink()
    assert checkpoint.load(tmp_path, [optimizer]) == {}  # as it was told: from the stage's beginning
    file.write_bytes(whole)
    assert checkpoint.load(tmp_path, [optimizer])["update"] == 7


def test_a_base_that_is_not_whole_is_not_taken_up(store, tiny_folder):
    weights = tiny_folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match="not whole"):
        engine.shelf.add_base(store, str(tiny_folder))
    assert engine.versions.list_versions(store) == []


@pytest.mark.parametrize(("key", "value"), [("num_hidden_layers", 3), ("intermediate_size", 64)])
def test_weights_that_would_be_made_up(tiny_folder, key, value):
    """Layers that a config names and no file holds are not filled with random numbers."""
    file = tiny_folder / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {key: value}))
    with pytest.raises(UserError, match="not those of its config"):
        load_base(str(tiny_folder))
    file.write_text(json.dumps(config))
    load_base(str(tiny_folder))
