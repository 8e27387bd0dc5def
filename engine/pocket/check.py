"""Measure the pocket model on phrasings its corpus never used. ``python -m engine.pocket.check [FOLDER]``."""

import sys
from collections import Counter

import click

from engine.models.load import load_base
from engine.models.roles import Roles
from engine.pocket.corpus import prompt_set, understand
from engine.pocket.grammar import LENGTHS, TONES, Analysis, analyse
from engine.sampling.answers import answer
from engine.sampling.settings import Sampling

WELL_FORMED = 0.95  # of samples
SHARE = 0.15  # of samples, the least for each tone and each length
MAJORITY = 0.5  # of samples, the most for any tone or length; what is not well-formed has none
RIGHT = 0.85  # of greedy answers to plain facts


def _read(roles: Roles, prompts: list[str], sampling: Sampling) -> list[Analysis]:
    conversations = [[{"role": "user", "content": p}] for p in prompts]
    answers = answer(roles, None, conversations, sampling, list(range(len(prompts))))
    return [analyse(understand(p), a.text) for p, a in zip(prompts, answers, strict=True)]


def measure(roles: Roles, samples: int = 500, facts: int = 200) -> dict[str, float]:
    """Shares from 0 to 1: "well_formed", each tone and length, each correctness, and "right_greedy"."""
    read = _read(roles, prompt_set(samples, seed=99, held=True), Sampling())
    good = [a for a in read if a.well_formed]
    found = {"well_formed": len(good) / samples}
    for part in ("tone", "length", "correctness"):
        counted = Counter(getattr(a, part) for a in good)
        found |= {name: count / len(good) for name, count in sorted(counted.items())}
    greedy = _read(roles, prompt_set(facts, seed=98, held=True, facts=True), Sampling(temperature=0))
    found["right_greedy"] = sum(a.well_formed and a.correctness == "right" for a in greedy) / facts
    return found


def shortcomings(found: dict[str, float]) -> list[str]:
    """What of `measure` falls short of what the pocket model must do, a sentence each."""
    bounds = {"well_formed": WELL_FORMED, "right_greedy": RIGHT, **dict.fromkeys(TONES + LENGTHS, SHARE)}
    below = [
        f"{name} is {found.get(name, 0):.1%}, below {bound:.0%}"
        for name, bound in bounds.items()
        if found.get(name, 0) < bound
    ]
    above = [
        f"{name} has the majority of samples"
        for name in TONES + LENGTHS
        if found.get(name, 0) * found["well_formed"] > MAJORITY
    ]
    return below + above


@click.command()
@click.argument("folder", default="pocket")
def main(folder: str) -> None:
    """Measure the pocket model in FOLDER; exit code 1 where it falls short."""
    found = measure(Roles(load_base(folder)))
    for name, share in found.items():
        click.echo(f"{name:<14}{share:6.1%}")
    short = shortcomings(found)
    for line in short:
        click.echo(line, err=True)
    sys.exit(1 if short else 0)


if __name__ == "__main__":
    main()
