"""A comparison as one HTML file that needs nothing else: figures, votes and every answer. All text is escaped."""

import difflib
import html
import re

from studio.words import speaker

STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:1000px;margin:2rem auto;padding:0 1rem;color:#1d1d1b;background:#fff}
table{border-collapse:collapse;width:100%}td,th{border-top:1px solid #ddd;padding:.5rem;text-align:left;
vertical-align:top;overflow-wrap:anywhere}th{white-space:nowrap}
ins{background:#d9f2e3;text-decoration:none}del{background:#fbe0dd}
.figures{display:flex;gap:2rem;flex-wrap:wrap;margin:1rem 0}.figures b{display:block;font-size:1.6rem}
@media(prefers-color-scheme:dark){body{background:#151517;color:#ececee}td,th{border-color:#34343a}ins{background:#1d4a33}
del{background:#5a2622}}
"""


def _words(text: str) -> list[str]:
    return re.findall(r"\S+\s*|\s+", text)


def word_diff(before: str, after: str) -> str:
    """`after` as HTML, what came in <ins> and what went in <del>."""
    a, b = _words(before), _words(after)
    out = []
    for kind, i, j, m, n in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        if kind in ("delete", "replace"):
            out.append(f"<del>{html.escape(''.join(a[i:j]))}</del>")
        if kind in ("insert", "replace"):
            out.append(f"<ins>{html.escape(''.join(b[m:n]))}</ins>")
        if kind == "equal":
            out.append(html.escape("".join(a[i:j])))
    return "".join(out)


def report(comparison: dict, items: list[dict], votes: dict, language: str = "en") -> str:
    """The whole file. `votes` is {"count", "rate", "low", "high", "seen"}; `language` "zh", or English.

    As long as the answers' sides were not shown on the page either, questions that can still be voted on blind are left
    out.
    """
    language = "zh" if language == "zh" else "en"
    t = speaker(language)
    result = comparison["result"]
    shown = [i for i in items if comparison["revealed"] or i["choice"] or i["before"] == i["after"]]
    left_out = len(items) - len(shown)
    note = f"<p>{t('Not shown before they are voted on: {n}.', n=left_out)}</p>" if left_out else ""
    title = html.escape(f"{comparison['before_name']} → {comparison['after_name']}")

    def share(of: dict, *names: str) -> str:
        if of.get(names[0]) is None:
            return "–"
        rate, low, high = (f"{of[name]:.0%}" for name in names)
        return t("{rate} ({low} to {high})", rate=rate, low=low, high=high)

    blind = t("Blind votes: {n}; 95% interval whenever one stops, ties half.", n=votes["count"])
    figures = [
        (
            t("Votes for after"),
            share(votes, "rate", "low", "high"),
            blind + (t(" Not blind, so not counted: {n}.", n=votes["seen"]) if votes["seen"] else ""),
        ),
        (
            t("By the reward model"),
            share(result, "win_rate", "win_rate_low", "win_rate_high"),
            t("Questions: {n}", n=result["prompts"]),
        ),
        ("KL", f"{result['kl']:.2f}", t("nats an answer")),
    ]
    rows = "".join(
        f'<tr><td dir="auto">{html.escape(i["prompt"])}</td><td dir="auto">{html.escape(i["before"])}</td>'
        f'<td dir="auto">{word_diff(i["before"], i["after"])}</td><td>{html.escape(t(i["choice"] or "–"))}</td>'
        "</tr>"
        for i in shown
    )
    boxes = "".join(f"<div>{html.escape(a)}<b>{html.escape(b)}</b>{html.escape(c)}</div>" for a, b, c in figures)
    created = html.escape(comparison["created"][:16].replace("T", " ")) + " UTC"
    heads = "".join(f"<th>{name}</th>" for name in (t("Question"), t("Before"), t("After"), t("Vote")))
    return (
        f'<!doctype html><html lang="{language}"><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
        f'<h1>{title}</h1><p>{created}</p><div class="figures">{boxes}</div>'
        f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>{note}</html>"
    )
