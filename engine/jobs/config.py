"""A run's settings: what a person may set, checked before anything starts. Needs no torch."""

from dataclasses import asdict, dataclass, field, fields, replace
from difflib import get_close_matches
from typing import Any, Literal, Self

from pydantic import TypeAdapter, ValidationError

from engine.errors import UserError
from engine.machine import Precision
from engine.methods.settings import (
    DPOConfig,
    ILQLConfig,
    KTOConfig,
    PPOConfig,
    PretrainConfig,
    ReinforceConfig,
    RewardConfig,
    SFTConfig,
)
from engine.sampling.settings import BUILT_IN, Sampling
from engine.training.settings import Count, Natural, NotNegative, setting

Recompute = Literal["auto", "always", "never"]


@dataclass(frozen=True)
class CompareConfig:
    prompts: Count = setting(64, "Held-out prompts that are answered before and after.")
    temperature: NotNegative = setting(0.0, "Temperature at which they are answered; 0 for Chat's usual one.")
    seed: int = setting(12345, "Seed of the first answer.")
    after: int | None = None  # the version that a run of `compare` holds against its parent


@dataclass(frozen=True)
class RunConfig:
    """Everything a run was told. What is nested are the settings of the stage of that name."""

    precision: Precision = setting(
        "auto", "How weights are held; auto: what this machine is fastest in, nf4 where that does not fit."
    )
    recompute: Recompute = setting(
        "auto",
        "Compute a block again on the way back rather than keep what it did: less memory, a third more time, on a CPU "
        "up to twice the time. auto does so where nothing else fits.",
    )
    tf32: bool = setting(True, "On a GPU that can, float32 products are of numbers rounded to TF32: faster.")
    threads: Natural = setting(0, "CPU threads; 0 for as many as torch finds.")
    reward_model: int | None = setting(None, "The version that scores for PPO and the policy gradient; the newest.")
    reward_function: str | None = setting(None, "file.py:name, scores in place of a reward model.")
    prompt_set: str = setting("everyday", 'Prompts to practise on beside the person\'s own; "none" for only those.')
    reward: RewardConfig = field(default_factory=RewardConfig)
    ppo: PPOConfig = field(default_factory=PPOConfig)
    reinforce: ReinforceConfig = field(default_factory=ReinforceConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    sft: SFTConfig = field(default_factory=SFTConfig)
    dpo: DPOConfig = field(default_factory=DPOConfig)
    kto: KTOConfig = field(default_factory=KTOConfig)
    ilql: ILQLConfig = field(default_factory=ILQLConfig)
    compare: CompareConfig = field(default_factory=CompareConfig)

    def as_dict(self) -> dict:
        return asdict(self)

    def settled(self, feedback: int, usual: Sampling = BUILT_IN, blocks: int | None = None) -> Self:
        """The same with what hangs on how many rankings and edits there are (a reward function needs none), on how
        answers are drawn as a rule, and on how many blocks the model has, where that is known."""
        worth = 0 if self.reward_function else feedback
        found = replace(
            self,
            ppo=self.ppo.settled(worth, usual),
            reinforce=self.reinforce.settled(worth, usual),
            compare=replace(self.compare, temperature=self.compare.temperature or usual.temperature),
        )
        if not blocks:
            return found
        stages = ((name, getattr(found, name)) for name in STAGES)
        return replace(found, **{name: replace(own, learning_rate=own.rate(blocks)) for name, own in stages})

    @property
    def sampling(self) -> Sampling:
        """How answers are drawn for normalising and comparing."""
        temperature = self.compare.temperature or BUILT_IN.temperature
        return Sampling(temperature=temperature, max_new_tokens=self.ppo.longest)


STAGES = ("pretrain", "reward", "ppo", "reinforce", "sft", "dpo", "kto", "ilql")  # whose settings have a seed
_adapter = TypeAdapter(RunConfig)


def read_config(values: dict[str, Any]) -> RunConfig:
    """A config from nested values, as stored with a run. Raises UserError for a wrong value."""
    try:
        return _adapter.validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(f"The setting {where} is wrong: {first['msg']}.") from None


def known_settings() -> dict[str, Any]:
    """Every setting by the name a person uses, with its default: precision, reward.epochs, ppo.updates, ..."""
    flat: dict[str, Any] = {}
    for name, value in RunConfig().as_dict().items():
        flat.update({f"{name}.{key}": v for key, v in value.items()} if isinstance(value, dict) else {name: value})
    return flat


def described_settings(stage: str) -> list[dict[str, Any]]:
    """The settings of a stage as a page shows them: name, default, meaning, kind and range ("" for those of a run).

    Kinds are number, integer, boolean, string and choice (with "choices"); "low" is exclusive where "above" is set.
    """
    config: Any = getattr(RunConfig(), stage) if stage else RunConfig()
    schema = TypeAdapter(type(config)).json_schema()["properties"]
    found = []
    for one in fields(config):
        if "meaning" not in one.metadata:
            continue  # a stage
        rule = schema[one.name]
        kind = "choice" if "enum" in rule else rule.get("type", "string")
        found.append(
            {
                "name": f"{stage}.{one.name}" if stage else one.name,
                "default": getattr(config, one.name),
                "meaning": one.metadata["meaning"],
                "kind": kind,
                "choices": rule.get("enum", []),
                "low": rule.get("minimum", rule.get("exclusiveMinimum")),
                "high": rule.get("maximum"),
                "above": "exclusiveMinimum" in rule,
            }
        )
    return found


def _meant(name: str, method: str, known: list[str]) -> str:
    """What someone who wrote `name` may have meant, and where to see what there is."""
    written = {k: k for k in known} | {k.removeprefix(f"{method}."): k for k in known}
    near = get_close_matches(name, written, n=1)
    hint = f"Did you mean {written[near[0]]}? " if near else ""
    return f"{hint}`rlhf-studio settings` shows all."


def parse_settings(assignments: list[str], method: str = "improve") -> dict:
    """["ppo.updates=20", "precision=nf4"] -> nested values, completed and checked.

    A bare name may stand for the method's own setting (`updates` for `ppo.updates` when training ppo); `seed`
    sets the seed of every stage.
    """
    flat, known = {}, known_settings()
    for assignment in assignments:
        name, sign, value = assignment.partition("=")
        name = name.strip()
        if not sign:
            raise UserError(f'"{assignment}" is not a setting. Write it as name=value, such as ppo.updates=20.')
        if name == "seed":
            flat.update({f"{stage}.seed": value for stage in STAGES})
            continue
        if name not in known and f"{method}.{name}" in known:
            name = f"{method}.{name}"
        if name not in known:
            raise UserError(f'There is no setting "{name}". {_meant(name, method, [*known, "seed"])}')
        flat[name] = value
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        part, dot, key = name.partition(".")
        if dot:
            nested.setdefault(part, {})[key] = value.strip()
        else:
            nested[part] = value.strip()
    return read_config(nested).as_dict()
