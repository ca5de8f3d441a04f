"""The download of weights from a server on this machine: whole, continued, interrupted, corrupted, absent."""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from omnivast.model.weights import TowerFile, towers
from omnivast.scripts.tools import download_weights

ROOT = Path(__file__).parents[3]
CONTENT = bytes(range(256)) * 12_000  # 3 MB: three chunks
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(scope="module")
def script():
    return download_weights


class Server(ThreadingHTTPServer):
    """Serves ``files`` by path; how is told by its attributes."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.asked = {}, []
        self.etag, self.ranges, self.breaks_after, self.linked, self.misleads = '"one"', True, [], None, False
        self.stalls, self.going = 0, threading.Event()
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        server, path = self.server, self.path.split("?")[0]
        server.asked.append((path, self.headers.get("Range")))
        if path.startswith("/linked/"):
            self.send_response(302)
            self.send_header("Location", path.removeprefix("/linked"))
            self.send_header("X-Linked-ETag", f'"{server.linked}"')
            self.send_header("X-Linked-Size", str(len(server.files[path.removeprefix("/linked")])))
            self.send_header("Content-Length", "0")
            return self.end_headers()
        if path not in server.files:
            return self.send_error(404)
        content, start = server.files[path], 0
        wanted = self.headers.get("Range")
        if wanted and server.ranges and self.headers.get("If-Range") == server.etag:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                return self.end_headers()
            start = 7 if server.misleads else start
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - start))
        if server.etag:
            self.send_header("ETag", server.etag)
        self.end_headers()
        body = content[start:]
        if server.breaks_after:
            body = body[: server.breaks_after.pop(0)]
        for position in range(0, len(body), 1 << 17):
            self.wfile.write(body[position:position + (1 << 17)])
            if server.stalls and position >= server.stalls:
                server.going.wait(600)
                break
        return None


@pytest.fixture
def server():
    running = Server()
    running.files["/w.pt"] = CONTENT
    yield running
    running.shutdown()
    running.server_close()


@pytest.fixture(autouse=True)
def no_pauses(script, monkeypatch):
    monkeypatch.setattr(script, "PAUSE", 0.0)
    monkeypatch.setattr(towers, "WEIGHTS", towers.WEIGHTS)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def left(folder):
    return sorted(path.name for path in folder.iterdir())


def begin(target, content, etag='"one"'):
    """As an interrupted call leaves it."""
    target.with_name(f"{target.name}.part").write_bytes(content)
    target.with_name(f"{target.name}.part.etag").write_text(etag)


def test_whole(script, server, tmp_path):
    target = tmp_path / "deep" / "w.pt"
    script.fetch(f"{server.url}/w.pt", target, script.Facts(len(CONTENT), SHA256))
    assert target.read_bytes() == CONTENT and left(target.parent) == ["w.pt"]
    assert server.asked == [("/w.pt", None)]


def test_what_broke_off_is_continued(script, server, tmp_path):
    begin(tmp_path / "w.pt", CONTENT[:1_000_000])
    script.fetch(f"{server.url}/w.pt", tmp_path / "w.pt", script.Facts(None, SHA256))
    assert (tmp_path / "w.pt").read_bytes() == CONTENT and left(tmp_path) == ["w.pt"]
    assert server.asked == [("/w.pt", "bytes=1000000-")]


def test_the_same_call_goes_on_when_the_connection_ends(script, server, tmp_path):
    server.breaks_after = [500_000, 700_000]
    script.fetch(f"{server.url}/w.pt", tmp_path / "w.pt")
    assert (tmp_path / "w.pt").read_bytes() == CONTENT
    assert server.asked == [("/w.pt", None), ("/w.pt", "bytes=500000-"), ("/w.pt", "bytes=1200000-")]


def test_a_connection_that_always_ends(script, server, tmp_path):
    server.breaks_after = [10] * 10
    with pytest.raises(script.DownloadError, match=r"ended after 50 of 3,072,000 bytes, 5 times; .*w.pt.part: run this again"):
        script.fetch(f"{server.url}/w.pt", tmp_path / "w.pt")
    assert left(tmp_path) == ["w.pt.part", "w.pt.part.etag"]


@pytest.mark.parametrize("change", ["no ranges", "another file", "no stamp", "longer than the file", "a server that starts elsewhere"])
def test_a_part_that_cannot_be_continued_is_fetched_anew(script, server, tmp_path, change):
    length = 4_000_000 if change == "longer than the file" else 1000
    begin(tmp_path / "w.pt", b"x" * length, '"other"' if change == "another file" else '"one"')
    server.ranges, server.misleads = change != "no ranges", change.startswith("a server")
    if change == "no stamp":
        (tmp_path / "w.pt.part.etag").unlink()
    script.fetch(f"{server.url}/w.pt", tmp_path / "w.pt", script.Facts(None, SHA256))
    assert (tmp_path / "w.pt").read_bytes() == CONTENT and left(tmp_path) == ["w.pt"]


def test_all_had_come_but_the_name(script, server, tmp_path):
    begin(tmp_path / "w.pt", CONTENT)
    script.fetch(f"{server.url}/w.pt", tmp_path / "w.pt", script.Facts(None, SHA256))
    assert (tmp_path / "w.pt").read_bytes() == CONTENT and len(server.asked) == 1


def test_a_server_without_validators(script, server, tmp_path):
    server.etag, server.breaks_after = None, [10]
    script.fetch(f"{server.url}/w.pt", tmp_path / "w.pt")
    assert (tmp_path / "w.pt").read_bytes() == CONTENT and [wanted for _, wanted in server.asked] == [None, None]


@pytest.mark.parametrize(("facts", "message"), [
    ({"sha256": "0" * 64}, f"w.pt: its SHA-256 is {SHA256}, expected 0000.*was removed"),
    ({"size": 5}, "w.pt: 3,072,000 bytes came, expected 5; what came was removed"),
])
def test_corrupted(script, server, tmp_path, facts, message):
    with pytest.raises(script.DownloadError, match=message):
        script.fetch(f"{server.url}/w.pt", tmp_path / "w.pt", script.Facts(**facts))
    assert left(tmp_path) == []


def test_the_hash_that_a_redirect_states_is_checked(script, server, tmp_path):
    server.linked = SHA256
    script.fetch(f"{server.url}/linked/w.pt", tmp_path / "w.pt")
    assert (tmp_path / "w.pt").read_bytes() == CONTENT
    server.linked = "f" * 64
    with pytest.raises(script.DownloadError, match="expected ffff"):
        script.fetch(f"{server.url}/linked/w.pt", tmp_path / "other.pt")


def test_no_server(script, tmp_path):
    with pytest.raises(script.DownloadError, match="127.0.0.1 refuses the connection, 5 times"):
        script.fetch("http://127.0.0.1:9/w.pt", tmp_path / "w.pt")


def test_offline_is_said_once(script, tmp_path, monkeypatch, capsys):
    asked = []

    def unknown(host, *_, **__):
        asked.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert script.main(["evaclip02_base", "text:bert-base-uncased", "--folder", str(tmp_path)]) == 1
    told = capsys.readouterr().err
    assert asked == ["huggingface.co"] and "Errno" not in told and "trying again" not in told
    assert told.count("the server's name huggingface.co was not found; is this machine offline? --list says") == 1
    assert "bert-base-uncased/resolve/main/config.json: not tried, as huggingface.co was not found before" in told


# ---------------------------------------------------------------------------------------------------------- command line


def serve_towers(server, monkeypatch):
    """Two towers: one on the server, by hash, one by hand."""
    there = TowerFile("clip/a.pt", "https://weights.example/x/w.pt", "a.pt of weights.example", sha256=SHA256)
    by_hand = TowerFile("beats/b.pt", None, "b.pt from the table of example")
    monkeypatch.setitem(towers.TOWER_FILES, "a_tower", there)
    monkeypatch.setitem(towers.TOWER_FILES, "b_tower", by_hand)
    server.files["/m/x/w.pt"] = CONTENT


def test_towers_by_name(script, server, tmp_path, monkeypatch, capsys):
    serve_towers(server, monkeypatch)
    call = ["--folder", str(tmp_path), "--mirror", f"{server.url}/m/"]
    assert script.main(["a_tower", *call]) == 0
    assert (tmp_path / "clip/a.pt").read_bytes() == CONTENT and "fetched" in capsys.readouterr().out
    assert script.main(["a_tower", "b_tower", *call]) == 3  # there already; and one by hand
    captured = capsys.readouterr()
    assert "there   " in captured.out and len(server.asked) == 1
    assert f"BY HAND b.pt from the table of example\n        to {tmp_path}/beats/b.pt" in captured.err
    (tmp_path / "clip/a.pt").write_bytes(b"damaged")
    (tmp_path / "beats").mkdir()
    (tmp_path / "beats/b.pt").touch()
    assert script.main(["a_tower", "b_tower", *call]) == 0 and (tmp_path / "clip/a.pt").read_bytes() == CONTENT


def test_failures_are_told_and_the_rest_is_fetched(script, server, tmp_path, monkeypatch, capsys):
    serve_towers(server, monkeypatch)
    gone = TowerFile("c.pt", "https://weights.example/gone.pt", "c.pt of example")
    monkeypatch.setitem(towers.TOWER_FILES, "c_tower", gone)
    assert script.main(["c_tower", "a_tower", "--folder", str(tmp_path), "--mirror", f"{server.url}/m"]) == 1
    captured = capsys.readouterr()
    assert "gone.pt: the server answers 404 Not Found\n  or by hand: c.pt of example" in captured.err
    assert (tmp_path / "clip/a.pt").is_file()


def test_a_folder_that_cannot_be_written_is_told(script, server, tmp_path, capsys):
    (tmp_path / "clip").write_text("a file where the folder belongs")
    url = f"http://127.0.0.1:{server.server_port}"
    assert script.main(["evaclip02_base", "--folder", str(tmp_path), "--mirror", url]) == 1
    assert f"FAILED  {tmp_path}/clip/EVA02_CLIP_B_psz16_s8B.pt cannot be written" in capsys.readouterr().err


def test_bad_names(script, capsys):
    assert script.main(["beets"]) == 2 and "no encoder 'beets' with a file; valid are evaclip01_giant" in capsys.readouterr().err
    assert script.main(["evaclip2_base"]) == 2 and "Did you mean 'evaclip02_base'?" in capsys.readouterr().err
    for wrong in ("ftp://there", "there", "http://"):
        assert script.main(["evaclip02_base", "--mirror", wrong]) == 2 and "--mirror: expected a URL" in capsys.readouterr().err
    assert script.main([]) == 2
    assert script.main(["--config", "no/such.json"]) == 2 and "no/such.json" in capsys.readouterr().err


def test_list(script, tmp_path, capsys):
    (tmp_path / "swin").mkdir()
    (tmp_path / "swin/swin_base_patch4_window7_224_22k.pth").touch()
    assert script.main(["--list", "--folder", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    for name in (*towers.TOWER_FILES, "text:bert-base-uncased"):
        assert f"missing {name}\n" in out or (name == "swin_base_22k_224" and f"there   {name}\n" in out)
    assert "Google Drive" in out and "OneDrive" in out


def write_config(path, **model):
    path.write_text(json.dumps({"run_cfg": {}, "model_cfg": model, "data_cfg": {"train": [
        {"name": "x", "txt": "x.json", "vision": "x", "audio": "x", "vision_sample_num": 1, "audio_sample_num": 1, "task": "ret%tvas",
         "steps": 1, "batch_size": 2}]}}))
    return str(path)


def test_what_a_config_needs(script, server, tmp_path, capsys):
    """A BERT whose vocabulary is a tokenizer.json and whose weights are in parts, and a CLAP that is a pytorch_model.bin."""
    config = write_config(tmp_path / "c.json", vision_encoder_type="evaclip02_base", audio_encoder_type="hf:org/clap",
                          text_encoder_type="org/bert")
    folder = "/org/bert/resolve/main"
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-1.safetensors"}}
    server.files |= {
        "/QuanSun/EVA-CLIP/resolve/main/EVA02_CLIP_B_psz16_s8B.pt": b"eva", "/org/clap/resolve/main/config.json": b"{}",
        "/org/clap/resolve/main/pytorch_model.bin": b"bin", f"{folder}/config.json": b"{}", f"{folder}/tokenizer.json": b"{}",
        f"{folder}/model.safetensors.index.json": json.dumps(index).encode(), f"{folder}/model-1.safetensors": b"1",
        f"{folder}/model-2.safetensors": b"2"}
    weights = tmp_path / "weights"
    call = ["--config", config, "--folder", str(weights), "--mirror", server.url]
    assert script.main(call) == 0, capsys.readouterr().err
    assert {str(path.relative_to(weights)) for path in weights.rglob("*") if path.is_file()} == {
        "clip/EVA02_CLIP_B_psz16_s8B.pt", "bert/org/bert/config.json", "bert/org/bert/tokenizer.json", "bert/org/bert/model-1.safetensors",
        "bert/org/bert/model-2.safetensors", "bert/org/bert/model.safetensors.index.json", "hf/org/clap/config.json",
        "hf/org/clap/pytorch_model.bin"}
    (weights / "bert/org/bert/model-2.safetensors").unlink()
    assert script.main(call) == 0 and (weights / "bert/org/bert/model-2.safetensors").read_bytes() == b"2"
    scratch = write_config(tmp_path / "s.json", vision_encoder_type="evaclip02_base", audio_encoder_type="beats", pretrained=False)
    assert script.main(["--config", scratch, "--folder", str(weights)]) == 0
    assert '"pretrained" is false' in capsys.readouterr().out


@pytest.mark.slow
def test_interrupted(server, tmp_path):
    """Ctrl-C in the middle, then the same command again; and --help."""
    server.files["/google-bert/b/resolve/main/model.safetensors"], server.stalls = CONTENT, 1 << 20
    server.files |= {f"/google-bert/b/resolve/main/{name}": b"{}" for name in ("config.json", "vocab.txt")}
    command = [sys.executable, "-m", "omnivast", "weights", "text:b", "--folder", str(tmp_path), "--mirror", server.url]
    environment = {key: value for key, value in os.environ.items() if "proxy" not in key.lower()} | {"PYTHONPATH": str(ROOT)}
    # A shell that runs the tests in the background has them ignore Ctrl-C, which the program would inherit.
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    part = tmp_path / "bert/b/model.safetensors.part"
    deadline = time.monotonic() + 600
    while not (part.exists() and part.stat().st_size) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=600)[1]
    assert process.returncode == 130 and "run it again to continue" in errors, errors
    have = part.stat().st_size
    assert 0 < have < len(CONTENT) and CONTENT.startswith(part.read_bytes())
    server.stalls = 0
    server.going.set()
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert part.with_suffix("").read_bytes() == CONTENT and server.asked[-1][1] == f"bytes={have}-" and "MiB/s" in done.stderr
