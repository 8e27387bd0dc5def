"""A comparison as one HTML file that needs nothing else: figures, votes and every answer. All text is escaped."""

import difflib
import html
import re

STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:1000px;margin:2rem auto;padding:0 1rem;color:#1d1d1b;background:#fff}
table{border-collapse:collapse;width:100%}td,th{border-top:1px solid #ddd;padding:.5rem;text-align:left;
vertical-align:top;overflow-wrap:anywhere}ins{background:#d9f2e3;text-decoration:none}del{background:#fbe0dd}
.figures{display:flex;gap:2rem;flex-wrap:wrap}.figures b{display:block;font-size:1.6rem}
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


def _rate(rate: float | None, low: float, high: float) -> str:
    return "–" if rate is None else f"{rate:.0%} ({low:.0%} to {high:.0%})"


def report(comparison: dict, items: list[dict], votes: dict) -> str:
    """The whole file. `votes` is {"count", "rate", "low", "high", "seen"}.

    As long as the answers' sides were not shown on the page either, questions that can still be voted on blind are left
    out.
    """
    result = comparison["result"]
    shown = [i for i in items if comparison["revealed"] or i["choice"] or i["before"] == i["after"]]
    left_out = len(items) - len(shown)
    note = f"<p>Not shown before they are voted on: {left_out}.</p>" if left_out else ""
    judge = (result.get(key) for key in ("win_rate", "win_rate_low", "win_rate_high"))
    title = html.escape(f"{comparison['before_name']} → {comparison['after_name']}")
    figures = [
        (
            "Votes for after",
            _rate(votes["rate"], votes["low"], votes["high"]),
            f"{votes['count']} blind votes, 95% interval whenever one stops, ties half"
            + (f"; {votes['seen']} more were not blind" if votes["seen"] else ""),
        ),
        ("By the reward model", _rate(*judge), f"{result['prompts']} questions"),
        ("KL", f"{result['kl']:.2f}", "nats an answer"),
    ]
    rows = "".join(
        f'<tr><td dir="auto">{html.escape(i["prompt"])}</td><td dir="auto">{html.escape(i["before"])}</td>'
        f'<td dir="auto">{word_diff(i["before"], i["after"])}</td><td>{html.escape(i["choice"] or "–")}</td></tr>'
        for i in shown
    )
    boxes = "".join(f"<div>{html.escape(a)}<b>{html.escape(b)}</b>{html.escape(c)}</div>" for a, b, c in figures)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
        f'<h1>{title}</h1><p>{html.escape(comparison["created"])}</p><div class="figures">{boxes}</div>'
        f"<table><thead><tr><th>Question</th><th>Before</th><th>After</th><th>Vote</th></tr></thead>"
        f"<tbody>{rows}</tbody></table>{note}</html>"
    )
