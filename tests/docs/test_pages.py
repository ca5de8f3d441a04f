"""What the pages, and the code's docstrings and comments, speak of exists: files, headings, commands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from omnivast.__main__ import VERBS
from tests.docs.pages import CODE, FOLDERS, PAGES, ROOT, anchors, blocks, links, name_of, prose, remarks


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    wrong = []
    for target in links(page):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists():
            wrong.append(f"{target}: there is no such file")
        elif anchor and anchor not in anchors(file):
            wrong.append(f"{target}: its headings are {sorted(anchors(file))}")
    assert wrong == []
FROM_THE_ROOT = re.compile(rf"(?<![\w/.])(?:{'|'.join(FOLDERS)})/[\w/.-]+\.(?:py|sh|json|md|txt)\b")
FROM_ANYWHERE = re.compile(r"(?<![\w/.$-])(?:\w+/)*\w+\.(?:py|sh)\b")
"""Code may be named from the folder of the file that speaks of them, or from one above it."""
MADE = ("/quick/", "/SIZE/", "datasets/annotations/", "benchmarks/results/gpu.json")
"""Made by commands, or by the user."""


def absent(text: str, file: Path) -> list[str]:
    """Names of the project's files, in a text that stands in ``file``, that lead nowhere."""
    places = [parent for parent in file.parents if parent == ROOT or ROOT in parent.parents]
    rooted = [name for name in FROM_THE_ROOT.findall(text) if not (ROOT / name).exists()]
    others = [name for name in FROM_ANYWHERE.findall(text) if not any((place / name).exists() for place in places)]
    return [name for name in sorted({*rooted, *others}) if not any(made in name for made in MADE)]


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=name_of)
def test_files_that_are_named_exist(page):
    assert absent(prose(page) + "".join(block.code for block in blocks(page)), page) == []


def test_files_that_docstrings_and_comments_name_exist():
    assert {name_of(file): names for file in CODE if (names := absent(remarks(file), file))} == {}


def test_files_that_are_gone_are_found():
    file = ROOT / "model" / "vast" / "step.py"
    assert absent("plan.py, text/bert.py, model/build.py, README.md, hps.json, run.py", file) == []
    assert absent("plans.py, vision/bert.py and (model/builds.py) or docs/none.json", file) == [
        "docs/none.json", "model/builds.py", "plans.py", "vision/bert.py"]


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=name_of)
def test_commands_are_verbs(page):
    named = re.findall(r"(?:python -m |`|^)omnivast ([a-z][\w-]*)", page.read_text(), re.M)
    assert set(named) <= set(VERBS)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_personal_paths(page):
    assert re.findall(r"/(?:home|root|work|Users|mnt)/", page.read_text()) == []


def test_every_page_of_docs_is_linked_from_the_readme():
    assert {path.name for path in (ROOT / "docs").glob("*.md")} == {
        target.removeprefix("docs/").partition("#")[0] for target in links(ROOT / "README.md")
        if target.startswith("docs/") and ".md" in target}
