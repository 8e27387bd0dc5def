"""A run's settings: what a person may set, checked before anything starts. Needs no torch."""

from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from engine.errors import UserError
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
from engine.sampling.settings import Sampling


@dataclass(frozen=True)
class CompareConfig:
    prompts: Annotated[int, Field(ge=1)] = 64  # how many held-out prompts
    temperature: float = 1.0
    seed: int = 12345


@dataclass(frozen=True)
class RunConfig:
    """Everything a run was told. What is nested are the settings of the stage of that name."""

    precision: str = "auto"
    threads: int = 0  # 0: as many as torch finds
    reward_model: int | None = None  # the version that scores for ppo and reinforce; default the newest
    reward_function: str | None = None  # file.py:name, scores in place of a reward model
    prompt_set: str = "everyday"  # built-in prompts beside the person's own; "none" for only those
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

    @property
    def sampling(self) -> Sampling:
        """How answers are drawn for normalising and comparing."""
        return Sampling(temperature=self.compare.temperature, max_new_tokens=self.ppo.max_new_tokens)


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
            raise UserError(f'There is no setting "{name}". There are: {", ".join(sorted(known))}, seed.')
        flat[name] = value
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        part, dot, key = name.partition(".")
        if dot:
            nested.setdefault(part, {})[key] = value.strip()
        else:
            nested[part] = value.strip()
    return read_config(nested).as_dict()
