"""Whether the host of weights answers, straight or through a proxy."""

import socket
from collections.abc import Iterator

import pytest
from ambient.curate.weights import reachable

ELSEWHERE = "https://weights.invalid/file"  # has no address (RFC 2606)


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


@pytest.fixture
def listening() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def dead() -> Iterator[str]:
    """An address that refuses: bound, but nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


def test_straight(listening: str, dead: str) -> None:
    assert reachable(f"https://{listening}/file")
    assert not reachable(f"https://{dead}/file")
    assert not reachable(ELSEWHERE)


@pytest.mark.parametrize("form", ["http://{}", "http://user:secret@{}/", "{}"])
def test_a_proxy_is_asked_for_what_has_no_address_here(
    form: str, listening: str, dead: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", form.format(listening))
    assert reachable(ELSEWHERE)
    assert not reachable("http://weights.invalid/file")  # has another scheme
    monkeypatch.setenv("https_proxy", form.format(dead))
    assert not reachable(f"https://{listening}/file")  # which a download would not ask either


def test_hosts_that_need_no_proxy(listening: str, dead: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", f"http://{listening}")
    monkeypatch.setenv("no_proxy", "localhost,weights.invalid")
    assert not reachable(ELSEWHERE)
    monkeypatch.setenv("https_proxy", f"http://{dead}")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert reachable(f"https://{listening}/file")


@pytest.mark.parametrize("proxy", ["http://", "http://127.0.0.1:port", "http://127.0.0.1:99999"])
def test_proxies_that_are_none(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", proxy)
    assert not reachable(ELSEWHERE)
