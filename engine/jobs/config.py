"""A run's settings: what a person may set, checked before anything starts. Needs no torch."""

from dataclasses import asdict, dataclass, field, fields
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from engine.errors import UserError
from engine.methods.settings import PPOConfig, RewardConfig
from engine.sampling.settings import Sampling


@dataclass(frozen=True)
class CompareConfig:
    prompts: Annotated[int, Field(ge=1)] = 64  # how many held-out prompts
    temperature: float = 1.0
    seed: int = 12345


@dataclass(frozen=True)
class RunConfig:
    """Everything a run was told. `reward`, `ppo` and `compare` are the settings of those stages."""

    precision: str = "auto"
    threads: int = 0  # 0: as many as torch finds
    reward_model: int | None = None  # for ppo alone: the version that scores; default the newest
    prompt_set: str = "everyday"  # built-in prompts beside the person's own; "none" for only those
    reward: RewardConfig = field(default_factory=RewardConfig)
    ppo: PPOConfig = field(default_factory=PPOConfig)
    compare: CompareConfig = field(default_factory=CompareConfig)

    def as_dict(self) -> dict:
        return asdict(self)

    @property
    def sampling(self) -> Sampling:
        """How answers are drawn for normalising and comparing."""
        return Sampling(temperature=self.compare.temperature, max_new_tokens=self.ppo.max_new_tokens)


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
    own = {f.name for f in fields({"reward": RewardConfig, "ppo": PPOConfig}.get(method, CompareConfig))}
    for assignment in assignments:
        name, sign, value = assignment.partition("=")
        name = name.strip()
        if not sign:
            raise UserError(f'"{assignment}" is not a setting. Write it as name=value, such as ppo.updates=20.')
        if name == "seed":
            flat.update({"reward.seed": value, "ppo.seed": value})
            continue
        if name not in known and name in own and method in ("reward", "ppo"):
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
