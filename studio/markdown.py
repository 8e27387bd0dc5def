"""Answers that are written in Markdown, as safe HTML. Everything else is shown as it is, character for character."""

import re

import nh3
from markdown_it import MarkdownIt

# Images would make the page ask other machines for them.
_markdown = MarkdownIt("commonmark", {"html": False, "breaks": True}).enable("table").disable("image")

# Markdown on purpose, not by accident.
_MARKS = re.compile(
    "|".join(
        [
            r"^\s*```.+?^\s*```",  # a fence
            r"^\s*[-*+] .+\n+\s*[-*+] ",  # two items
            r"^\s*\d+[.)] .+\n+\s*\d+[.)] ",
            r"^#{1,6} \S",  # a heading
            r"^\s*\|.+\|\s*\n\s*\|[ :|-]+\|",  # a table
            r"\*\*\w[^*\n]*\*\*",  # bold words
        ]
    ),
    re.MULTILINE | re.DOTALL,
)
_TAGS = {
    "p", "br", "em", "strong", "code", "pre", "ul", "ol", "li", "blockquote", "h1", "h2", "h3", "h4", "h5", "h6", "hr",
    "table", "thead", "tbody", "tr", "th", "td", "a",
}  # fmt: skip


def rendered(text: str) -> str | None:
    """HTML of `text` where it is Markdown, sanitised; None where it is plain text."""
    if not _MARKS.search(text):
        return None
    return nh3.clean(_markdown.render(text), tags=_TAGS, attributes={"a": {"href"}}, url_schemes={"http", "https"})
