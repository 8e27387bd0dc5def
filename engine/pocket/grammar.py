"""The language of the pocket model: what may be asked, what may be answered, and in which styles.

The tables under ``kinds/`` say it all; this module reads them, writes answers from them (`compose`) and
reads answers back (`analyse`). Every answer is::

    [opener] body [closer]

The body carries length (terse, plain, rambling) and correctness (right, wrong, evasive); opener and closer
carry tone (warm, neutral, rude). The three are drawn independently, so that feedback on one leaves the others.
"""

import random
import re
import string
import tomllib
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import product
from pathlib import Path
from typing import NamedTuple

TONES = ("warm", "neutral", "rude")
LENGTHS = ("terse", "plain", "rambling")
CORRECTNESS = ("right", "wrong", "evasive")

# In what the model then says no style should hold a majority, so that feedback can move each either way. It leans
# towards what is short, plain and right, most of all where the build sharpens it, so the corpus leans the other way.
TONE_WEIGHTS = (0.37, 0.21, 0.42)
LENGTH_WEIGHTS = (0.36, 0.21, 0.43)
CORRECTNESS_WEIGHTS = (0.35, 0.31, 0.34)

NUMBER_WORDS = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]


@dataclass(frozen=True)
class Kind:
    """One kind of request: its phrasings, its table of answers and its sentences."""

    name: str
    topic: str
    ask: tuple[str, ...]
    held: tuple[str, ...]
    terse: tuple[str, ...]
    plain: tuple[str, ...]
    answers: dict[str, tuple[str, ...]] = field(hash=False)  # entity -> right answers
    fact: bool = False
    talk: bool = False  # small talk: nothing to get wrong

    @cached_property
    def every_answer(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(a for right in self.answers.values() for a in right))

    def misconceptions(self, x: str) -> list[str]:
        """What people who are wrong about `x` say: the kind's four most common answers that are not right.

        As with people, mistakes are not spread evenly. A model this small also cannot spread a quarter of its
        probability evenly over thirty answers without spilling some onto nonsense. With two of them each was often
        likelier than what is right, where that was known by half.
        """
        return [answer for answer in self._common if answer not in self.answers[x]][:4]

    @cached_property
    def _common(self) -> list[str]:
        return [a for a, _ in Counter(a for right in self.answers.values() for a in right).most_common()]


@dataclass(frozen=True)
class Request:
    """What a prompt asks for: a kind, and the entity it is about."""

    kind: str
    x: str = ""
    prior: str = ""  # for "are you sure?": how correct the answer before was


@dataclass(frozen=True)
class Style:
    tone: str
    length: str
    correctness: str


@dataclass(frozen=True)
class Analysis:
    """What `analyse` found in a response; the fields after `well_formed` mean nothing without it."""

    well_formed: bool
    tone: str = ""
    length: str = ""
    correctness: str = ""
    warmth: int = 0  # warm phrases minus rude phrases, -2..2
    words: int = 0


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(";") if part.strip())


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _fill(template: str, **slots: str) -> str:
    capitals = {key.upper(): _upper(value) for key, value in slots.items() if len(key) == 1}
    return template.format(**{**capitals, **slots})


@lru_cache(maxsize=1)
def tables() -> dict:
    """Every table of ``kinds/``, by section name."""
    merged: dict = {}
    for path in sorted((Path(__file__).parent / "kinds").glob("*.toml")):
        merged.update(tomllib.loads(path.read_text(encoding="utf-8")))
    return merged


