"""Every word of the page has its Chinese: what scripts say, what skeletons hold, what settings mean."""

import html
import re
from pathlib import Path

import pytest

import engine
from engine.jobs.config import STAGES, described_settings
from studio import report
from studio.pages import PAGES, chat, compare, data, label, models, train
from studio.words import ASSETS
from studio.words import CHINESE as WORDS

MODULES = (chat, label, train, compare, models, data)
STRING = r'"((?:[^"\\]|\\.)+)"'


def spoken(script: str) -> set[str]:
    """The sentences that a script passes to a function that translates them."""
    found = set(re.findall(rf"\b(?:t|notice)\({STRING}", script))
    found |= set(re.findall(rf"\bfigure\({STRING}", script)) | set(re.findall(rf"\bfold\([^,]+, {STRING}", script))
    found |= set(re.findall(rf"\baction\([^\n]*?, {STRING}, \(\) =>", script))
    for first, second in re.findall(rf"\bt\([^()?]+\? {STRING} : {STRING}\)", script):
        found |= {first, second}
    return found


def untranslated(sentences: set[str]) -> list[str]:
    plain = {html.unescape(s).replace('\\"', '"') for s in sentences}
    return sorted(s for s in plain if re.search("[A-Za-z]{2}", s) and s[0] != "/" and s not in WORDS)


@pytest.mark.parametrize("script", [*sorted(ASSETS.glob("*.js")), Path(report.__file__)], ids=lambda p: p.name)
def test_scripts(script):
    found = spoken(script.read_text("utf-8"))
    assert len(found) >= 4
    assert untranslated(found) == []


@pytest.mark.parametrize("module", MODULES, ids=lambda m: m.__name__.rpartition(".")[2])
def test_skeletons(module):
    texts = {t.strip() for t in re.findall(r">([^<>]+)<", module.SKELETON)}
    texts |= set(re.findall(r'(?:title|placeholder|aria-label)="([^"]+)"', module.SKELETON))
    assert untranslated({t for t in texts if t and not t.isdigit()}) == []


def test_what_the_studio_offers():
    offered = {title for title, _ in PAGES.values()} | set(train.LABELS.values()) | set(label.SETS.values())
    offered |= {engine.launcher.METHODS[name] for name in train.LABELS}
    offered |= set(data.FILTERS.values()) | set(data.EXPORTS.values()) | set(engine.feedback_log.TAGS)
    offered.add(engine.shelf.REPLACED)
    offered |= {title for method in train.LABELS for _, title, _ in train.curves_of(method)}
    offered |= {one["meaning"] for stage in ("", "compare", *STAGES) for one in described_settings(stage)}
    assert untranslated(offered) == []


def test_placeholders_are_the_same_in_both_languages():
    for english, chinese in WORDS.items():
        assert sorted(re.findall(r"\{\w+\}", english)) == sorted(re.findall(r"\{\w+\}", chinese)) or (
            english.startswith("The files of")
        ), english
