"""The serving worker: one process that holds the base and its adapters and streams answers.

``python -m engine.serving.worker``. Reads one JSON request a line on standard input::

    {"id": 1, "op": "generate", "base": PATH, "adapter": FOLDER or null, "precision": "auto",
     "messages": [...], "seeds": [1, 2], "sampling": {...}, "keep": the number of answers to keep, those that tell
     most, "patient": true}
    {"id": 2, "op": "scores", "base": PATH, "reward": FOLDER, "groups": [[{"prompt", "text", "finished"}, ...], ...]}
    {"id": 3, "op": "stop", "target": 1}

and writes one JSON event a line: {"id", "event": "text", "texts": [...]}, then {"id", "event": "done", "answers"}
or {"id", "event": "done", "scores"}, or {"id", "event": "error", "message"}. All candidates share each forward pass.
One request after another, but a patient one, for which nobody waits yet, lets the others go first: it is broken off
for them and begun anew.
"""

import json
import os
import queue
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

import torch

from engine.errors import UserError
from engine.methods.design import Design, most_telling_answers
from engine.methods.reward import RewardModel, load_reward
from engine.models.chat import decode, encode_prompt
from engine.models.load import choose_device, load_base, stop_ids
from engine.models.roles import Roles
from engine.sampling.rollout import decode_steps
from engine.sampling.settings import Sampling
from engine.training.passes import Encoded

EVENT_EVERY = 0.04  # seconds between redraws of a stream
SMALL = 20e6  # parameters
KEPT = 4  # adapters of versions that answer


class Asked(NamedTuple):
    """A request in the order of its turn: those that somebody waits for first, the older first among them."""

    patient: bool
    arrival: int
    request: dict | None  # None: the studio is gone


class Worker:
    def __init__(self, out):
        self.out = out
        self.roles: Roles | None = None
        self.loaded: tuple = ()
        self.judges: dict[str, RewardModel] = {}  # by folder, one at a time
        self.adapters: list[str] = []  # of versions that answer, the last used last
        self.design = Design()  # of what is asked about the base's answers
        self.stopped: set[int] = set()
        self.asked: queue.PriorityQueue[Asked] = queue.PriorityQueue()
        self.threads = torch.get_num_threads()

    def say(self, request: int, event: str, **values) -> None:
        self.out.write(json.dumps({"id": request, "event": event, **values}) + "\n")
        self.out.flush()

    def base(self, request: dict) -> Roles:
        """The base that the request asks for; one that is loaded already stays."""
        wanted = (request["base"], request.get("precision", "auto"))
        if self.roles is None or self.loaded != wanted:
            self.roles, self.judges, self.adapters, self.design = None, {}, [], Design()
            self.roles, self.loaded = Roles(load_base(*wanted)), wanted
            # A small model answers as fast on one thread, and leaves the others to a run.
            small = self.roles.base.model.num_parameters() < SMALL
            torch.set_num_threads(1 if small else self.threads)
        return self.roles

    def scores(self, request: dict) -> bool:
        roles, folder = self.base(request), request["reward"]
        if folder not in self.judges:
            for judge in self.judges.values():
                for role, _ in judge.members:
                    roles.remove(role)
            self.judges = {folder: load_reward(roles, Path(folder))}
        items = [item for group in request["groups"] for item in group]
        asked = [([{"role": "user", "content": i["prompt"]}], i["text"], i["finished"]) for i in items]
        scores = iter(self.judges[folder].score_texts(asked).tolist())
        self.say(request["id"], "done", scores=[[next(scores) for _ in group] for group in request["groups"]])
        return True

    def others_first(self, request: dict) -> bool:
        """Whether somebody waits while `request`, which is under way, could."""
        return bool(request.get("patient") and self.asked.queue and not self.asked.queue[0].patient)

    def generate(self, request: dict) -> bool:
        """Stream the answers. False where it was broken off for the sake of another request."""
        roles = self.base(request)
        role = None
        if request.get("adapter") is not None:
            role = "v" + Path(request["adapter"]).name
            if role in self.adapters:
                self.adapters.remove(role)
            else:
                roles.load(role, Path(request["adapter"]))
            self.adapters.append(role)
            if len(self.adapters) > KEPT:
                roles.remove(self.adapters.pop(0))
        sampling, seeds = Sampling(**request["sampling"]), request["seeds"]
        prompt = encode_prompt(roles.tokenizer, request["messages"], room=sampling.max_new_tokens)
        stops = stop_ids(roles.base)
        tokens: list[list[int]] = [[] for _ in seeds]
        last = 0.0
        with roles.acting(role) as model:
            steps = decode_steps(model, [prompt] * len(seeds), roles.tokenizer.pad_token_id, stops, sampling, seeds)
            for step in steps:
                for row, token in zip(step.rows, step.tokens, strict=True):
                    tokens[row].append(token)
                if request["id"] in self.stopped:
                    break
                if self.others_first(request):
                    return False
                if time.monotonic() - last > EVENT_EVERY:
                    self.say(request["id"], "text", texts=[decode(roles.tokenizer, t) for t in tokens])
                    last = time.monotonic()
        answers = [
            {
                "text": decode(roles.tokenizer, ids),
                "tokens": len(ids),
                "seed": seed,
                "finish": "stop" if ids and ids[-1] in stops else
                          "cancelled" if request["id"] in self.stopped else "length",
            }
            for ids, seed in zip(tokens, seeds, strict=True)
        ]  # fmt: skip
        keep = request.get("keep") or len(answers)
        if keep < len(answers) and all(tokens):
            chosen = most_telling_answers(self.design, roles, [Encoded(prompt, ids) for ids in tokens], keep)
            answers = [answers[i] for i in chosen]
        self.say(request["id"], "done", answers=answers[:keep])
        return True

    def serve(self) -> None:
        """Answer what is asked until the studio is gone."""
        while (request := (asked := self.asked.get()).request) is not None:
            try:
                if not {"generate": self.generate, "scores": self.scores}[request["op"]](request):
                    self.asked.put(asked)
            except UserError as error:
                self.say(request["id"], "error", message=str(error))
            except Exception as error:
                message = f"The model could not answer ({type(error).__name__}: {error}). Try again or another model."
                if type(error).__name__ in ("OutOfMemoryError", "MemoryError"):
                    message = "The model ran out of memory. Ask for fewer candidates or a shorter answer."
                    self.roles = None
                self.say(request["id"], "error", message=message)


def main() -> int:
    # Libraries print to standard output; the events keep their own handle and everyone else gets stderr.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    worker = Worker(out)

    def read() -> None:
        for arrival, line in enumerate(sys.stdin):
            request = json.loads(line)
            if request["op"] == "stop":
                worker.stopped.add(request["target"])
            else:
                worker.asked.put(Asked(bool(request.get("patient")), arrival, request))
        worker.asked.put(Asked(False, sys.maxsize, None))

    threading.Thread(target=read, daemon=True).start()
    worker.say(0, "ready", device=choose_device().type)
    worker.serve()
    return 0


if __name__ == "__main__":
    sys.exit(main())
