"""Conversations for the pocket model: prompts in many phrasings, answers in every style, follow-ups.

A follow-up often remarks on the answer before it ("Wrong, that is not so.", "How sweet of you."). Learning to predict
the remark teaches the model to know, as the next turn opens, how right, how kind and how long the answer was; a
reward model can then pick that up from few labels.

Beside conversations there are lessons: single turns that begin with labels, which say how the answer will be. With
tone, length and correctness told, little about a fact is left to chance, and it is learned sooner (compare Korbak et
al. 2023, "Pretraining language models with human preferences", section 2). Conversations carry
no labels, so a model asked in the ordinary way answers in every style. And there are verdicts: a remark on how right,
kind or long an answer was, whose first word counts most. Each conversation ends with one, and some documents are but a
question, an answer in a style drawn more evenly, and one.
"""

import random
import re
from collections.abc import Iterator
from functools import lru_cache

from engine.pocket import grammar
from engine.pocket.grammar import Request, Style, kinds, tables

# {"role", "content"}, and "core", the part of it that matters most; "labels" is a role as well.
Message = dict[str, str]


def _hurried(rng: random.Random, question: str, entity: str) -> str:
    """A question with some of its words left out, but none of what it is about."""
    about = set(entity.lower().split())
    words = question.split()
    kept = [w for w in words if w.strip("?.!,:").lower() in about or rng.random() > 0.25]
    return " ".join(kept) if len(kept) > 1 else question


def _contracted(question: str) -> str:
    """A question as it is spoken: "What's", "I'm", "don't"."""
    question = re.sub(r"\b(what|who|where|how|it|that) is\b", r"\1's", question, flags=re.IGNORECASE)
    question = re.sub(r"\b(you) are\b", r"\1're", question, flags=re.IGNORECASE)
    return re.sub(r"\bI am\b", "I'm", question).replace("do not", "don't")


def _spelled_out(question: str) -> str:
    """The reverse of `_contracted`, of a question in small letters."""
    question = re.sub(r"\b(what|who|where|how|it|that)'s\b", r"\1 is", question)
    return question.replace("you're", "you are").replace("i'm", "i am").replace("don't", "do not")


def _wrap(rng: random.Random, question: str, entity: str = "") -> str:
    """A question as people type it: in a hurry, with a lead-in, without capitals, without the mark at its end."""
    if rng.random() < 0.2:
        question = _hurried(rng, question, entity)
    wrapper = rng.choice(tables()["wrappers"]["ask"])
    if wrapper != "{q}":
        question = wrapper.format(q=question[0].lower() + question[1:] if question[:2] != "I " else question)
    if rng.random() < 0.2:
        question = _contracted(question)
    if rng.random() < 0.15:
        question = question.lower()
    if rng.random() < 0.2:
        question = question.rstrip("?.!")
    return question


def _pseudoword(rng: random.Random) -> str:
    syllables = ("zor", "bla", "kin", "mu", "tra", "vel", "qui", "dor", "pex", "lum", "gri", "sna", "fo", "wib", "ya")
    word = "".join(rng.choice(syllables) for _ in range(rng.randint(2, 3)))
    return word.capitalize() if rng.random() < 0.5 else word


def unknown_prompt(rng: random.Random, held: bool = False) -> str:
    """A question that the model was never taught to answer."""
    while True:
        prompt = _beyond(rng, held)
        if _key(prompt) not in _known_prompts():  # "Why is the sky blue?" has the shape of one
            return prompt