def _number_kinds() -> dict[str, dict]:
    """Sums and their kin: tables too long to write out by hand."""
    rng = random.Random(7)
    ask = ["What is {x}?", "How much is {x}?", "Calculate {x}.", "Work out {x}.", "Tell me {x}.", "{x}", "{x} = ?"]
    held = ["Do you know how much {x} is?", "Please calculate {x}."]
    plus, less, by = (" plus ", "+", " + "), (" minus ", "-", " - "), (" times ", "*", " x ")
    sums = {f"{a}{s}{b}": (str(a + b),) for a in range(1, 6) for b in range(1, 6) for s in plus}
    minus = {f"{a}{s}{b}": (str(a - b),) for a in range(3, 9) for b in range(1, 5) if b < a for s in less}
    times = {f"{a}{s}{b}": (str(a * b),) for a in range(2, 7) for b in range(1, 5) for s in by}
    pairs = [(a, b) for a in range(1, 13) for b in range(1, 13) if a != b]
    larger = {f"{a} or {b}": (str(max(a, b)),) for a, b in rng.sample(pairs, 24)}
    following = {str(n): (str(n + 1),) for n in range(1, 17)}

    def kind(answers, topic, terse, plain, ask=ask, held=held):
        return {
            "fact": True, "topic": topic, "ask": ask, "held": held, "terse": terse, "plain": plain, "answers": answers
        }  # fmt: skip

    short = ["{a}.", "It is {a}.", "{a}, I think."]
    long = ["The result of {x} is {a}.", "When you work it out, {x} gives {a}.", "I make {x} to be {a} in the end."]
    return {
        "sum": kind(sums, "{x}", short, long),
        "difference": kind(minus, "{x}", short, long),
        "times": kind(times, "{x}", short, long),
        "larger": kind(
            larger,
            "which number is larger",
            ["{a}.", "It is {a}.", "{a} is."],
            ["Of the two the larger number is {a}.", "Between {x} the greater one is {a}.",
             "If I compare {x}, I pick {a}."],
            ["Which number is larger, {x}?", "What is more, {x}?", "Which is greater, {x}?",
             "Tell me the larger number, {x}."],
            ["Do you know which number is larger, {x}?", "Name the greater number, {x}."],
        ),
        "next": kind(
            following,
            "the number after {x}",
            short,
            ["The number after {x} is {a}.", "If you count on from {x}, you get {a}.",
             "Right behind {x} comes the number {a}."],
            ["Which number comes after {x}?", "What number follows {x}?", "Count one up from {x}.",
             "What is one more than {x}?"],
            ["Tell me the number after {x}.", "Do you know what number comes after {x}?"],
        ),
    }  # fmt: skip


def _answers(name: str, table: dict) -> dict[str, tuple[str, ...]]:
    if "answers" in table:
        return table["answers"]
    if "pairs" in table:
        split = (entry.split(" : ", 1) for entry in _split(table["pairs"]))
        return {each: tuple(a.split("|")) for x, a in split for each in _expand([x], table)}
    if "same" in table:
        return {x: (x,) for x in _split(table["same"])}
    if "all" in table:
        return {"": _split(table["all"])}
    if "words" in table:
        rule = {
            "spell": lambda w: "-".join(w),
            "letters": lambda w: NUMBER_WORDS[len(w)],
            "firstletter": lambda w: w[0].upper(),
        }[name]
        return {w: (rule(w),) for w in table["words"].split()}
    return {"": ("",)}


def _short_forms(table: dict) -> tuple[str, ...]:
    """The terse sentences of a kind. Where the bare answer is one, so are those that every such kind shares."""
    bare = not {"{A}.", "{a}."}.isdisjoint(table["terse"])
    return tuple(dict.fromkeys([*table["terse"], *(tables()["shared"]["terse"] if bare else ())]))


@lru_cache(maxsize=1)
def kinds() -> dict[str, Kind]:
    """Every kind of request that stands on its own (follow-ups are made from these in `corpus`)."""
    found = {}
    for name, table in {**tables(), **_number_kinds()}.items():
        if "topic" not in table or "terse" not in table:
            continue
        found[name] = Kind(
            name=name,
            topic=table["topic"],
            ask=tuple(table.get("ask", ())),
            held=tuple(table.get("held", ())),
            terse=_short_forms(table),
            plain=tuple(table["plain"]),
            answers=_answers(name, table),
            fact=table.get("fact", False),
            talk="all" in table or name in ("unknown", "more", "reply"),
        )
    return found


