"""The blocks of code behind ``<!-- run -->`` do what the pages say, one after the other, in a folder of their own."""

from __future__ import annotations

import os
import shlex
from functools import partial
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT, Block, blocks, links, name_of
from tests.e2e.program import Running

README = ROOT / "README.md"
OWN = ("output", "pretrained_weights")
"""Folders that runs write to: not those of whoever runs the tests."""


def runnable() -> list[tuple[str, Block]]:
    """(page, block), the README's first, then those of other pages in the order in which the README links to them."""
    linked = [(ROOT / target.partition("#")[0]).resolve() for target in links(README)]
    order = [README, *dict.fromkeys(page for page in linked if page in PAGES), *PAGES]
    return [(name_of(page), block) for page in dict.fromkeys(order) for block in blocks(page) if block.runs]


def commands(block: Block) -> list[list[str]]:
    """The words of each command; a backslash at a line's end joins it to the next."""
    lines = block.code.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


@pytest.mark.e2e
def test_blocks_run(tmp_path):
    for path in ROOT.iterdir():
        if path.name not in OWN and not path.name.startswith("."):
            (tmp_path / path.name).symlink_to(path)
    found = runnable()
    assert len(found) >= 3
    for page, block in found:
        for words in commands(block):
            assert words[:2] == ["python", "run.py"] or words[:3] == ["python", "-m", "omnivast"], f"{page}: {words} cannot be run here"
            module, arguments = ("", words[2:]) if words[1] == "run.py" else ("omnivast", words[3:])
            status, text = Running(arguments, module=module, first=partial(os.chdir, Path(tmp_path))).finish()
            assert status == 0, f"{page}: {shlex.join(words)} ended with {status}:\n{text[-3000:]}"
