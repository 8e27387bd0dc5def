"""Refuse requests that another site's page could make a browser send here.

A foreign Host is DNS rebinding; a foreign Origin is a page elsewhere talking to this one. Gradio alone lets
both through.
"""

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send


class SameOrigin:
    """ASGI middleware: every request's Host is in `hosts`, and its Origin, if any, is that Host."""

    def __init__(self, app: ASGIApp, hosts: set[str]):
        self.app = app
        self.hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            headers = Headers(scope=scope)
            host, origin = headers.get("host", ""), headers.get("origin")
            if host not in self.hosts or (origin is not None and urlsplit(origin).netloc != host):
                await PlainTextResponse("This studio answers only to its own page.", 403)(scope, receive, send)
                return
        await self.app(scope, receive, send)


def own_hosts(host: str, port: int) -> set[str]:
    """The Host headers under which the studio may be reached."""
    names = {host, "127.0.0.1", "localhost", "[::1]"} if host in ("127.0.0.1", "localhost", "::1") else {host}
    return {f"{name}:{port}" for name in names} | (names if port == 80 else set())
