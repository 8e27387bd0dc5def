"""How thorough a run is: presets of its settings. Needs no torch."""

from engine.errors import UserError
from engine.jobs.config import STAGES, RunConfig, known_settings

EFFORT = {"quick": 0.5, "balanced": 1.0, "thorough": 2.0}  # shares of the usual steps and compared prompts
QUICK_UPDATES = 15  # of a policy that DPO has brought most of the way


def preset(name: str, compared: int) -> dict[str, int | bool]:
    """The settings of the preset `name`, such as {"ppo.updates": 15}.

    A thorough run takes more steps and compares more prompts. In a quick one the policy begins with what DPO learns
    from the rankings, where there are any, and answers anew a few times only; what learns from stored answers is quick
    as it is. compared: how many rankings and edits there are. Raises UserError where there is no such preset.
    """
    if name not in EFFORT:
        raise UserError(f'There is no preset "{name}". Choose one of {", ".join(EFFORT)}.')
    effort, usual = EFFORT[name], RunConfig().settled(compared).as_dict()
    warm = name == "quick" and compared > 0
    values: dict[str, int | bool] = {"compare.prompts": int(usual["compare"]["prompts"] * effort)}
    for stage in STAGES:
        own = usual[stage]
        if "updates" in own:
            values[f"{stage}.updates"] = QUICK_UPDATES if warm else int(own["updates"] * effort)
            values[f"{stage}.warm_start"] = warm
        elif "min_steps" in own and effort > 1:
            values |= {f"{stage}.{bound}": int(own[bound] * effort) for bound in ("epochs", "min_steps", "max_steps")}
    return values


def assignments(name: str, compared: int) -> list[str]:
    """What `preset` has that a run would not have by itself, as `parse_settings` takes it."""
    usual = known_settings()
    chosen = preset(name, compared) if name != "balanced" else {}
    return [f"{key}={value}" for key, value in chosen.items() if value != usual[key]]
