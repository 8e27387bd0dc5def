"""A policy that begins with what DPO learns: from where DPO ends, taken up again, and only where it is asked for."""

import pytest
import torch
from safetensors.torch import load_file

import engine
from engine.estimate import stages_of
from engine.jobs import job, presets, recipes
from engine.store import conversations, feedback, runs
from engine.training.context import Silent, Stopped
from tests.engine.toys import StopsAt

SHORT = [
    "reward.epochs=1", "reward.min_steps=0", "reward.held_out=0", "dpo.epochs=1", "dpo.min_steps=8",
    "ppo.updates=3", "ppo.episodes=4", "ppo.max_new_tokens=16", "compare.prompts=2",
]  # fmt: skip
WARM = [*SHORT, "ppo.warm_start=true"]


@pytest.fixture
def answered(store, base_version):
    """The base version, and of four questions the ids of two answers each, the polite one first."""
    found = []
    for i in range(4):
        prompt = conversations.add_prompt(store, f"What is {i} plus {i}?", "chat")
        rows = [
            {"text": t, "tokens": 9, "seed": 0, "finish": "stop"} for t in (f"Gladly: {2 * i}.", f"{2 * i}, dummy.")
        ]
        found.append((prompt, conversations.add_responses(store, prompt, base_version, {}, rows)))
    return base_version, found


@pytest.fixture
def ranked(store, answered):
    for prompt, (kind, rude) in answered[1]:
        feedback.add_ranking(store, prompt, [[kind], [rude]])
    return answered[0]


class Listening(Silent):
    """Hears what stages there were."""

    def __init__(self):
        self.stages = []

    def stage(self, name, done, total):
        if name not in self.stages:
            self.stages.append(name)


def run(workspace, store, version, method, settings, context=None):
    """(the run's id, what was heard of it)."""
    heard = context or Listening()
    run_id = runs.add_run(store, method, engine.parse_settings(settings, method), version)
    recipes.RECIPES[method](job.Job(workspace, store, runs.get_run(store, run_id), heard))
    return run_id, heard


def weights(workspace, store, run_id):
    folder = workspace.model(runs.get_run(store, run_id)["model_version_id"])
    return torch.cat([v.flatten() for v in load_file(folder / "adapter_model.safetensors").values()])


def test_ppo_begins_where_dpo_ends_on_the_same_rankings(workspace, store, ranked):
    direct, _ = run(workspace, store, ranked, "dpo", WARM)
    still = [*WARM, "ppo.updates=1", "ppo.learning_rate=1e-12"]
    improved, heard = run(workspace, store, ranked, "improve", still)
    assert heard.stages == ["load", "reward", "dpo", "ppo", "compare"]
    learned, begun = weights(workspace, store, direct), weights(workspace, store, improved)
    assert learned.norm() > 0
    assert torch.allclose(begun, learned, atol=1e-6)
    # Whatever it begins with, its reference is the model it is compared with: what DPO moved counts as KL.
    assert abs(runs.get_run(store, improved)["result"]["ppo_kl"]) > 1e-4
    cold, heard = run(workspace, store, ranked, "improve", [*SHORT, "ppo.updates=1", "ppo.learning_rate=1e-12"])
    assert heard.stages == ["load", "reward", "ppo", "compare"]
    assert not torch.allclose(weights(workspace, store, cold), learned, atol=1e-3)


@pytest.mark.parametrize(("stage", "step"), [("dpo", 5), ("ppo", 0), ("ppo", 2)])
def test_a_run_that_was_stopped_on_the_way_ends_as_if_it_had_not_been(workspace, store, ranked, stage, step):
    whole, _ = run(workspace, store, ranked, "improve", WARM)
    run_id = runs.add_run(store, "improve", engine.parse_settings(WARM), ranked)
    with pytest.raises(Stopped):
        recipes.run_improve(job.Job(workspace, store, runs.get_run(store, run_id), StopsAt(step, stage)))
    heard = Listening()
    recipes.run_improve(job.Job(workspace, store, runs.get_run(store, run_id), heard))
    assert "reward" not in heard.stages
    assert torch.equal(weights(workspace, store, run_id), weights(workspace, store, whole))


def test_ratings_that_rank_nothing_leave_ppo_to_begin_as_ever(workspace, store, answered):
    version, found = answered
    for number, (_, (first, _)) in enumerate(found):
        feedback.add_rating(store, first, 1 + 4 * (number % 2))
    _, heard = run(workspace, store, version, "improve", WARM)
    assert heard.stages == ["load", "reward", "ppo", "compare"]


def test_a_run_notes_the_rankings_that_it_begins_with(workspace, store, ranked):
    run(workspace, store, ranked, "reward", SHORT)
    for settings, used in ((SHORT, 0), (WARM, 4)):
        number, _ = run(workspace, store, ranked, "ppo", settings)
        assert len(store.rows("SELECT * FROM run_feedback WHERE run_id = ?", number)) == used


def test_who_brings_a_reward_function_need_not_have_ranked_for_it():
    warm = engine.read_config({"ppo": {"warm_start": True}})
    assert stages_of("improve", warm) == ("reward", "dpo", "ppo")
    assert stages_of("improve") == ("reward", "ppo")
    assert stages_of("reinforce", warm) == ("reinforce",)
    assert stages_of("ppo", engine.read_config({"ppo": {"warm_start": True}, "reward_function": "f.py:f"})) == ("ppo",)


def test_presets_go_from_few_steps_to_many_and_only_the_quick_one_begins_with_dpo():
    quick, balanced, thorough = (presets.preset(name, 100) for name in presets.EFFORT)
    assert quick["ppo.updates"] < balanced["ppo.updates"] == 120 < thorough["ppo.updates"]
    assert quick["compare.prompts"] < balanced["compare.prompts"] < thorough["compare.prompts"]
    assert thorough["sft.min_steps"] == 2 * engine.read_config({}).sft.min_steps
    assert [one["ppo.warm_start"] for one in (quick, balanced, thorough)] == [True, False, False]
    assert not any(name.startswith(("reward.", "dpo.")) for name in quick), "what PPO builds on is learned in full"
    thumbs = presets.preset("quick", 0)  # nothing for DPO to learn from
    assert (thumbs["ppo.updates"], thumbs["ppo.warm_start"]) == (30, False)
    assert presets.assignments("balanced", 100) == []
    assert engine.parse_settings(presets.assignments("quick", 100))["ppo"]["warm_start"] is True
    with pytest.raises(engine.UserError, match="Choose one of quick, balanced, thorough"):
        presets.preset("hasty", 0)
