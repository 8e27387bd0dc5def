"""How thorough a run is: presets of its settings. Needs no torch."""

from pathlib import Path

from engine.errors import UserError
from engine.jobs.config import STAGES, RunConfig, known_settings
from engine.models.shape import blocks_of
from engine.training.settings import BLOCKS, adapter_rate

EFFORT = {"quick": 0.5, "balanced": 1.0, "thorough": 2.0}  # shares of the usual steps and compared prompts
QUICK_UPDATES, QUICK_RATE = 15, 1e-3  # steps so few have to be longer


def preset(name: str, compared: int, base: Path) -> dict[str, int | float]:
    """The settings of the preset `name`, such as {"ppo.updates": 15}.

    A thorough run takes more steps and compares more prompts, a quick one fewer; but what the policy learns from stored
    answers is quick as it is. compared: how many rankings and edits there are; base: the folder of what is trained.
    Raises UserError where there is no such preset.
    """
    if name not in EFFORT:
        raise UserError(f'There is no preset "{name}". Choose one of {", ".join(EFFORT)}.')
    effort, usual = EFFORT[name], RunConfig().settled(compared).as_dict()
    values: dict[str, int | float] = {"compare.prompts": int(usual["compare"]["prompts"] * effort)}
    for stage in STAGES:
        own = usual[stage]
        if "updates" in own:
            values[f"{stage}.updates"] = int(own["updates"] * effort)
        elif "min_steps" in own and (effort > 1 or stage == "reward"):
            values |= {f"{stage}.{bound}": int(own[bound] * effort) for bound in ("epochs", "min_steps", "max_steps")}
    if name == "quick":
        rate = adapter_rate(QUICK_RATE, blocks_of(base) or BLOCKS)  # a run says where a base is not whole
        for stage in ("ppo", "reinforce"):
            values |= {f"{stage}.updates": QUICK_UPDATES, f"{stage}.learning_rate": rate}
    return values


def assignments(name: str, compared: int, base: Path) -> list[str]:
    """What `preset` has that a run would not have by itself, as `parse_settings` takes it."""
    usual = known_settings()
    chosen = preset(name, compared, base) if name != "balanced" else {}
    return [f"{key}={value}" for key, value in chosen.items() if value != usual[key]]
