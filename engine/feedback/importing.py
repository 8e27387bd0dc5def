"""Bring prompts, demonstrations and other people's feedback into the store.

Formats: `text` (a prompt a line), `csv` and `jsonl` (prompts in a column or key "prompt"), `alpaca` (instruction,
input, output: a demonstration), `hh-rlhf` (two dialogues as strings), `sharegpt` (conversations, chosen, rejected),
`thumbs` (messages, label) and `trl` (prompt, chosen, rejected; texts or messages). A demonstration comes in as a
response rated 5, a thumb as a rating of 5 or 1, a preference as a ranking of two.
"""

import codecs
import csv
import gzip
import hashlib
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import UserError
from engine.store.db import Store, insert, now

Message = dict[str, str]
ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


class Refused(ValueError):
    """A record that cannot be read, and why."""


@dataclass(frozen=True)
class Record:
    """A conversation up to a user's turn, answers to it, and what was said of them.

    tiers: places in `responses`, best first; or rating: of the only response. Neither: a prompt alone.
    """

    context: list[Message]
    responses: tuple[str, ...] = ()
    tiers: tuple[tuple[int, ...], ...] = ()
    rating: float | None = None

    @property
    def key(self) -> str:
        told = json.dumps([self.context, self.responses, self.tiers, self.rating], ensure_ascii=False)
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    @property
    def source(self) -> str:
        return f"import:{self.key}"


