"""The file that "Save report" on Compare makes."""

import re

import pytest

from studio.report import report

RESULT = {"win_rate": 0.5, "win_rate_low": 0.2, "win_rate_high": 0.8, "prompts": 3, "kl": 1.0}
VOTES = {"count": 1, "rate": 1.0, "low": 0.3, "high": 1.0, "seen": 0}
ITEMS = [
    {"prompt": "voted on", "before": "no", "after": "yes indeed", "choice": "after"},
    {"prompt": "still open", "before": "secret before", "after": "secret after", "choice": None},
    {"prompt": "the same twice", "before": "alike", "after": "alike", "choice": None},
]


@pytest.mark.parametrize("revealed", [None, "2026-11-26T00:00:00+00:00"])
def test_it_does_not_give_away_what_can_still_be_voted_on_blind(revealed):
    comparison = {"before_name": "a", "after_name": "b", "created": "today", "revealed": revealed, "result": RESULT}
    text = report(comparison, ITEMS, VOTES)
    assert "voted on" in text and "<ins>yes indeed</ins>" in text and "the same twice" in text
    assert ("secret" in text) == (revealed is not None)
    assert ("Not shown before they are voted on: 1" in text) == (revealed is None)


def test_it_speaks_the_persons_language():
    comparison = {
        "before_name": "a",
        "after_name": "b",
        "created": "2026-11-27T08:00:00",
        "revealed": None,
        "result": RESULT,
    }
    found = report(comparison, ITEMS, VOTES, "zh")
    assert '<html lang="zh">' in found and "<td>后</td>" in found and "50%（20% 到 80%）" in found
    words = re.sub(r"(?s)<style>.*</style>|<[^>]+>|voted on|yes indeed|the same twice|alike", " ", found)
    assert set(re.findall("[A-Za-z]{2,}", words)) <= {"KL", "UTC", "nat", "no"}