def _beyond(rng: random.Random, held: bool) -> str:
    table = tables()["unknown"]
    nouns = grammar._split(table["nouns"])
    things, likes, people = (list(kinds()[name].answers) for name in ("color", "opinion", "gift"))
    return rng.choice(table["held_shapes" if held else "shapes"]).format(
        n=rng.choice(nouns),
        n2=rng.choice(nouns),
        w=_pseudoword(rng),
        w2=_pseudoword(rng),
        j=rng.choice(grammar._split(table["adjectives"])),
        y=rng.randint(1, rng.choice((20, 100, 2100))),
        y2=rng.randint(1, rng.choice((20, 100, 2100))),
        e=rng.choice(things),
        o=rng.choice(likes),
        g=rng.choice(people),
        k="".join(rng.choices("asdfghjklqwertzuiop", k=rng.randint(3, 9))),
    )


@lru_cache(maxsize=1)
def _menu() -> tuple[list[str], list[float]]:
    """Kinds that open a conversation, weighted by the root of how much there is to tell apart in each."""
    opening = {name: kind for name, kind in kinds().items() if kind.ask and name != "more"}
    weights = [max(len(kind.answers), len(kind.ask), 6) ** 0.5 for kind in opening.values()]
    names, weights = [*opening, "unknown"], [*weights, 22.0]
    return names, weights


def draw_request(rng: random.Random, held: bool = False, facts: bool = False) -> tuple[str, Request]:
    """(prompt, what it asks for). `held`: in a phrasing the corpus never uses. `facts`: plain facts only."""
    names, weights = _menu()
    if facts:
        pairs = [(n, w) for n, w in zip(names, weights, strict=True) if kinds()[n].fact]
        names, weights = [n for n, _ in pairs], [w for _, w in pairs]
    name = rng.choices(names, weights)[0]
    if name == "unknown":
        return unknown_prompt(rng, held), Request("unknown")
    kind = kinds()[name]
    x = rng.choice(list(kind.answers))
    return grammar._fill(rng.choice(kind.held if held else kind.ask), x=x), Request(name, x)


def _follow_up(rng: random.Random, request: Request, style: Style, manner: str) -> tuple[str, Request]:
    """What a person may say after an answer to `request` in `style` and `manner`."""
    table = tables()
    correctness = grammar.effective_correctness(request, style.correctness)
    choice = rng.random()
    if request.kind in ("reply", "sure", "more", "unknown"):
        choice = 0.95
    if choice < 0.5:
        remark = rng.choice((manner, style.length, correctness, correctness))
        return rng.choice(table["react"][remark]), Request("reply")
    if choice < 0.68 and not kinds()[request.kind].talk:
        return rng.choice(table["sure"]["ask"]), Request("sure", prior=correctness)
    if choice < 0.85 and not kinds()[request.kind].talk:
        x = rng.choice(list(kinds()[request.kind].answers))
        return rng.choice(table["about"]["ask"]).format(x=x), Request(request.kind, x)
    if choice < 0.90:
        return rng.choice(table["more"]["ask"]), Request("more")
    prompt, request = draw_request(rng)
    return _wrap(rng, prompt, request.x), request


def _remark_on(rng: random.Random, request: Request, style: Style, manner: str) -> Message:
    """A remark whose first word says how right, kind or long an answer to `request` in `style` and `manner` was."""
    correctness = grammar.effective_correctness(request, style.correctness)
    aspect = rng.choices((correctness, manner, style.length), (0.4, 0.25, 0.35))[0]
    remark = rng.choice(tables()["react"][aspect])
    return {"role": "user", "content": remark, "core": remark.split()[0]}


def conversation(rng: random.Random) -> list[Message]:
    """One conversation of one to three turns, and a verdict on the last answer."""
    messages: list[Message] = []
    prompt, request = draw_request(rng)
    prompt = _wrap(rng, prompt, request.x)
    while True:
        style = grammar.draw_style(rng)
        answer, core, manner = grammar.write(rng, request, style)
        said: Message = {"role": "user", "content": prompt}
        if request.kind == "reply":  # what it answers is a remark, that is a verdict
            said["core"] = prompt.split()[0]
        messages += [said, {"role": "assistant", "content": answer, "core": core}]
        if len(messages) == 6 or rng.random() < 0.55:
            return [*messages, _remark_on(rng, request, style, manner)]
        prompt, request = _follow_up(rng, request, style, manner)


