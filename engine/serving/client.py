"""The studio's end of the serving worker: starts it, talks to it, starts it again if it dies. Needs no torch."""

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from engine.errors import UserError


class ServingClient:
    """One worker process, started on first need. Safe to use from several threads."""

    def __init__(self, log: Path):
        self._log = log
        self._process: subprocess.Popen | None = None
        self._waiting: dict[int, tuple[subprocess.Popen, queue.Queue]] = {}
        self.device = ""  # "cpu" or "cuda", once the worker has said so
        self._lock = threading.Lock()
        self._next = 1

    def start(self) -> None:
        """Start the worker if it is not running, so that the first question need not wait for it."""
        with self._lock:
            if self._process and self._process.poll() is None:
                return
            environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
            with self._log.open("ab") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "engine.serving.worker"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    encoding="utf-8",
                    env=environment,
                )
            threading.Thread(target=self._read, args=(self._process,), daemon=True).start()

    def close(self) -> None:
        """End the worker and free its memory; the next question starts it again."""
        with self._lock:
            if self._process and self._process.poll() is None:
                self._process.terminate()
                self._process.wait(10)
            self._process = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def _read(self, process: subprocess.Popen) -> None:
        stream: IO[str] = process.stdout  # type: ignore[assignment]
        for line in stream:
            event = json.loads(line)
            if event["event"] == "ready":
                self.device = event["device"]
            elif event["id"] in self._waiting:
                self._waiting[event["id"]][1].put(event)
        message = "The model's process ended unexpectedly; it starts again with your next question."
        for number, (asked, waiting) in list(self._waiting.items()):
            if asked is process:
                waiting.put({"id": number, "event": "error", "message": message})

    def _send(self, request: dict) -> None:
        with self._lock:
            try:
                self._process.stdin.write(json.dumps(request) + "\n")  # type: ignore[union-attr]
                self._process.stdin.flush()  # type: ignore[union-attr]
            except (BrokenPipeError, OSError, AttributeError):
                raise UserError("The model's process has ended. Ask again to start it anew.") from None

    def stop(self, request_id: int) -> None:
        """Stop an answer at its next token; what was written so far is its text."""
        self._send({"id": 0, "op": "stop", "target": request_id})

    def reserve(self) -> int:
        """A number for a request, by which it can be stopped."""
        with self._lock:
            self._next += 1
            return self._next

    def generate(self, request_id: int, **request) -> Iterator[dict]:
        """Stream the events of one request for answers, the last being "done".

        request: base, adapter, messages, seeds, sampling, precision, keep, patient, as `engine.serving.worker` says.
        """
        return self._events(request_id, op="generate", **request)

    def scores(self, base: str, reward: str, groups: list[list[dict]]) -> list[list[float]]:
        """What the reward model in the folder `reward` thinks of answers {"prompt", "text", "finished"}, by group."""
        events = list(self._events(self.reserve(), op="scores", base=base, reward=reward, groups=groups))
        return events[-1]["scores"]

    def _events(self, request_id: int, **request) -> Iterator[dict]:
        """The events of one request up to "done". Raises UserError where the worker reports a mistake."""
        self.start()
        events: queue.Queue = queue.Queue()
        with self._lock:
            process = self._process
            if process is None:
                raise UserError("The model's process has just been ended. Ask again to start it anew.")
            self._waiting[request_id] = (process, events)
        try:
            self._send({"id": request_id, **request})
            while True:
                event = events.get()
                if event["event"] == "error":
                    raise UserError(event["message"])
                yield event
                if event["event"] == "done":
                    return
        finally:
            del self._waiting[request_id]
