"""What a method tells the world while it trains, and how it hears that it should stop."""

from typing import Protocol


class Stopped(Exception):
    """Someone asked the run to stop; what it had reached is kept."""


class Paused(Stopped):
    """Someone asked the run to pause: it goes on later from where it is, and nothing is made of it until then."""


class Context(Protocol):
    """A run as a method sees it. `engine.jobs` has the one that writes to the store."""

    watched: bool  # whether someone looks at samples, which take time to write

    def stage(self, name: str, done: int, total: int) -> None:
        """Where the run is. Raises Stopped or Paused where someone asked for that."""

    def metrics(self, name: str, step: int, values: dict[str, float]) -> None:
        """Numbers of one step of the stage `name`."""

    def sample(self, step: int, prompt: str, text: str, reward: float) -> None:
        """One answer as the policy gives it now."""


class Silent:
    """A context that keeps nothing, for scripts and tests."""

    watched = False

    def stage(self, name: str, done: int, total: int) -> None:
        pass

    def metrics(self, name: str, step: int, values: dict[str, float]) -> None:
        pass

    def sample(self, step: int, prompt: str, text: str, reward: float) -> None:
        pass
