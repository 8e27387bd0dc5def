"""Refuse requests that another site's page could make a browser send here.

A foreign Host is DNS rebinding; a foreign Origin is a page elsewhere talking to this one. Gradio alone lets
both through.
"""

from socket import AF_INET, AF_INET6, gethostname
from urllib.parse import urlsplit

import psutil
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


HERE = ("127.0.0.1", "localhost", "::1")
EVERYWHERE = ("0.0.0.0", "::")  # all addresses that the machine has


def own_hosts(host: str, port: int) -> set[str]:
    """The Host headers under which a studio that listens on `host` may be reached."""
    names = {*HERE, *_addresses()} if host in EVERYWHERE else {*HERE} if host in HERE else {host}
    names = set(map(in_address, names))
    return {f"{name}:{port}" for name in names} | (names if port == 80 else set())


def in_address(host: str) -> str:
    """A host as it stands in an address."""
    return f"[{host}]" if ":" in host else host


def _addresses() -> set[str]:
    """What this machine is called by others: its addresses, and its name."""
    found = [a for each in psutil.net_if_addrs().values() for a in each if a.family in (AF_INET, AF_INET6)]
    name = gethostname().lower()
    return {a.address.partition("%")[0] for a in found} | {name, f"{name}.local"}
