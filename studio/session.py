"""What the pages share: the workspace, the store (one connection a thread) and the answers being written."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import engine

log = logging.getLogger("studio")

DISK_FULL = "The disk is full. Make room where the workspace lies, then try again."


def in_words(error: Exception, otherwise: str) -> str:
    """What a person is told of `error`: that the disk is full, where it is that, else `otherwise`."""
    return DISK_FULL if engine.disk_is_full(error) else otherwise


@dataclass
class Live:
    """Answers to one prompt while they are being written."""

    request: int
    texts: list[str]
    done: bool = False
    problem: str = ""
    cancelled: threading.Event = field(default_factory=threading.Event)


class Session:
    """One studio. Everything it knows beyond the store can be lost without losing what a person did."""

    def __init__(self, workspace: Any, language: str = ""):
        self.workspace = workspace
        self.language = language  # "en", "zh", or "" for what the browser asks for
        self.serving = engine.ServingClient(workspace.folder / "serving.log")
        self.live: dict[int, Live] = {}
        self._local = threading.local()
        engine.shelf.settle_built_in(self.store)

    @property
    def store(self):
        if not hasattr(self._local, "store"):
            self._local.store = engine.Store(self.workspace.database)
        return self._local.store

    @property
    def version(self) -> dict:
        return engine.versions.newest_chat_version(self.store)

    def sampling(self, settings: dict, version: dict) -> Any:
        """How answers of `version` are drawn by what a person has set in Chat's drawer; what is missing or not a number
        there is as usual."""
        usual = engine.usual_sampling(version["base"])
        values = {}
        for name, low, high in (("temperature", 0.0, 2.0), ("top_p", 0.05, 1.0), ("max_new_tokens", 1, 2048)):
            given = settings.get(name)
            if isinstance(given, int | float):
                if not low <= given <= high:
                    raise engine.UserError(f"The setting {name} goes from {low} to {high}.")
                values[name] = type(getattr(usual, name))(given)
        return replace(usual, **values)

    def give_way(self) -> None:
        """Free the GPU's memory for a run; the next question starts the serving worker again."""
        if self.serving.device == "cuda":
            self.serving.close()

    def ask(self, prompt_id: int, count: int, sampling: Any, version: dict, seed: int | None) -> None:
        """Start answering a stored prompt with `version`; the answers go into the store when they are done.

        seed: of the first answer, None for a new one.
        """
        live = Live(self.serving.reserve(), [""] * count)
        self.live[prompt_id] = live
        first = time.time_ns() % 2**31 if seed is None else seed
        arguments = (prompt_id, live, count, sampling, version, first)
        threading.Thread(target=self._answer, args=arguments, daemon=True).start()

    def _generate(
        self, request: int, version: dict, messages: list[dict], seed: int, count: int, sampling: dict, **how: Any
    ) -> Iterator[dict]:
        return self.serving.generate(
            request,
            base=version["base"],
            adapter=None if version["kind"] == "base" else str(self.workspace.model(version["id"])),
            messages=messages,
            seeds=[seed + i for i in range(count)],
            sampling=sampling,
            **how,
        )

    def answer_ahead(
        self, text: str, source: str, count: int, version: dict, sampling: Any, seen: Callable[[list[str]], None]
    ) -> None:
        """Answer a prompt and only then store it with the `count` answers of many that would tell most, so that no
        prompt is ever left without any. Answers that somebody has asked for go first. `seen` is told all that is
        written."""
        seed, how = time.time_ns() % 2**31, sampling.as_dict()
        messages = [{"role": "user", "content": text}]
        events = self._generate(
            self.serving.reserve(), version, messages, seed, engine.DRAWN, how, keep=count, patient=True
        )
        for event in events:
            if event["event"] == "text":
                seen(event["texts"])
            elif event["event"] == "done":
                prompt = engine.conversations.add_prompt(self.store, text, source)
                engine.conversations.add_responses(self.store, prompt, version["id"], how, event["answers"])

    def _answer(self, prompt_id: int, live: Live, count: int, sampling: Any, version: dict, seed: int) -> None:
        try:
            messages = engine.conversations.context_of(self.store, prompt_id)
            events = self._generate(live.request, version, messages, seed, count, sampling.as_dict())
            for event in events:
                if event["event"] == "text":
                    live.texts = event["texts"]
                elif event["event"] == "done":
                    engine.conversations.add_responses(
                        self.store, prompt_id, version["id"], sampling.as_dict(), event["answers"]
                    )
        except engine.UserError as error:
            live.problem = str(error)
        except Exception as error:
            log.exception("answering prompt %s", prompt_id)
            lost = "The answer could not be written down. The studio's log says why; ask again."
            live.problem = in_words(error, lost)
        live.done = True


def friendly(function: Callable) -> Callable:
    """A server function for the page: takes its arguments as one list, as Gradio hands them over, and answers a
    mistake with one sentence instead of a stack trace."""

    def wrapped(arguments: list) -> Any:
        try:
            return function(*arguments)
        except engine.UserError as error:
            return {"error": str(error)}
        except Exception as error:
            log.exception("%s failed", function.__name__)
            return {"error": in_words(error, "Something went wrong in the studio. Its log in the terminal says what.")}

    wrapped.__name__ = function.__name__
    return wrapped
