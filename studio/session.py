"""What the pages share: the workspace, the store (one connection a thread) and the answers being written."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import engine

log = logging.getLogger("studio")


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

    def __init__(self, workspace: Any):
        self.workspace = workspace
        self.serving = engine.ServingClient(workspace.folder / "serving.log")
        self.live: dict[int, Live] = {}
        self._local = threading.local()
        version = engine.versions.newest_chat_version(self.store)
        if version is None:
            path = engine.find_base("pocket")
            engine.versions.ensure_base(self.store, str(path), engine.fingerprint(path), "pocket")

    @property
    def store(self):
        if not hasattr(self._local, "store"):
            self._local.store = engine.Store(self.workspace.database)
        return self._local.store

    @property
    def version(self) -> dict:
        return engine.versions.newest_chat_version(self.store)

    def give_way(self) -> None:
        """Free the GPU's memory for a run; the next question starts the serving worker again."""
        if self.serving.device == "cuda":
            self.serving.close()

    def ask(self, prompt_id: int, count: int, sampling: Any) -> None:
        """Start answering a stored prompt; the answers go into the store when they are done."""
        live = Live(self.serving.reserve(), [""] * count)
        self.live[prompt_id] = live
        threading.Thread(target=self._answer, args=(prompt_id, live, count, sampling), daemon=True).start()

    def _answer(self, prompt_id: int, live: Live, count: int, sampling: Any) -> None:
        version = self.version
        seed = time.time_ns() % 2**31
        try:
            events = self.serving.generate(
                live.request,
                base=version["base"],
                adapter=None if version["kind"] == "base" else str(self.workspace.model(version["id"])),
                messages=engine.conversations.context_of(self.store, prompt_id),
                seeds=[seed + i for i in range(count)],
                sampling=sampling.as_dict(),
            )
            for event in events:
                if event["event"] == "text":
                    live.texts = event["texts"]
                elif event["event"] == "done":
                    engine.conversations.add_responses(
                        self.store, prompt_id, version["id"], sampling.as_dict(), event["answers"]
                    )
        except engine.UserError as error:
            live.problem = str(error)
        except Exception:
            log.exception("answering prompt %s", prompt_id)
            live.problem = "The answer could not be written down. The studio's log says why; ask again."
        live.done = True


def friendly(function: Callable) -> Callable:
    """A server function for the page: takes its arguments as one list, as Gradio hands them over, and answers a
    mistake with one sentence instead of a stack trace."""

    def wrapped(arguments: list) -> Any:
        try:
            return function(*arguments)
        except engine.UserError as error:
            return {"error": str(error)}
        except Exception:
            log.exception("%s failed", function.__name__)
            return {"error": "Something went wrong in the studio. Its log in the terminal says what."}

    wrapped.__name__ = function.__name__
    return wrapped
