"""How thorough a run is."""

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

import engine
from engine.jobs.presets import EFFORT, assignments, preset
from engine.models.find import POCKET
from engine.training.settings import adapter_rate


def test_presets_go_from_few_steps_to_many():
    quick, balanced, thorough = (preset(name, 100, POCKET) for name in EFFORT)
    usual = engine.read_config({})
    for name in ("ppo.updates", "reinforce.updates", "compare.prompts"):
        assert quick[name] < balanced[name] < thorough[name]
    assert balanced["ppo.updates"] == usual.settled(100).ppo.updates == 120
    assert (quick["reward.min_steps"], thorough["reward.min_steps"]) == (60, 240)
    assert thorough["sft.epochs"] == 2 * usual.sft.epochs
    assert not any(name.startswith(("sft.", "dpo.", "kto.", "ilql.")) for name in quick), "quick as they are"


def test_a_preset_is_settings_that_can_be_changed_one_by_one():
    assert assignments("balanced", 100, POCKET) == []
    config = engine.parse_settings([*assignments("quick", 100, POCKET), "ppo.updates=20"])
    assert config["ppo"]["updates"] == 20
    assert config["ppo"]["learning_rate"] == config["reinforce"]["learning_rate"] == 1e-3
    assert config["reward"]["epochs"] == 5
    with pytest.raises(engine.UserError, match="Choose one of quick, balanced, thorough"):
        preset("hasty", 0, POCKET)


def test_long_steps_are_shorter_in_a_deep_model(tmp_path):
    deep = LlamaConfig(
        vocab_size=32, hidden_size=32, intermediate_size=48, num_hidden_layers=8, num_attention_heads=4
    )  # fmt: skip
    LlamaForCausalLM(deep).save_pretrained(tmp_path)
    assert preset("quick", 50, tmp_path)["ppo.learning_rate"] == adapter_rate(1e-3, 8) == 5e-4
    assert preset("quick", 50, tmp_path / "gone")["ppo.learning_rate"] == 1e-3, "a run will say that it is gone"
