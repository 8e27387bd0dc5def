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
from studio.guard import SameOrigin, own_hosts
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
    try:
        listener = socket.create_server((host, port), backlog=128)
    except OSError as error:
        raise engine.UserError(
            f"The port {port} on {host} cannot be used ({error.strerror}). Choose another with --port."
        ) from error
    return listener


def serve(workspace: Any, host: str, port: int, open_browser: bool, language: str = "") -> None:
    """Serve the page until interrupted. Raises UserError where the port is taken."""
    listener = _listen(host, port)
    session = Session(workspace, language)
    session.serving.start()
    app = application(session, host, port)
    address = f"http://{host}:{port}"
    click.echo(f"RLHF Studio is at {address} (workspace: {workspace.folder}). Ctrl-C ends it.", err=True)
    if open_browser:
        threading.Timer(1.0, webbrowser.open, [address]).start()
    try:
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])
    finally:
        session.serving.close()
