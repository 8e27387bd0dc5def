"""Keeps the Label page's queue filled: the next items are answered while the person reads this one."""

import logging
import random
import threading
import time

import engine
from studio.session import Session, in_words

log = logging.getLogger("studio")

AHEAD = 3  # items answered before anyone asks for them
POOL = 8  # of those, once a reward model says which of them it is least sure of
ANSWERS = 4


class Filler:
    """One background thread a prompt set. It stops by itself when the page has not asked for a while."""

    def __init__(self, session: Session, prompt_set: str):
        self.session, self.prompt_set = session, prompt_set
        self.settings: dict = {}  # a person's, of how answers are drawn
        self.doubts: dict[int, float] = {}  # of open items, by prompt; lost with the studio and found again
        self.problem = ""
        self.question = ""  # that is being answered
        self.written = 0  # characters of its answers so far
        self.wanted = time.monotonic()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    @property
    def source(self) -> str:
        return engine.labelling.source_of(self.prompt_set, self.session.version["id"])

    def wake(self) -> None:
        self.wanted = time.monotonic()
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self.problem = ""
                self._thread = threading.Thread(target=self._run, daemon=True)
                self._thread.start()

    def _run(self) -> None:
        try:
            while time.monotonic() - self.wanted < 60 and self._one():
                pass
        except engine.UserError as error:
            self.problem = str(error)
        except Exception as error:
            log.exception("filling the queue of %s", self.prompt_set)
            self.problem = in_words(error, "The next questions could not be answered. The studio's log says why.")

    def _one(self) -> bool:
        """Answer one more prompt where one is needed; False where the set is used up."""
        store, version = self.session.store, self.session.version
        reward = engine.versions.newest_reward(store, version["base_fingerprint"])
        source = engine.labelling.source_of(self.prompt_set, version["id"])
        waiting = engine.labelling.open_items(store, source, POOL + 1)
        if reward:
            self._judge(reward, version, [item for item in waiting if item["id"] not in self.doubts])
        if len(waiting) >= (POOL if reward else AHEAD):
            time.sleep(0.2)
            return True
        left = self.left()
        if not left:
            return False
        text = random.Random(f"{source} {len(left)}").choice(left)
        sampling = self.session.sampling(self.settings, version)
        self.question = text
        try:
            self.session.answer_ahead(text, source, ANSWERS, version, sampling, self._seen)
        finally:
            self.question, self.written = "", 0
        return True

    def _seen(self, texts: list[str]) -> None:
        self.written = sum(map(len, texts))

    def left(self) -> list[str]:
        """The questions of the set that were not answered for this page yet."""
        store = self.session.store
        every = (
            engine.conversations.imported_prompts(store)
            if self.prompt_set == "own"
            else engine.load_prompts(self.prompt_set)
        )
        return sorted(set(every) - engine.labelling.asked(store, self.source))

    def _judge(self, reward: dict, version: dict, items: list[dict]) -> None:
        if not items:
            return
        groups = [
            [{"prompt": item["text"], "text": r["text"], "finished": r["finish"] == "stop"} for r in item["responses"]]
            for item in items
        ]
        scores = self.session.serving.scores(version["base"], str(self.session.workspace.model(reward["id"])), groups)
        for item, each in zip(items, scores, strict=True):
            self.doubts[item["id"]] = engine.labelling.doubt(each, [r["text"] for r in item["responses"]])
