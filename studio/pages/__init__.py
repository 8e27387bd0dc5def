"""One file, one page. Each draws itself in JavaScript from what its server functions answer."""

import json
from collections.abc import Callable

import gradio as gr

import engine
from studio.session import Session, friendly
from studio.words import ASSETS, CHINESE

PAGES = {
    "chat": ("Chat", "/"),
    "label": ("Label", "/label"),
    "train": ("Train", "/train"),
    "compare": ("Compare", "/compare"),
    "models": ("Models", "/models"),
    "data": ("Data", "/data"),
}


def _bar(here: str) -> str:
    links = "".join(
        f'<a href="{path}"{" aria-current=page" if name == here else ""}>{title}</a>'
        for name, (title, path) in PAGES.items()
    )
    return f"""
<header class="top-bar">
  <b class="brand" lang="en">RLHF Studio</b><nav class="pages" aria-label="Pages">{links}</nav>
  <a class="at-work" href="/train" hidden></a><span class="device hint" title="Device and memory"></span>
  <button class="language" type="button" lang="zh">中文</button>
  <button class="theme" type="button" aria-label="Light or dark" title="Light or dark">◐</button>
</header>"""


def _status(session: Session) -> Callable[[], dict]:
    def status() -> dict:
        """What every page shows: the device, the memory in use, and the run at work."""
        store = session.store
        run = store.row("SELECT * FROM runs WHERE status IN ('queued', 'running') ORDER BY id LIMIT 1")
        device = session.serving.device or "cpu"
        return {
            "device": device,
            "memory": engine.memory_in_use(device),
            "run": run and {k: run[k] for k in ("id", "method", "stage", "done", "total", "status")},
        }

    return status


def page(name: str, skeleton: str, functions: list[Callable], session: Session) -> gr.HTML:
    """A page made of a fixed skeleton and its script.

    No text of a person or a model goes through Gradio's template, which would evaluate it; the script asks the
    server functions for it and sets it as text.
    """
    script = (
        f"const ZH = {json.dumps(CHINESE, ensure_ascii=False)};"
        f"const DEFAULT_LANGUAGE = {json.dumps(session.language)};"
        + (ASSETS / "common.js").read_text("utf-8")
        + (ASSETS / f"{name}.js").read_text("utf-8")
    )
    return gr.HTML(
        html_template=(
            f'<div class="studio">{_bar(name)}<div class="page {name}">{skeleton}</div>'
            '<div class="notice" role="status"></div></div>'
        ),
        js_on_load=f"(() => {{{script}}})();",
        server_functions=[friendly(f) for f in [*functions, _status(session)]],
        apply_default_css=False,
        elem_id=f"page-{name}",
    )
