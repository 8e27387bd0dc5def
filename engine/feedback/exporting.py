"""Write the store's feedback to a file that other tools, and this studio's own import, can read.

Formats: `preference` (a line a pair: prompt, chosen, rejected as messages, TRL's conversational preference shape),
`thumbs` (a line a judged answer: messages and a label, from ratings and rankings), and `studio` (a line a
prompt, with every response and all feedback that stands, as it is stored).
"""

import json
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path

from engine.errors import UserError
from engine.feedback.gather import gather_rankings, gather_valued
from engine.store.browse import browse
from engine.store.db import Store


def _messages(prompt: tuple) -> list[dict]:
    return [{"role": role, "content": text} for role, text in prompt]


def _preference(store: Store) -> Iterator[dict]:
    for ranking in gather_rankings(store):
        for a, b in combinations(range(len(ranking.responses)), 2):
            if ranking.ranks[a] == ranking.ranks[b]:
                continue
            better, worse = (a, b) if ranking.ranks[a] < ranking.ranks[b] else (b, a)
            chosen, rejected = ([{"role": "assistant", "content": ranking.responses[i]}] for i in (better, worse))
            yield {"prompt": _messages(ranking.prompt), "chosen": chosen, "rejected": rejected}


def _thumbs(store: Store) -> Iterator[dict]:
    for valued in gather_valued(store):
        if valued.value:
            answer = {"role": "assistant", "content": valued.response}
            yield {"messages": [*_messages(valued.prompt), answer], "label": valued.value > 0}


def _studio(store: Store) -> Iterator[dict]:
    before: int | None = None
    while True:
        page = browse(store, before=before, limit=500)
        yield from page["rows"]
        before = page["more"]
        if before is None:
            return


WRITERS: dict[str, Callable[[Store], Iterator[dict]]] = {
    "preference": _preference, "thumbs": _thumbs, "studio": _studio
}  # fmt: skip
EXPORT_FORMATS = tuple(WRITERS)


def export_file(store: Store, path: Path, form: str) -> int:
    """Write JSON lines to `path`; returns how many. Raises UserError for an unknown format or an unwritable place."""
    if form not in WRITERS:
        raise UserError(f'There is no format "{form}". Choose one of {", ".join(WRITERS)}.')
    count = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8") as file:
            for row in WRITERS[form](store):
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                count += 1
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}). Choose another place.") from error
    return count
