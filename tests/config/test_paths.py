"""Paths as people write them."""

import argparse
import dataclasses
import os

import pytest

from omnivast.config.fields import SECTIONS, ConfigError, section_keys
from omnivast.config.load import load_config
from omnivast.config.paths import PathError, as_path, expanded, looked_up
from omnivast.config.schema import DatasetConfig


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DATA", "/big")
    monkeypatch.delenv("NOWHERE", raising=False)
    return tmp_path


def test_what_a_shell_would_have_expanded(home):
    assert expanded("~/x") == f"{home}/x" and expanded("~") == str(home) and expanded("hf:~/x") == f"hf:{home}/x"
    assert expanded("$DATA/a") == "/big/a" and expanded("${DATA}2/$HOME") == f"/big2/{home}"
    for plain in ("a~b", "./~x", "cost$5", "a-{000..127}.tar", "{a,b}.tar", "hf:MIT/ast", "", "$"):
        assert expanded(plain) == plain


@pytest.mark.parametrize("text, message", [("$NOWHERE/x", "the environment variable NOWHERE is not set"),
                                           ("/a/${NOWHERE}", "the environment variable NOWHERE is not set"),
                                           ("s3://bucket/x.json", "is an address"), ("a\0b", "holds a zero byte"),
                                           ("~no_such_user/x", "there is no user 'no_such_user' here")])
def test_what_cannot_be_expanded_is_named(home, text, message):
    with pytest.raises(PathError, match=message):
        expanded(text)


def test_on_the_command_line(home, capsys):
    parser = argparse.ArgumentParser()
    parser.add_argument("--x", type=as_path)
    assert parser.parse_args(["--x=~/a"]).x == home / "a"
    with pytest.raises(SystemExit):
        parser.parse_args(["--x=$NOWHERE"])
    assert "'$NOWHERE': the environment variable NOWHERE is not set" in capsys.readouterr().err


def test_in_files_and_flags(shop, home):
    config = shop.load("--checkpoint=~/m.pt", "--data_cfg.train.0.vision=$DATA/v", "--data_cfg.val.0.audio", "~/a",
                       run={"output_dir": "~/out"}, train={"txt": "${DATA}/t.json"}, val={"cache_dir": "~/cache"})
    assert config.run_cfg.output_dir == f"{home}/out" and config.run_cfg.checkpoint == f"{home}/m.pt"
    train, val = config.data_cfg.train[0], config.data_cfg.val[0]
    assert (train.txt, train.vision, val.audio, val.cache_dir) == ("/big/t.json", "/big/v", f"{home}/a", f"{home}/cache")
    assert load_config(["--config=~/c.json"]).run_cfg.output_dir == f"{home}/out"
    shop.write("base.json", {"seed": 7})
    assert shop.load(run={"default": "$HOME/base.json"}).run_cfg.seed == 7
    for keys, message in (({"run": {"output_dir": "$NOWHERE"}}, "c.json: run_cfg.output_dir: '$NOWHERE': the environment variable"),
                          ({"val": {"vision": "~no_such_user"}}, "c.json: data_cfg.val[0].vision: '~no_such_user': there is no user"),
                          ({"run": {"default": "$NOWHERE"}}, "c.json: run_cfg.default: '$NOWHERE': the environment variable")):
        with pytest.raises(ConfigError) as error:
            shop.load(**keys)
        assert message in str(error.value)
    with pytest.raises(ConfigError, match="--config: '.NOWHERE': the environment variable"):
        load_config(["--config", "$NOWHERE"])


def test_every_setting_that_speaks_of_a_folder_or_a_file_is_a_path():
    """A new one that is forgotten would make a folder named ~."""
    for section in (*SECTIONS, "data_cfg"):
        for key, setting in section_keys(section).items():
            text = setting.type is str or setting.element is str
            words = {word.strip("s,;:.()") for word in setting.metadata["help"].split()}
            if text and words & {"folder", "file", ".pt"}:
                assert setting.metadata.get("path"), key
    assert {f.name for f in dataclasses.fields(DatasetConfig) if f.metadata.get("path")} == {
        "txt", "ids_path", "shards", "hard_negatives", "vision", "audio", "annfile", "cache_dir"}


def test_a_relative_path_says_what_it_is_relative_to(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert looked_up("a/b") == f" (looked up from {os.getcwd()})" and looked_up(tmp_path / "a") == ""
