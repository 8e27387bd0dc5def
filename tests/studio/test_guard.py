"""Requests that only another site's page would make are refused."""

import socket

import pytest
from starlette.testclient import TestClient

from studio.app import _listen, application
from studio.guard import _addresses, own_hosts
from studio.session import Session


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    import engine

    session = Session(engine.open_workspace(tmp_path_factory.mktemp("workspace")))
    return TestClient(application(session, "127.0.0.1", 7860), base_url="http://127.0.0.1:7860")


PATHS = ["/", "/train", "/config", "/gradio_api/info", "/gradio_api/queue/join", "/gradio_api/upload"]


def test_its_own_page_is_answered(client):
    for path in ("/", "/train", "/compare"):
        assert client.get(path).status_code == 200
    assert client.get("/", headers={"host": "localhost:7860", "origin": "http://localhost:7860"}).status_code == 200


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("host", ["evil.example", "evil.example:7860", "127.0.0.1:9999", "127.0.0.1.evil.example:7860"])
def test_a_foreign_host_is_refused(client, path, host):
    for method in ("GET", "POST"):
        assert client.request(method, path, headers={"host": host}).status_code == 403


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:9999", "https://evil.example:7860"]
)
def test_a_foreign_origin_is_refused(client, path, origin):
    for method in ("GET", "POST"):
        assert client.request(method, path, headers={"origin": origin}).status_code == 403


def test_where_it_listens_to_others_it_answers_to_what_this_machine_is_called():
    for host in ("0.0.0.0", "::"):
        hosts = own_hosts(host, 7860)
        named = ("127.0.0.1", "localhost", "[::1]", socket.gethostname().lower())
        assert {f"{name}:7860" for name in named} <= hosts
        assert not {"evil.example:7860", "127.0.0.1", "0.0.0.0:7860"} & hosts
    assert own_hosts("192.0.2.7", 80) == {"192.0.2.7:80", "192.0.2.7"}
    assert own_hosts("::1", 7860) == own_hosts("localhost", 7860) >= {"[::1]:7860"}


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "0.0.0.0", "::"])
def test_it_listens_where_it_is_told(host):
    if ":" in host and "::1" not in _addresses():
        pytest.skip("This machine has no IPv6.")
    with _listen(host, 0) as listener, socket.create_connection(("::1" if ":" in host else "127.0.0.1",
                                                                  listener.getsockname()[1])):  # fmt: skip
        pass


def test_nothing_comes_from_off_the_machine(client):
    import re

    page = client.get("/").text
    loaded = re.findall(r"""(?:src|href)=["'](https?://[^"']+)""", page)
    assert [url for url in loaded if "127.0.0.1" not in url] == []
