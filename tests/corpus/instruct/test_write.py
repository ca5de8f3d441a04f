"""Instructions as ordered, from a server that now and then writes nonsense, is busy, or dies."""

from __future__ import annotations

import json
import re
from collections import Counter

import pytest

from omnivast.config.tasks import Task
from omnivast.corpus.instruct import write as instructing
from omnivast.corpus.instruct.cli import main
from omnivast.corpus.instruct.write import TABLE_10, InstructError, contexts_of, scaled, write
from omnivast.data.annotations.load import load_annotations
from omnivast.data.conversation import read_conversation
from omnivast.utils.endpoint import EndpointError
from omnivast.utils.random import stable_seed
from tests.media_factory import write_json
from tests.utils.chat_server import chat_server, said

ROWS = [{"clip_id": f"clip{n}", "vision_cap": [f"a red thing{n} moves"], "audio_cap": [f"a loud noise{n} rings"]} for n in range(6)]
ORDER = {("conversation", "va"): 3, ("description", "v"): 2, ("reasoning", "a"): 1}


def answer_to(prompt, seed):
    """What a good model would write: answers of the captions' words. Every third reply is of no use."""
    context = prompt[prompt.index("CONTEXT\n"):]
    captions = [line.removeprefix("- ") for line in context.splitlines() if line.startswith("- ")]
    turns = [{"question": f"What of {n}?", "answer": text} for n, text in enumerate(captions * 2)]
    if stable_seed(prompt, seed) % 3 == 0:
        return "{nonsense}"
    return json.dumps({"turns": turns[: 2 if "Write a conversation" in prompt else 1]})


@pytest.fixture
def server():
    """Its address, and what it was asked: a server that answers by ``answer_to``."""
    with chat_server(lambda number, body: (200, said(answer_to(body["messages"][0]["content"], body["seed"])), {})) as both:
        yield both


def written(folder):
    return {name: (folder / name).read_bytes() for name in ("descriptions.json", "instructions.json", "summary.json")}


def test_table_10_and_any_total_in_its_proportions():
    assert sum(TABLE_10.values()) == 260 and scaled(260) == TABLE_10
    for total in (1, 7, 100, 2600):
        found = scaled(total)
        assert sum(found.values()) == total and all(abs(found[order] - total * TABLE_10[order] / 260) < 1 for order in TABLE_10)


def test_counts_as_ordered_in_files_that_data_reads(tmp_path):
    summary = write(contexts_of(ROWS), ORDER, answer_to, "stub", tmp_path, concurrency=3)
    assert summary["made"] == summary["ordered"] == 6 and summary["faults"] == {"not valid JSON": summary["asked"] - 6}
    assert {name: own["made"] for name, own in summary["orders"].items()} == {"conversation.va": 3, "description.v": 2, "reasoning.a": 1}
    kinds = Counter()
    for name in ("descriptions.json", "instructions.json"):
        annotations = load_annotations(tmp_path / name, Task.parse("chat%tva"), training=True)
        for row, raw in zip(annotations, json.loads((tmp_path / name).read_text())):
            spoken = read_conversation(raw, "row")
            assert row.clip_id == raw["video"]
            assert {m.value for m in spoken.modalities} == set(raw["modality"]) and len(spoken.turns) == len(raw["conversations"])
            kinds[f"{spoken.type}.{raw['modality']}"] += 1
    assert kinds == {"conversation.va": 3, "description.v": 2, "reasoning.a": 1}
    assert len({row["id"] for row in json.loads((tmp_path / "instructions.json").read_text())}) == 4


def test_nothing_is_asked_twice_and_the_result_is_that_of_an_unbroken_run(tmp_path):
    whole = write(contexts_of(ROWS), ORDER, answer_to, "stub", tmp_path / "whole", concurrency=1)
    asked = []

    def dying(prompt, seed):
        if len(asked) == 3:
            raise EndpointError("http://stub", "gone")
        asked.append((prompt, seed))
        return answer_to(prompt, seed)

    with pytest.raises(EndpointError):
        write(contexts_of(ROWS), ORDER, dying, "stub", tmp_path / "parts", concurrency=1)
    with open(tmp_path / "parts" / "replies.jsonl", "a") as file:
        file.write('{"key": "cut')
    later = []
    write(contexts_of(ROWS), ORDER, lambda *a: later.append(a) or answer_to(*a), "stub", tmp_path / "parts", concurrency=4)
    assert len(later) + 3 == whole["asked"] and not set(later) & set(asked)
    assert written(tmp_path / "parts") == written(tmp_path / "whole")
    again = []
    write(contexts_of(ROWS), ORDER, lambda *a: again.append(a) or answer_to(*a), "other", tmp_path / "parts", concurrency=4)
    assert len(again) == whole["asked"]  # another model