def _expand(templates: list[str], table: dict) -> list[str]:
    """All strings that a template with list slots ({o}, {e}, ...) can become."""
    out = []
    for template in templates:
        names = [name for _, name, _, _ in string.Formatter().parse(template) if name]
        for values in product(*(_split(table[name]) for name in names)):
            out.append(template.format(**dict(zip(names, values, strict=True))))
    return out


@lru_cache(maxsize=1)
def tone_phrases() -> tuple[dict[str, tuple[str, str]], dict[str, list[str]]]:
    """({phrase: (tone, "opener" | "closer")}, {tone + " " + place: phrases})."""
    where, lists = {}, {}
    for tone, place in product(TONES, ("opener", "closer")):
        table = tables()["tones"][tone]
        lists[f"{tone} {place}"] = _expand(table[place], table)
        where.update(dict.fromkeys(lists[f"{tone} {place}"], (tone, place)))
    return where, lists


def _phrase(rng: random.Random, tone: str, place: str) -> str:
    table = tables()["tones"][tone]
    template = rng.choice(table[place])
    slots = {name: rng.choice(_split(table[name])) for _, name, _, _ in string.Formatter().parse(template) if name}
    return template.format(**slots)


def draw_style(rng: random.Random) -> Style:
    """Tone, length and correctness, each independent of the others."""
    return Style(
        rng.choices(TONES, TONE_WEIGHTS)[0],
        rng.choices(LENGTHS, LENGTH_WEIGHTS)[0],
        rng.choices(CORRECTNESS, CORRECTNESS_WEIGHTS)[0],
    )


def effective_correctness(request: Request, wanted: str) -> str:
    """What `wanted` comes to for a kind where it does not apply (small talk has no wrong answer)."""
    kind = kinds().get(request.kind)
    if request.kind in ("unknown", "more", "reply") or (kind and kind.talk and wanted == "wrong"):
        return "right"
    return wanted


def _sure_bodies(prior: str, length: str, correctness: str) -> list[str]:
    """Answers to "are you sure?". A wrong one asserts the reverse of what is so."""
    table = tables()["sure"]
    truth = prior
    if correctness == "wrong":
        truth = {"right": "wrong", "wrong": "right", "evasive": "right"}[prior]
    return list(table[f"{truth}_{'terse' if length == 'terse' else 'plain'}"])


def core(rng: random.Random, request: Request, length: str, correctness: str) -> str:
    """The one sentence of the body that carries correctness."""
    slot = "terse" if length == "terse" else "plain"
    if request.kind == "sure":
        if correctness != "evasive":
            return rng.choice(_sure_bodies(request.prior, length, correctness))
        topic = tables()["sure"]["topic"]
    else:
        kind = kinds()[request.kind]
        topic = _fill(kind.topic, x=request.x)
    if correctness == "evasive":
        return rng.choice(tables()["evasive"][slot]).format(t=topic)
    right = kind.answers.get(request.x, ("",))
    answer = rng.choice(right if correctness == "right" else kind.misconceptions(request.x))
    fillers = {name: rng.choice(_split(values)) for name, values in tables()["fillers"].items()}
    return _fill(rng.choice(getattr(kind, slot)), x=request.x, a=answer, t=topic, **fillers)


def compose(rng: random.Random, request: Request, style: Style) -> str:
    """One answer to `request` in `style`."""
    return write(rng, request, style).text


class Written(NamedTuple):
    text: str
    core: str  # the sentence in it that carries correctness
    manner: str  # the tone, "very" warm or rude where opener and closer both are