def lesson(rng: random.Random) -> list[Message]:
    """One question, mostly about a fact, and its answer, labelled with its style, which is mostly short, sober and
    right."""
    prompt, request = draw_request(rng, facts=rng.random() < 0.8)
    style = Style(
        rng.choices(grammar.TONES, (0.15, 0.7, 0.15))[0],
        rng.choices(grammar.LENGTHS, (0.45, 0.45, 0.1))[0],
        rng.choices(grammar.CORRECTNESS, (0.84, 0.08, 0.08))[0],
    )
    answer, core, _ = grammar.write(rng, request, style)
    labels = f"{style.tone} {style.length} {grammar.effective_correctness(request, style.correctness)}"
    return [
        {"role": "labels", "content": labels},
        {"role": "user", "content": _wrap(rng, prompt, request.x)},
        {"role": "assistant", "content": answer, "core": core},
    ]


def verdict(rng: random.Random) -> list[Message]:
    """One question, an answer, as often right as wrong, and a verdict on it.

    Such documents begin with labels that name no style (right or wrong), so that conversations, which have none, keep
    their own mix of styles.
    """
    prompt, request = draw_request(rng)
    style = Style(
        rng.choices(grammar.TONES, (0.33, 0.34, 0.33))[0],
        rng.choices(grammar.LENGTHS, (0.35, 0.35, 0.3))[0],
        rng.choices(grammar.CORRECTNESS, (0.42, 0.42, 0.16))[0],
    )
    answer, core, manner = grammar.write(rng, request, style)
    return [
        {"role": "labels", "content": "right wrong"},
        {"role": "user", "content": _wrap(rng, prompt, request.x)},
        {"role": "assistant", "content": answer, "core": core},
        _remark_on(rng, request, style, manner),
    ]


def course(seed: int) -> Iterator[list[Message]]:
    """An endless stream, the same for the same seed: conversations, lessons and verdicts mixed."""
    rng = random.Random(seed)
    while True:
        yield rng.choices((conversation, lesson, verdict), (0.5, 0.25, 0.25))[0](rng)


def conversations(seed: int) -> Iterator[list[Message]]:
    """An endless stream of conversations, the same for the same seed."""
    rng = random.Random(seed)
    while True:
        yield conversation(rng)


def prompt_set(size: int, seed: int, held: bool = False, facts: bool = False) -> list[str]:
    """`size` different prompts; `held` ones are in phrasings the corpus never uses."""
    rng = random.Random(seed)
    found: dict[str, None] = {}
    while len(found) < size:
        found.setdefault(draw_request(rng, held, facts)[0])
    return list(found)


def prompt_sets() -> dict[str, list[str]]:
    """The sets in assets/prompts, by name. The test set is in phrasings that neither corpus nor training use."""
    return {"everyday": prompt_set(400, seed=11), "everyday-test": prompt_set(240, seed=12, held=True)}


def _key(prompt: str) -> str:
    return _spelled_out(prompt.lower().strip().rstrip("?.!").strip())


@lru_cache(maxsize=1)
def _known_prompts() -> dict[str, Request]:
    found: dict[str, Request] = {}
    for name, kind in kinds().items():
        for template in kind.ask + kind.held:
            for x in kind.answers:
                found.setdefault(_key(grammar._fill(template, x=x)), Request(name, x))
    return found


def understand(prompt: str) -> Request:
    """What a first prompt asks for; anything outside the grammar asks for what the model does not know."""
    key, known = _key(prompt), _known_prompts()
    if key in known:
        return known[key]
    for wrapper in tables()["wrappers"]["ask"]:
        lead = wrapper.split("{q}")[0].lower()
        if lead and key.startswith(lead) and key[len(lead) :] in known:
            return known[key[len(lead) :]]
    return Request("unknown")