def test_where_clips_do_not_suffice_fewer_are_made(tmp_path):
    rows = [*ROWS[:2], {"clip_id": "deaf", "vision_cap": "a red thing"}]
    summary = write(contexts_of(rows), {("description", "va"): 5}, lambda *a: "no", "stub", tmp_path, tries=2)
    assert (summary["made"], summary["asked"], summary["faults"]) == (0, 4, {"no JSON object": 4})
    assert summary["orders"]["description.va"]["given up"] == 2
    assert json.loads((tmp_path / "descriptions.json").read_text()) == []


def test_replies_that_are_of_no_use_end_it(tmp_path, monkeypatch):
    monkeypatch.setattr(instructing, "ALARM", 4)
    with pytest.raises(InstructError, match=r"no reply about 4 clips .*\(description, v\); the last: no JSON object"):
        write(contexts_of(ROWS), {("description", "v"): 6}, lambda *a: "Sure!", "stub", tmp_path, tries=1)


def test_the_verb_asks_a_server(tmp_path, server, monkeypatch):
    url, asked = server
    monkeypatch.setenv("OMNIVAST_ENDPOINT_KEY", "secret")
    captions = write_json(tmp_path / "captions.json", ROWS)
    command = [str(captions), "--endpoint", url, "--model", "small", "--concurrency", "2", "--schema", "--output", str(tmp_path / "out")]
    assert main([*command, "--count", "conversation.va=3", "--count", "description.v=2"]) == 0
    assert (asked[0]["model"], asked[0]["temperature"], asked.headers[0]["Authorization"]) == ("small", 0.7, "Bearer secret")
    assert asked[0]["response_format"]["json_schema"]["schema"]["required"] == ["turns"] and asked.most_at_once <= 2
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["made"] == 5 and len(asked) == summary["asked"]
    assert main([*command, "--count", "description.v=20"]) == 1  # six clips
    count = len(asked)
    assert main([*command, "--count", "description.v=20"]) == 1 and len(asked) == count


def test_a_budget_ends_it_and_what_was_answered_is_kept(tmp_path, server, caplog):
    url, asked = server
    captions = write_json(tmp_path / "captions.json", ROWS)
    command = [str(captions), "--endpoint", url, "--model", "small", "--concurrency", "1", "--output", str(tmp_path / "out"), "--count",
               "description.v=4"]
    assert main([*command, "--requests", "2"]) == 2 and len(asked) == 2
    assert "the budget of 2 requests is spent. What was answered is kept; the same command goes on" in caplog.text
    assert main(command) == 0 and len(asked) == json.loads((tmp_path / "out" / "summary.json").read_text())["asked"]


def test_a_request_that_is_refused_costs_its_clip_alone(tmp_path):
    def answer(number, body):
        if "thing3" in body["messages"][0]["content"]:
            return 400, {"error": {"message": "too long"}}, {}
        return 200, said(json.dumps({"turns": [{"question": "What?", "answer": "A red thing moves."}]})), {}

    captions = write_json(tmp_path / "captions.json", [{**row, "vision_cap": [*row["vision_cap"], "a thing"]} for row in ROWS])
    with chat_server(answer) as (url, _):
        assert main([str(captions), "--endpoint", url, "--model", "small", "--output", str(tmp_path / "out"), "--count",
                     "description.v=6"]) == 1
    told = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert told["made"] == 5 and told["faults"] == {"refused by the endpoint": 3}


@pytest.mark.parametrize(("rows", "extra", "message"), [
    ({"a": 1}, [], "expected a JSON list of objects"),
    ([{"vision_cap": "x"}], [], "row 0 has no id"),
    ([{"clip_id": "a", "vision_cap": 3}], [], r"row 0 \(id 'a'\): 'vision_cap' must be a string or a list of strings"),
    ([{"clip_id": "a"}, {"clip_id": "a"}], [], "row 1: duplicate id 'a'"),
    ([{"clip_id": "a", "vision_cap": "x"}], ["--total", "9"], "are ordered, but no clip has captions of all of 'a'"),
    (ROWS, ["--total", "9", "--count", "reasoning.v=1"], "give one of them"),
    (ROWS, ["--tries", "0"], "--tries is at least 1; got 0"),
])
def test_bad_input_is_one_line(tmp_path, caplog, rows, extra, message):
    captions = write_json(tmp_path / "captions.json", rows)
    command = [str(captions), "--endpoint", "http://127.0.0.1:9/v1", "--model", "stub", "--output", str(tmp_path / "out"), *extra]
    assert main(command) == 2
    assert re.search(message, caplog.text)


def test_an_unknown_kind_is_named(capsys):
    with pytest.raises(SystemExit):
        main(["x", "--endpoint", "x", "--model", "x", "--output", "x", "--count", "story.v=3"])
    assert "expected KIND.TRACKS=N, such as conversation.va=100; kinds are conversation, description, reasoning" in capsys.readouterr().err