def _text(row: dict, name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise Refused(f'"{name}" is missing or empty')
    return value.strip()


def _message(turn: Any) -> Message:
    if not isinstance(turn, dict):
        raise Refused("a turn is not an object with a role and a text")
    role = ROLES.get(str(turn.get("role", turn.get("from"))))
    if role is None:
        raise Refused(f'a turn has the unknown role "{turn.get("role", turn.get("from"))}"')
    return {"role": role, "content": _text(turn, "content" if "content" in turn else "value")}


def _messages(turns: Any) -> list[Message]:
    if not isinstance(turns, list) or not turns:
        raise Refused("there are no turns")
    return [_message(turn) for turn in turns]


def _asked(context: list[Message]) -> list[Message]:
    """`context`, if it is a conversation that an answer can follow."""
    spoken = [m["role"] for m in context if m["role"] != "system"]
    if not spoken or spoken[-1] != "user":
        raise Refused("the conversation does not end with a person's turn")
    if any(role != ("user", "assistant")[i % 2] for i, role in enumerate(spoken)):
        raise Refused("the turns of person and model do not alternate")
    return context


def _preference(context: list[Message], chosen: str, rejected: str) -> Record:
    if chosen == rejected:
        raise Refused("chosen and rejected are the same")
    return Record(_asked(context), (chosen, rejected), ((0,), (1,)))


def _prompt(row: dict) -> Record:
    return Record([{"role": "user", "content": _text(row, "prompt")}])


def _alpaca(row: dict) -> Record:
    more = row.get("input") or ""
    prompt = _text(row, "instruction") + (f"\n\n{more.strip()}" if more.strip() else "")
    return Record([{"role": "user", "content": prompt}], (_text(row, "output"),), rating=5.0)


def _dialogue(text: str) -> list[Message]:
    """ "\\n\\nHuman: ...\\n\\nAssistant: ..." as messages; turns of one speaker that follow each other are joined."""
    turns: list[Message] = []
    for speaker, said in re.findall(r"\n\n(Human|Assistant):(.*?)(?=\n\n(?:Human|Assistant):|\Z)", text, re.S):
        role = "user" if speaker == "Human" else "assistant"
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += "\n\n" + said.strip()
        else:
            turns.append({"role": role, "content": said.strip()})
    return turns


def _hh(row: dict) -> Record:
    chosen, rejected = (_dialogue("\n\n" + _text(row, k)) for k in ("chosen", "rejected"))
    chosen_text, rejected_text = _last(chosen), _last(rejected)
    if chosen[:-1] != rejected[:-1]:
        raise Refused("chosen and rejected do not answer the same conversation")
    return _preference(chosen[:-1], chosen_text, rejected_text)


def _last(turns: list[Message]) -> str:
    if not turns or turns[-1]["role"] != "assistant" or not turns[-1]["content"]:
        raise Refused("a dialogue does not end with an answer")
    return turns[-1]["content"]


def _sharegpt(row: dict) -> Record:
    answers = [_message(row[k])["content"] for k in ("chosen", "rejected")]
    return _preference(_messages(row["conversations"]), *answers)


def _thumbs(row: dict) -> Record:
    messages = _messages(row["messages"])
    return Record(_asked(messages[:-1]), (_last(messages),), rating=5.0 if row["label"] else 1.0)


def _trl(row: dict) -> Record:
    prompt = row.get("prompt")
    sides = [[row[k]] if isinstance(row[k], dict) else row[k] for k in ("chosen", "rejected")]
    if isinstance(prompt, str) and all(isinstance(s, str) for s in sides):
        return _preference([{"role": "user", "content": _text(row, "prompt")}], *(str(s).strip() for s in sides))
    turns = [_messages(s) for s in sides]
    context = _messages(prompt) if prompt else turns[0][:-1]
    if not prompt and turns[0][:-1] != turns[1][:-1]:
        raise Refused("chosen and rejected do not answer the same conversation")
    return _preference(context, *map(_last, turns))


READERS: dict[str, Callable[[dict], Record]] = {
    "text": _prompt, "csv": _prompt, "jsonl": _prompt, "alpaca": _alpaca, "hh-rlhf": _hh, "sharegpt": _sharegpt,
    "thumbs": _thumbs, "trl": _trl,
}  # fmt: skip
IMPORT_FORMATS = ("auto", *READERS)


def detect(path: Path, first: dict) -> str:
    """The format of a file, by its name and its first record. Raises UserError where it is none of them."""
    name = path.name.removesuffix(".gz")
    if name.endswith((".txt", ".text", ".md")):
        return "text"
    if name.endswith(".csv"):
        return "csv"
    keys = first.keys()
    if "conversations" in keys and "chosen" in keys:
        return "sharegpt"
    if "messages" in keys and "label" in keys:
        return "thumbs"
    if "instruction" in keys and "output" in keys:
        return "alpaca"
    if {"chosen", "rejected"} <= keys:
        dialogue = isinstance(first["chosen"], str) and "prompt" not in keys
        return "hh-rlhf" if dialogue else "trl"
    if "prompt" in keys:
        return "jsonl"
    raise UserError(
        f"The format of {path.name} is not one the studio knows: its first record has the keys "
        f"{', '.join(map(str, keys)) or 'none'}. Say which it is with --format, one of {', '.join(READERS)}."
    )


def _decoded(data: bytes) -> str:
    """UTF-8, or the UTF-16 that Windows' own tools write, which begins with a mark."""
    try:
        return data.decode("utf-16" if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("it is not text in UTF-8. Save it as that") from None


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    """(line, record) of a file; a line that is not JSON comes as a ValueError in the record's place."""
    data = path.read_bytes()
    text = _decoded(gzip.decompress(data) if path.suffix == ".gz" else data)
    name = path.name.removesuffix(".gz")
    if name.endswith(".csv"):
        reader = csv.DictReader(io.StringIO(text))
        column = "prompt" if "prompt" in (reader.fieldnames or ()) else (reader.fieldnames or [""])[0]
        for row in reader:
            yield reader.line_num, {"prompt": row.get(column)}
    elif name.endswith((".txt", ".text", ".md")):
        yield from ((n, {"prompt": line}) for n, line in enumerate(text.split("\n"), 1) if line.strip())
    elif text.lstrip().startswith("["):
        yield from enumerate(json.loads(text), 1)
    else:
        for n, line in enumerate(text.split("\n"), 1):  # not splitlines: JSON may hold U+2028 and its like as they are
            if line.strip():
                try:
                    yield n, json.loads(line)
                except ValueError as error:
                    yield n, error


def read_file(store: Store, path: Path, form: str = "auto") -> tuple[dict, list[Record]]:
    """(what an import of the file would come to, the records it would add); nothing is written.

    The first is {"format", "imported", "duplicates", "refused", "errors": [{"line", "reason"}]}; what is in the store
    already counts as a duplicate. Raises UserError where the file cannot be read at all.
    """
    if form not in IMPORT_FORMATS:
        raise UserError(f'There is no format "{form}". Choose one of {", ".join(READERS)}.')
    try:
        rows = list(_rows(path))
    except (OSError, EOFError, zlib.error, csv.Error, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not rows:
        raise UserError(f"There is nothing in {path}.")
    if form == "auto":
        first = next((row for _, row in rows if isinstance(row, dict)), {})
        form = detect(path, first)
    result: dict[str, Any] = {"format": form, "imported": 0, "duplicates": 0, "refused": 0, "errors": []}
    known = {row["source"] for row in store.rows("SELECT DISTINCT source FROM prompts WHERE source LIKE 'import:%'")}
    records: list[Record] = []
    for line, row in rows:
        try:
            if not isinstance(row, dict):
                raise Refused(f"not a JSON object ({row})" if isinstance(row, ValueError) else "not an object")
            record = READERS[form](row)
        except (Refused, KeyError, TypeError, AttributeError) as error:
            result["refused"] += 1
            reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            result["errors"].append({"line": line, "reason": reason})
            continue
        if record.source in known:
            result["duplicates"] += 1
            continue
        known.add(record.source)
        records.append(record)
    result["imported"] = len(records)
    return result, records


def import_file(store: Store, path: Path, form: str = "auto") -> dict:
    """Read a file into the store, all of it in one transaction; returns what came of it, as `read_file` does."""
    result, records = read_file(store, path, form)
    with store.writing() as connection:
        for record in records:
            _keep(connection, record, record.source, f"import:{path.name}")
    return result


def _keep(connection, record: Record, source: str, annotator: str) -> None:
    parent, prompt = None, 0
    turns = list(record.context)
    if turns[0]["role"] == "system":  # a system turn goes in front of what the person says first
        system = turns.pop(0)["content"]
        turns[0] = {**turns[0], "content": f"{system}\n\n{turns[0]['content']}"}
    for turn in turns:
        if turn["role"] == "user":
            prompt = insert(
                connection, "prompts", parent_response_id=parent, text=turn["content"], source=source, created=now()
            )
        else:
            parent = _response(connection, prompt, turn["content"])
    responses = [_response(connection, prompt, text) for text in record.responses]

    def judge(kind: str, response: int | None, value: dict) -> None:
        insert(
            connection, "feedback", kind=kind, prompt_id=prompt, response_id=response, value=value,
            annotator=annotator, created=now(),
        )  # fmt: skip

    if record.tiers:
        judge("ranking", None, {"tiers": [[responses[i] for i in tier] for tier in record.tiers]})
    if record.rating is not None:
        judge("rating", responses[0], {"score": record.rating})


def _response(connection, prompt: int, text: str) -> int:
    return insert(
        connection, "responses", prompt_id=prompt, text=text, tokens=0, seed=0, sampling={}, finish="stop",
        created=now(),
    )  # fmt: skip
