"""One file, one page. Each draws itself in JavaScript from what its server functions answer."""

from collections.abc import Callable
from pathlib import Path

import gradio as gr

from studio.session import friendly

ASSETS = Path(__file__).parents[2] / "assets" / "page"


def page(name: str, skeleton: str, functions: list[Callable]) -> gr.HTML:
    """A page made of a fixed skeleton and its script.

    No text of a person or a model goes through Gradio's template, which would evaluate it; the script asks the
    server functions for it and sets it as text.
    """
    script = (ASSETS / "common.js").read_text("utf-8") + (ASSETS / f"{name}.js").read_text("utf-8")
    return gr.HTML(
        html_template=f'<div class="studio {name}">{skeleton}<div class="notice" role="status"></div></div>',
        js_on_load=f"(() => {{{script}}})();",
        server_functions=[friendly(f) for f in functions],
        apply_default_css=False,
        elem_id=f"page-{name}",
    )