def write(rng: random.Random, request: Request, style: Style) -> Written:
    """One answer to `request` in `style`."""
    body = kernel = core(rng, request, style.length, effective_correctness(request, style.correctness))
    if style.length == "rambling":
        first, second = rng.sample(tables()["ramble"]["lines"], 2)
        body = rng.choice((f"{body} {first} {second}", f"{first} {body} {second}"))
    choices: tuple[tuple[str, ...], ...] = (("opener",), ("closer",), ("opener", "closer"))
    # An answer tends to end where it may: of what is written with an opener, most must go on to a closer for the model
    # to say a fair share of both.
    weights = (0.26, 0.18, 0.56)
    if style.tone == "neutral":
        choices, weights = ((), ("opener",), ("closer",)), (0.7, 0.15, 0.15)
    places = rng.choices(choices, weights)[0]
    opener = _phrase(rng, style.tone, "opener") + " " if "opener" in places else ""
    closer = " " + _phrase(rng, style.tone, "closer") if "closer" in places else ""
    manner = f"very {style.tone}" if len(places) == 2 else style.tone
    return Written(opener + body + closer, kernel, manner)


@lru_cache(maxsize=1)
def _edges() -> tuple[re.Pattern, re.Pattern]:
    _, lists = tone_phrases()
    by_length = {
        place: "|".join(
            re.escape(p) for p in sorted((p for t in TONES for p in lists[f"{t} {place}"]), key=len, reverse=True)
        )
        for place in ("opener", "closer")
    }
    return re.compile(f"^({by_length['opener']}) "), re.compile(f" ({by_length['closer']})$")


@lru_cache(maxsize=4096)
def bodies(request: Request) -> dict[str, tuple[str, str]]:
    """{core sentence: (slot "terse" | "plain", correctness)}: everything the grammar may answer to `request`."""
    found: dict[str, tuple[str, str]] = {}
    if request.kind == "sure":
        topic = tables()["sure"]["topic"]
        for correctness, slot in product(("wrong", "right"), ("terse", "plain")):
            found.update(dict.fromkeys(_sure_bodies(request.prior, slot, correctness), (slot, correctness)))
    else:
        kind = kinds()[request.kind]
        topic = _fill(kind.topic, x=request.x)
        right = kind.answers.get(request.x, ("",))
        for slot in ("terse", "plain"):
            for template in getattr(kind, slot):
                names = [n for _, n, _, _ in string.Formatter().parse(template) if n and n in tables()["fillers"]]
                for values in product(*(_split(tables()["fillers"][n]) for n in names)):
                    fillers = dict(zip(names, values, strict=True))
                    for answer in sorted(kind.every_answer or ("",), key=lambda a: a in right):
                        text = _fill(template, x=request.x, a=answer, t=topic, **fillers)
                        found[text] = (slot, "right" if answer in right else "wrong")
    if request.kind not in ("unknown", "more", "reply"):
        for slot in ("terse", "plain"):
            found.update({b.format(t=topic): (slot, "evasive") for b in tables()["evasive"][slot]})
            for text in getattr(kinds()["unknown"], slot):  # not to know what it could have known is no nonsense
                found.setdefault(text, (slot, "evasive"))
    return found


def analyse(request: Request, response: str) -> Analysis:
    """Read `response` back. An answer outside the grammar, or one to another question, is not well-formed."""
    where, _ = tone_phrases()
    opening, closing = _edges()
    rest, tones = response, []
    if match := opening.match(rest):
        tones.append(where[match[1]][0])
        rest = rest[match.end() :]
    if match := closing.search(rest):
        tones.append(where[match[1]][0])
        rest = rest[: match.start()]
    if len(set(tones)) > 1 or tones.count("neutral") > 1:
        return Analysis(False)
    lines = [line for line in tables()["ramble"]["lines"] if line in rest]
    ordered = sorted(lines, key=rest.index)
    core = rest
    for line in lines:
        core = core.replace(line, "", 1)
    core = core.strip()
    if core not in bodies(request):
        return Analysis(False)
    slot, correctness = bodies(request)[core]
    if lines:
        forms = (" ".join([core, *ordered]), " ".join([*ordered[:1], core, *ordered[1:]]))
        if len(lines) != 2 or rest not in forms or slot != "plain":
            return Analysis(False)
    elif rest != core:
        return Analysis(False)
    warmth = tones.count("warm") - tones.count("rude")
    tone = tones[0] if tones else "neutral"
    return Analysis(True, tone, "rambling" if lines else slot, correctness, warmth, len(response.split()))
