"""The page: six routes in one Gradio app, served on this machine only. Never imports torch."""

import os
import socket
import threading
import warnings
import webbrowser
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import click
import gradio as gr
import uvicorn
from fastapi import FastAPI

import engine
from studio.guard import EVERYWHERE, HERE, SameOrigin, in_address, own_hosts
from studio.pages import PAGES, chat, compare, data, label, models, train
from studio.session import Session
from studio.words import ASSETS

MODULES = {"label": label, "train": train, "compare": compare, "models": models, "data": data}
THEME = gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])


def build(session: Session) -> gr.Blocks:
    with gr.Blocks(title="RLHF Studio", analytics_enabled=False) as demo:
        gr.Navbar(visible=False)  # each page has a bar of its own, with more in it
        chat.build(session)
    for name, module in MODULES.items():
        title, path = PAGES[name]
        with demo.route(title, path):
            gr.Navbar(visible=False)
            module.build(session)
    return demo


def application(session: Session, host: str, port: int) -> FastAPI:
    """The whole web application, guarded."""
    app = FastAPI()
    warnings.filterwarnings("ignore", message="SSR mode is not supported")  # it is off, yet Gradio warns
    gr.mount_gradio_app(
        app,
        build(session),
        path="",
        theme=THEME,
        css=(ASSETS / "studio.css").read_text("utf-8"),
        footer_links=[],
        ssr_mode=False,
    )
    app.add_middleware(SameOrigin, hosts=own_hosts(host, port))
    return app


def _listen(host: str, port: int) -> socket.socket:
    """A socket that already listens, so that a port in use is known before anything else starts."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    both = host == "::" and socket.has_dualstack_ipv6()
    try:
        return socket.create_server((host, port), family=family, backlog=128, dualstack_ipv6=both)
    except OSError as error:
        why = str(error.strerror).partition(" (while")[0]  # Python puts the address behind it
        raise engine.UserError(
            f"The port {port} on {host} cannot be used ({why}). Choose another with --port or --host."
        ) from error


def serve(workspace: Any, host: str, port: int, open_browser: bool, language: str = "") -> None:
    """Serve the page until interrupted. Raises UserError where the port is taken."""
    listener = _listen(host, port)
    port = listener.getsockname()[1]  # 0 is for any that is free
    session = Session(workspace, language)
    session.serving.start()
    app = application(session, host, port)
    address = f"http://{in_address('localhost' if host in EVERYWHERE else host)}:{port}"
    click.echo(f"RLHF Studio is at {address} (workspace: {workspace.folder}). Ctrl-C ends it.", err=True)
    if host not in HERE:
        click.echo("Whoever can reach this machine can use it, and read all that is in it.", err=True)
    if open_browser:
        threading.Timer(1.0, webbrowser.open, [address]).start()
    try:
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])
    finally:
        session.serving.close()
