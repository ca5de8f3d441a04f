"""A shell completes verbs, options and values as the scripts say."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from omnivast import completion
from omnivast.__main__ import VERBS

OPTIONS = {"caption": {"--help": (), "--group": (), "--precision": ("auto", "bf16")}, "search": {"--top": ()}, "verify": {}}


def test_options_are_those_of_the_help():
    found = completion.options_of(VERBS["embed"])
    assert {"--help", "--model", "--device", "--output", "--json"} <= set(found)
    assert found["--precision"] == ("auto", "float32", "bf16", "fp16") and found["--model"] == ()
    assert completion.options_of(VERBS["train"])["--mode"] == ("training", "testing")


@pytest.mark.parametrize(("help_text", "wanted"), [
    ("options:\n  -h, --help  show\n  --n N       see --other\n", {"--help": (), "--n": ()}),
    ("  -o FILE, --output FILE\n  --kind {a,b-c}  x", {"--output": (), "--kind": ("a", "b-c")}),
    ("  -k, --kind {a,b}  as Python 3.13 prints it", {"--kind": ("a", "b")}),
])
def test_what_is_read_of_a_help(help_text, wanted):
    assert {name: tuple(values.split(",")) if values else () for name, values in completion.OPTION.findall(help_text)} == wanted


@pytest.mark.parametrize(("words", "wanted"), [
    (["ca"], ["caption"]),
    (["caption", "--"], ["--help", "--group", "--precision"]),
    (["caption", "x.mp4", "--p"], ["--precision"]),
    (["caption", "--precision", ""], ["auto", "bf16"]),
    (["caption", "--precision", "b"], ["bf16"]),
    (["search", "--precision", "b"], []),
    (["verify", "--"], []),
    (["caption", "cl"], []),
])
@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash(words, wanted):
    code = completion.bash(OPTIONS) + 'COMP_WORDS=(omnivast "$@"); COMP_CWORD=$#; _omnivast; printf "%s\\n" "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "-uc", code, "bash", *words], capture_output=True, text=True, check=True)
    assert (done.stdout.split(), done.stderr) == (wanted, "")


@pytest.mark.skipif(shutil.which("zsh") is None, reason="there is no zsh")
@pytest.mark.parametrize(("words", "wanted"), [
    (["ca"], "verb verbs\n"), (["caption", "--"], "--help --group --precision"), (["caption", "--precision", "b"], "auto bf16"),
    (["caption", "cl"], "files"), (["verify", "-"], "files")])
def test_zsh(words, wanted):
    said = 'compdef() { :; }; compadd() { shift; print -r -- "$@"; }; _files() { print files; }; _describe() { print -r -- "$@"; }\n'
    code = said + completion.zsh(OPTIONS) + '\nwords=(omnivast "$@"); CURRENT=$#words; _omnivast'
    done = subprocess.run(["zsh", "-fc", code, "zsh", *words], capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == (wanted.strip(), "")


def test_the_scripts_name_every_verb(capsys, monkeypatch):
    monkeypatch.setattr(completion, "options_of", lambda verb: {"--help": ()})
    for shell in completion.SCRIPTS:
        assert completion.main([shell]) == 0
        script = capsys.readouterr().out
        assert all(f"{verb}) " in script for verb in VERBS)
        if shutil.which(shell):
            subprocess.run([shell, "-n"], input=script, text=True, check=True)
