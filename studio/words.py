"""The person's language. English stands in the code; the Chinese of each sentence in assets/page/zh.json."""

import json
from collections.abc import Callable
from pathlib import Path

ASSETS = Path(__file__).parents[1] / "assets" / "page"
CHINESE: dict[str, str] = json.loads((ASSETS / "zh.json").read_text("utf-8"))


def speaker(language: str) -> Callable[..., str]:
    """t(sentence, name=value): the sentence in `language`, each {name} filled in; `t` of the page's scripts."""

    def t(sentence: str, **values: object) -> str:
        return (CHINESE.get(sentence, sentence) if language == "zh" else sentence).format(**values)

    return t
