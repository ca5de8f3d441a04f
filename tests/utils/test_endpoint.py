"""The client of chat endpoints, against a server in the same process that misbehaves as asked."""

from __future__ import annotations

import base64
import threading
from email.utils import formatdate

import pytest

from omnivast.utils import endpoint as module
from omnivast.utils.endpoint import BadRequestError, BudgetError, Endpoint, EndpointError, Limits, image_part, text_part
from tests.utils.chat_server import chat_server, said


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(module, "PAUSE", 0.0)
    monkeypatch.delenv(module.KEY_VARIABLE, raising=False)


def always(status, content, **headers):
    return lambda number, body: (status, content, headers)


def in_turn(*answers):
    return lambda number, body: answers[min(number, len(answers) - 1)]


def test_a_reply_says_who_spoke_and_how_much_it_cost():
    with chat_server(always(200, said("a cow"))) as (url, asked):
        endpoint = Endpoint(url + "/", "small")
        reply = endpoint.ask("What is it?", temperature=0, seed=3)
        endpoint.check()
    assert (reply.text, reply.model, reply.finish, reply.tokens) == ("a cow", "small-2026", "stop", 10)
    assert asked[0] == {"model": "small", "temperature": 0, "seed": 3, "messages": [{"role": "user", "content": "What is it?"}]}
    assert "Authorization" not in asked.headers[0] and (endpoint.requests, endpoint.tokens) == (2, 20)


def test_pictures_and_whole_messages_are_sent():
    with chat_server(always(200, said(None, usage=None))) as (url, asked):
        endpoint = Endpoint(f"{url}/chat/completions", "small")
        assert endpoint.ask([text_part("What is it?"), image_part(b"\xff\xd8", "image/png")]).text == ""
        endpoint.ask([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hm?"}])
    sent = asked[0]["messages"][0]["content"]
    assert sent[0] == {"type": "text", "text": "What is it?"}
    assert sent[1]["image_url"]["url"] == "data:image/png;base64," + base64.b64encode(b"\xff\xd8").decode()
    assert [message["role"] for message in asked[1]["messages"]] == ["system", "user"]
    assert endpoint.tokens > 20  # estimated where the endpoint does not count


def test_what_may_pass_is_tried_again():
    busy = (429, {"error": {"message": "slow down"}}, {"Retry-After": "0"})
    with chat_server(in_turn(busy, (503, b"", {}), (200, b"<html>", {}), (200, said("yes"), {}))) as (url, asked):
        assert Endpoint(url, "small").ask("?").text == "yes" and len(asked) == 4
    with chat_server(always(500, {"error": "out of memory"})) as (url, asked):
        with pytest.raises(EndpointError, match=r"HTTP 500 .*: out of memory \(3 tries\)"):
            Endpoint(url, "small", tries=3).ask("?")
        assert len(asked) == 3
    with pytest.raises(EndpointError, match="Connection refused.*is it running"):
        Endpoint(url, "small", tries=2).ask("?")


def test_a_server_may_ask_to_wait(monkeypatch):
    slept = []
    monkeypatch.setattr(module.time, "sleep", slept.append)
    answers = (429, {}, {"Retry-After": "7"}), (503, {}, {"Retry-After": formatdate(usegmt=True)}), (200, said("yes"), {})
    with chat_server(in_turn(*answers)) as (url, _):
        assert Endpoint(url, "small").ask("?").text == "yes"
    assert 6 < max(slept) <= 7
    with chat_server(always(429, {}, **{"Retry-After": "86400"})) as (url, asked):
        with pytest.raises(EndpointError, match="asks to wait for 86400 s"):
            Endpoint(url, "small").ask("?")
        assert len(asked) == 1


@pytest.mark.parametrize("status, content, headers, message", [
    (401, {"error": {"message": "bad key secret"}}, {}, r"HTTP 401 .*: bad key …; it refuses the key in OMNIVAST_ENDPOINT_KEY"),
    (404, {"message": "The model `smal` does not exist."}, {}, "404 .* does not exist.; its models are small, large; asked for was smal"),
    (307, {}, {"Location": "https://elsewhere/v1"}, "it has moved to https://elsewhere/v1"), (200, {"choices": []}, {}, "no choices"),
    (200, [], {}, "no choices")])
def test_errors_that_stay_say_what_would_do(status, content, headers, message, monkeypatch):
    monkeypatch.setenv(module.KEY_VARIABLE, "secret")
    with chat_server(always(status, content, **headers)) as (url, asked), pytest.raises(EndpointError, match=message) as caught:
        Endpoint(url, "smal").ask("?")
    assert len(asked) == 1 and asked.headers[0]["Authorization"] == "Bearer secret"
    assert "secret" not in str(caught.value) and not isinstance(caught.value, BadRequestError)


def test_a_wrong_address_and_a_missing_key():
    with chat_server(always(403, {})) as (url, _):
        with pytest.raises(EndpointError, match="it wants a key, in the environment variable MINE"):
            Endpoint(url, "small", key_variable="MINE").ask("?")
        with pytest.raises(EndpointError, match="HTTP 404 Not Found: Not Found; expected an address that ends before /chat/completions"):
            Endpoint(url.removesuffix("/v1"), "small").check()


def test_one_request_may_be_refused_alone():
    with chat_server(always(400, {"error": {"message": "too long"}})) as (url, asked):
        with pytest.raises(BadRequestError, match="HTTP 400 .*: too long"):
            Endpoint(url, "small").ask("?")
        Endpoint(url, "small").check()  # it is there
        assert len(asked) == 2


def test_a_budget_ends_it_and_failed_tries_count():
    with chat_server(in_turn((500, {}, {}), (200, said("yes"), {}))) as (url, asked):
        endpoint = Endpoint(url, "small", limits=Limits(requests=3))
        assert [endpoint.ask("?").text, endpoint.ask("?").text] == ["yes", "yes"]
        with pytest.raises(BudgetError, match="the budget of 3 requests is spent"):
            endpoint.ask("?")
        endpoint = Endpoint(url, "small", limits=Limits(tokens=15))
        endpoint.ask("?"), endpoint.ask("?")
        with pytest.raises(BudgetError, match="the budget of 15 tokens"):
            endpoint.ask("?")
    assert len(asked) == 5


def test_so_many_a_minute(monkeypatch):
    slept = []
    monkeypatch.setattr(module.time, "sleep", slept.append)
    with chat_server(always(200, said("yes"))) as (url, _):
        endpoint = Endpoint(url, "small", limits=Limits(per_minute=6))
        for _ in range(3):
            endpoint.ask("?")
    assert slept[0] == 0 and 9 < slept[1] <= 10 and 19 < slept[2] <= 20


def test_many_are_asked_at_once_and_come_in_order():
    both = threading.Barrier(2, timeout=20)

    def answer(number, body):
        both.wait()
        return 200, said(body["messages"][0]["content"].upper()), {}

    with chat_server(answer) as (url, asked):
        endpoint = Endpoint(url, "small")
        assert list(endpoint.ask_all("abcdef", lambda text: endpoint.ask(text).text, 2)) == list("ABCDEF")
    assert asked.most_at_once == 2


def test_an_error_ends_what_was_not_begun():
    with chat_server(lambda number, body: (200, said("yes"), {}) if number < 2 else (401, {}, {})) as (url, asked):
        endpoint, got = Endpoint(url, "small"), []
        with pytest.raises(EndpointError):
            got.extend(endpoint.ask_all(map(str, range(100)), lambda text: endpoint.ask(text).text, 2))
    assert len(asked) <= 6
