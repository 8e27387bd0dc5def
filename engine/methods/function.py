"""A reward that someone wrote as a Python function, in place of a reward model.

    def reward(prompt: str, response: str) -> float

`prompt` is the person's last turn. A function that has a third parameter gets the whole conversation there, as a list
of {"role", "content"}.
"""

import importlib.util
import inspect
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from engine.errors import UserError
from engine.sampling.answers import Answer


class FunctionReward:
    """Scores answers by a function. Raises UserError where the function fails or gives no number."""

    def __init__(self, function: Callable, name: str):
        self.function, self.name = function, name
        self.whole = len(inspect.signature(function).parameters) > 2

    def scores(self, answers: list[Answer]) -> Tensor:
        """[answers], as the function gives them: nothing is shifted or scaled."""
        return torch.tensor([self._one(a) for a in answers])

    def _one(self, a: Answer) -> float:
        arguments = (a.messages[-1]["content"], a.text, *([a.messages] if self.whole else []))
        try:
            score = float(self.function(*arguments))
        except Exception as error:
            raise UserError(
                f"The reward function {self.name} failed on the prompt {arguments[0][:60]!r}: "
                f"{type(error).__name__}: {error}"
            ) from error
        if score != score or score in (float("inf"), float("-inf")):
            raise UserError(f"The reward function {self.name} gave {score}; it has to give a finite number.")
        return score


def load_function(place: str) -> FunctionReward:
    """The function at "file.py:name". Raises UserError where there is none."""
    path, colon, name = place.rpartition(":")
    file = Path(path).expanduser()
    if not colon or not file.is_file():
        raise UserError(f'There is no reward function "{place}". Write it as file.py:name, such as rewards.py:short.')
    spec = importlib.util.spec_from_file_location("reward_function", file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(f"{file} does not run: {type(error).__name__}: {error}") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise UserError(f"{file} has no function {name}.")
    return FunctionReward(function, name)
