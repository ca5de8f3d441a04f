"""A judge of answers: an endpoint (a server of our own in the same process) or a command. No test waits on the network."""

from __future__ import annotations

import json
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from omnivast.evaluation import judge as judges
from omnivast.evaluation.judge import PROMPT, Command, Endpoint, JudgeError, Verdict, judge_of, judged, summary, understood
from omnivast.utils import endpoint

ENTRIES = [{"question": "What is it?", "answer": "a dog", "tva": "a {puppy}"}, {"question": "Where?", "answer": "yard", "tva": "inside"},
           {"question": "Who?", "answer": "a man", "tva": "a boy"}]


@contextmanager
def server(*answers):
    """An endpoint that gives these (status, reply or whole content), one after the other, and its list of requests."""
    given, requests = iter(answers), []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            requests.append((self.path, self.headers.get("Authorization"), body))
            status, reply = next(given)
            content = {"model": "judge-2026", "choices": [{"message": {"content": reply}}]} if isinstance(reply, str) else reply
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{http.server_address[1]}/v1", requests
        finally:
            http.shutdown()


def test_an_endpoint_marks_answers_and_all_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv(judges.KEY_VARIABLE, "secret")
    with server((200, '{"right": true, "score": 4}'), (200, "Sure: {'pred': 'no', 'score': 1}"), (200, "hm")) as (url, requests):
        judge = judge_of(url, "judge")
        verdicts = judged(judge, ENTRIES, "tva", tmp_path / "results" / "judged.jsonl")
    assert [(v.right, v.score) for v in verdicts] == [(True, 4.0), (False, 1.0), (None, None)]
    path, key, body = requests[0]
    assert (path, key, body["model"], body["temperature"]) == ("/v1/chat/completions", "Bearer secret", "judge", 0)
    assert "Question: What is it?\nCorrect answer: a dog\nAnswer given: a {puppy}" in body["messages"][0]["content"]
    assert body["messages"][0]["content"].endswith('{"right": true or false, "score": 0 to 5}')
    lines = (tmp_path / "results" / "judged.jsonl").read_text().splitlines()
    assert len(lines) == 3 and "secret" not in "".join(lines) and json.loads(lines[0])["reply"] == '{"right": true, "score": 4}'
    found = summary(judge, verdicts)
    assert (found["accuracy"], found["score"], found["not_understood"], found["answers"]) == (pytest.approx(100 / 3), 2.5, 1, 3)
    assert (found["model"], found["models_that_replied"], len(found["prompt_sha256"])) == ("judge", ["judge-2026"], 64)
    assert "not comparable" in found["note"]


def test_what_is_marked_is_not_asked_for_again(tmp_path, monkeypatch):
    monkeypatch.setattr(endpoint, "PAUSE", 0.0)
    path = tmp_path / "judged.jsonl"
    with server((200, "yes"), (403, "no"), (200, "no"), (200, "yes"), (200, "yes")) as (url, requests):
        with pytest.raises(JudgeError, match=r"^the judge m at http.*/v1/chat/completions does not answer: HTTP 403"):
            judged(Endpoint(url, "m"), ENTRIES, "tva", path)
        path.write_text(path.read_text() + '{"key": "cut sho')
        assert [v.right for v in judged(Endpoint(url, "m"), ENTRIES, "tva", path)] == [True, False, True]
        assert len(requests) == 4
        assert [v.right for v in judged(Endpoint(url, "m"), ENTRIES, "tva", path)] == [True, False, True] and len(requests) == 4
        judged(Endpoint(url, "m", PROMPT + " "), ENTRIES[:1], "tva", path)  # another prompt is another judge
        assert len(requests) == 5


def test_an_endpoint_that_is_busy_is_asked_again(monkeypatch):
    monkeypatch.setattr(endpoint, "PAUSE", 0.0)
    with server((429, {}), (500, {}), (200, "yes")) as (url, _):
        assert Endpoint(url, "m").reply("?") == ("yes", "judge-2026")
    with server((500, {}), (500, {}), (502, {})) as (url, _), pytest.raises(JudgeError, match="HTTP 502"):
        Endpoint(url, "m").reply("?")
    with server((200, {"choices": []})) as (url, _), pytest.raises(JudgeError, match=r"the reply has no choices\[0\]"):
        Endpoint(url, "m").reply("?")
    with pytest.raises(JudgeError, match="does not answer: "):
        Endpoint(url, "m").reply("?")  # its server has ended


PROGRAM = ("import json, sys\nfor line in sys.stdin:\n    prompt = json.loads(line)['prompt']\n"
           "    print('yes' if 'dog' in prompt else 'no', flush=True)")


def command(tmp_path, program):
    (tmp_path / "judge.py").write_text(program)
    return f"{sys.executable} {tmp_path / 'judge.py'}"


def test_a_command_marks_answers(tmp_path):
    judge = judge_of(command(tmp_path, PROGRAM), "mine")
    assert [v.right for v in judged(judge, ENTRIES, "tva", tmp_path / "judged.jsonl")] == [True, False, False]
    assert judge._process is None and summary(judge, [Verdict(True, None, "yes", "mine")])["score"] is None


def test_commands_that_fail_say_how(tmp_path):
    with pytest.raises(JudgeError, match="cannot be started"):
        Command(str(tmp_path / "absent")).reply("?")
    with pytest.raises(JudgeError, match="does not answer: (it ended with status 3|.*Broken pipe)"):
        Command(command(tmp_path, "import sys; sys.exit(3)")).reply("?")
    silent = Command(command(tmp_path, "import sys; sys.stdin.read()"), seconds=0.2)
    with pytest.raises(JudgeError, match=r"no reply within 0\.2 s"):
        silent.reply("?")
    assert silent._process is None


@pytest.mark.parametrize("reply, right, score", [
    ('{"right": false, "score": 2.5}', False, 2.5), ('```json\n{"right": true, "score": 9}\n```', True, None), ("Yes, it is.", True, None),
    ("no", False, None), ("{'pred': 'yes', 'score': 4}", True, 4.0), ("nothing", None, None), ("{right}", None, None), ("", None, None),
    ('{"right": "maybe"}', None, None), ('{"right": true, "score": true}', True, None)])
def test_replies(reply, right, score):
    assert (understood(reply, "m").right, understood(reply, "m").score) == (right, score)


def test_no_judge_by_default_and_what_one_needs(tmp_path):
    assert judge_of(None, None) is None
    with pytest.raises(ValueError, match="judge_model, the model asked for there, is not set"):
        judge_of("https://example.org/v1", None)
    (tmp_path / "prompt.txt").write_text("{question} {answer}")
    with pytest.raises(ValueError, match=r"judge_prompt '.*prompt.txt' lacks \{prediction\}"):
        judge_of("judge", None, str(tmp_path / "prompt.txt"))
    with pytest.raises(ValueError, match="no answer to judge"):
        summary(Endpoint("http://x", "m"), [])
