"""Who may ask: a token, this machine's names, and no page of another site."""

from __future__ import annotations

import httpx
import pytest

from omnivast.inference.service.guard import is_loopback
from tests.inference.service.conftest import PATIENCE, serving

TOKEN = "0123456789abcdef"


@pytest.fixture(scope="module")
def guarded(make):
    with serving(make(), token=TOKEN, loopback=False) as one:
        yield one


def test_without_the_token_nothing_is_told(guarded):
    client = guarded.client
    for method, route in (("GET", "/api/index"), ("POST", "/api/search"), ("GET", "/media/said.mp4"), ("GET", "/api/metrics"),
                          ("GET", "/api/openapi.json"), ("GET", "/page/../api/index"), ("GET", "/page/a/../../api/index")):
        told = client.request(method, route)
        assert told.status_code == 401 and "token" in told.json()["error"], route
    for wrong in (f"Bearer {TOKEN}x", "Bearer", "Bearer \xe9", f"Basic {TOKEN}", TOKEN):
        assert client.get("/api/index", headers={"authorization": wrong.encode("latin1")}).status_code == 401
    assert client.get("/api/health").status_code == 200


def test_a_program_gives_it_in_a_header(guarded):
    assert guarded.client.get("/api/index", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_a_person_gives_it_in_a_form_and_keeps_a_cookie(guarded):
    with httpx.Client(base_url=guarded.url, timeout=PATIENCE, headers={"host": "films.example"}) as client:
        asked = client.get("/")
        assert asked.status_code == 401 and 'action="/token"' in asked.text
        wrong = client.post("/token", data={"token": "wrong"})
        assert wrong.status_code == 401 and "not the token" in wrong.text and not wrong.cookies
        assert client.post("/token", content=b"x" * 10_000).status_code == 413
        right = client.post("/token", data={"token": TOKEN}, headers={"origin": "http://films.example"})
        assert right.status_code == 303 and "HttpOnly" in right.headers["set-cookie"] and "SameSite=strict" in right.headers["set-cookie"]
        cookie = {"cookie": f"omnivast_token={TOKEN}"}
        assert client.get("/", headers=cookie).status_code == 200 == client.get("/media/said.mp4", headers=cookie).status_code
        assert client.get("/page/page.css").status_code == 200


def test_another_name_of_this_machine_is_a_page_that_has_its_name_lead_here(served):
    for host in ("evil.example", "evil.example:8000", "127.0.0.1.evil.example", "", "10.0.0.1"):
        assert served.client.get("/api/index", headers={"host": host}).status_code == 421
    for host in ("localhost", "localhost:9", "127.0.0.1:80", "[::1]:8000"):
        assert served.client.get("/api/index", headers={"host": host}).status_code == 200


def test_pages_of_other_sites_may_not_ask(served):
    for origin in ("https://evil.example", "http://localhost:1", "null"):
        assert served.client.post("/api/index", headers={"origin": origin, "host": "localhost:8000"}).status_code == 403
    assert served.client.post("/api/search", json={"text": "a"}, headers={"origin": served.url}).status_code == 200


def test_a_browser_is_told_to_fetch_from_nowhere_else(served):
    for route in ("/", "/api/index", "/media/said.mp4", "/page/page.js"):
        headers = served.client.get(route).headers
        assert headers["content-security-policy"].startswith("default-src 'self'") and headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize(("host", "is_it"), [("localhost", True), ("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("[::1]", True),
                                             ("0.0.0.0", False), ("::", False), ("192.168.0.2", False), ("films.example", False),
                                             ("", False)])
def test_addresses_of_this_machine(host, is_it):
    assert is_loopback(host) == is_it
