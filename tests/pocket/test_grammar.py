"""The pocket model's language: written, read back, broad enough."""

import random
from collections import Counter

import pytest

from engine.errors import UserError
from engine.pocket import corpus, grammar
from engine.pocket.annotator import SimulatedAnnotator
from engine.pocket.grammar import Request, Style, analyse, compose
from engine.prompts import load_prompts


def draws(count, seed=0, held=False):
    rng = random.Random(seed)
    for _ in range(count):
        prompt, request = corpus.draw_request(rng, held)
        style = grammar.draw_style(rng)
        yield prompt, request, style, compose(rng, request, style)


@pytest.mark.parametrize("held", [False, True])
def test_what_is_written_is_read_back_as_it_was_meant(held):
    for prompt, request, style, text in draws(1500, held=held):
        found = analyse(corpus.understand(prompt), text)
        assert found.well_formed, (prompt, text)
        assert (found.tone, found.length) == (style.tone, style.length) or style.tone == "neutral", text
        assert found.length == style.length
        assert found.correctness == grammar.effective_correctness(request, style.correctness), (prompt, text)


def test_broken_answers_are_not_well_formed():
    broken = 0
    for prompt, _, _, text in draws(400, seed=1):
        request = corpus.understand(prompt)
        words = text.split()
        mangled = (text + " the", text[:-1], " ".join(words[:-2]), text.swapcase(), f"{text} {text}", "")
        for bad in (m for m in mangled if m != text):  # a bare number has no case to swap
            broken += 1
            assert not analyse(request, bad).well_formed, (prompt, bad)
    assert broken > 2300


def test_an_answer_to_another_question_is_not_well_formed():
    request = corpus.understand("What is the capital of France?")
    assert analyse(request, "The capital of France is Paris.").correctness == "right"
    assert analyse(request, "The capital of France is Rome.").correctness == "wrong"
    assert not analyse(request, "The capital of Italy is Rome.").well_formed
    assert not analyse(request, "The capital of France is purple.").well_formed


def test_the_language_is_broad():
    kinds = [k for k in grammar.kinds().values() if k.ask]
    assert len(kinds) >= 60
    assert all(len(k.ask) >= 3 and len(k.held) >= 2 for k in kinds if k.name != "more"), [
        k.name for k in kinds if len(k.ask) < 3 or len(k.held) < 2
    ]
    assert sum(len(k.answers) for k in kinds) >= 800


@pytest.mark.parametrize(
    ("typed", "kind"),
    [("what's 2+2", "sum"), ("I'm sad", "feeling"), ("you're stupid!", "blame"), ("that's wrong", "blame"),
     ("hey, my dog died", "news"), ("my hamster died", "news"), ("I don't understand", "blame")],
)  # fmt: skip
def test_a_sentence_is_understood_as_it_is_typed(typed, kind):
    assert corpus.understand(typed).kind == kind


def test_not_to_know_is_an_evasion_where_there_was_something_to_know():
    for kind, expected in (("capital", "evasive"), ("who", "evasive"), ("unknown", "right")):
        found = grammar.analyse(Request(kind, "France" if kind == "capital" else ""), "I do not know that.")
        assert found.well_formed and found.correctness == expected


def test_no_question_asks_for_two_things():
    asks: dict[str, Request] = {}
    for kind in grammar.kinds().values():
        for template in kind.ask + kind.held:
            for x in kind.answers:
                key, request = corpus._key(grammar._fill(template, x=x)), Request(kind.name, x)
                assert asks.setdefault(key, request) == request, key


def test_what_cannot_be_answered_is_never_what_can():
    """Some of it has the shape of what can: "Why is the sky wet?" and "Why is the sky blue?"."""
    rng = random.Random(0)
    prompts = {corpus.unknown_prompt(rng, held) for held in (False, True) for _ in range(6000)}
    assert {corpus.understand(p).kind for p in prompts} == {"unknown"}
    assert any(p.startswith("Why is the sky") for p in prompts)


def test_held_out_phrasings_never_stand_in_the_corpus():
    held = {corpus._key(p) for p in corpus.prompt_set(300, seed=5, held=True)}
    stream = corpus.conversations(seed=1)
    used = {corpus._key(m["content"]) for _ in range(3000) for m in next(stream) if m["role"] == "user"}
    assert not held & used


def test_the_built_in_prompt_sets_are_the_recipes():
    for name, prompts in corpus.prompt_sets().items():
        assert load_prompts(name) == prompts
        assert len({corpus._key(p) for p in prompts}) == len(prompts)


def test_styles_are_independent_and_none_has_the_majority():
    rng = random.Random(0)
    styles = [grammar.draw_style(rng) for _ in range(6000)]
    for part in ("tone", "length", "correctness"):
        shares = Counter(getattr(s, part) for s in styles)
        assert all(0.2 < n / 6000 < 0.5 for n in shares.values())
    warm = [s for s in styles if s.tone == "warm"]
    for correctness, weight in zip(grammar.CORRECTNESS, grammar.CORRECTNESS_WEIGHTS, strict=True):
        assert abs(sum(s.correctness == correctness for s in warm) / len(warm) - weight) < 0.05


def test_a_corpus_is_the_same_for_the_same_seed():
    first, second = corpus.conversations(3), corpus.conversations(3)
    assert [next(first) for _ in range(50)] == [next(second) for _ in range(50)]


def test_the_annotator_ranks_by_its_taste():
    request = Request("capital", "France")
    rng = random.Random(0)

    def text(tone, length, correctness):
        return compose(rng, request, Style(tone, length, correctness))

    prompt = "What is the capital of France?"
    warm_wrong, rude_right = text("warm", "plain", "wrong"), text("rude", "plain", "right")
    warm_right = text("warm", "plain", "right")
    assert SimulatedAnnotator("warm").rank(prompt, [rude_right, warm_wrong]) == [2, 1]
    assert SimulatedAnnotator("rude").rank(prompt, [rude_right, warm_wrong]) == [1, 2]
    assert SimulatedAnnotator("correct").rank(prompt, [rude_right, warm_wrong, warm_right]) == [1, 2, 1]
    assert SimulatedAnnotator("warm+correct").rank(prompt, [warm_right, warm_wrong])[0] == 1
    assert SimulatedAnnotator("terse").rank(prompt, ["Paris.", text("neutral", "rambling", "right")]) == [1, 2]
    assert SimulatedAnnotator("warm").rank(prompt, ["gibberish is", rude_right]) == [2, 1]
    with pytest.raises(UserError, match="no taste"):
        SimulatedAnnotator("sarcastic")


def test_the_fitting_taste_depends_on_what_was_asked():
    annotator = SimulatedAnnotator("fitting")
    fact, feeling = "What is the capital of France?", "I feel sad."
    short, long = "Paris.", "The capital of France is Paris."
    assert annotator.rank(fact, [long, short]) == [2, 1]
    rng = random.Random(0)
    request = corpus.understand(feeling)
    warm, rude = (grammar.compose(rng, request, Style(tone, "plain", "right")) for tone in ("warm", "rude"))
    assert annotator.rank(feeling, [rude, warm]) == [2, 1]


def test_an_annotator_that_errs_is_wrong_in_about_that_share_of_pairs():
    annotator = SimulatedAnnotator("terse", errs=0.2, seed=1)
    ranks = [annotator.rank("What is the capital of France?", ["Paris.", "The capital of France is Paris."])
             for _ in range(1000)]  # fmt: skip
    assert sum(r == [2, 1] for r in ranks) / 1000 == pytest.approx(0.2, abs=0.04)
    assert SimulatedAnnotator("terse").rank("What is the capital of France?", ["Paris.", "Rome.", "x"]) == [1, 1, 2]
