"""What the pages speak of exists: files, headings, commands."""

from __future__ import annotations

import re

import pytest

from omnivast.__main__ import VERBS
from tests.docs.pages import PAGES, ROOT, anchors, blocks, links, name_of, prose

FOLDERS = "benchmarks|config|corpus|data|datasets|docs|evaluation|model|omnivast|scripts|tests|training|utils"


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


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=name_of)
def test_files_that_are_named_exist(page):
    text = prose(page) + "".join(block.code for block in blocks(page))
    named = set(re.findall(rf"(?<![\w/.])(?:{FOLDERS})/[\w/.-]+\.(?:py|sh|json|md|txt)\b", text))
    assert [name for name in sorted(named) if not (ROOT / name).exists() and "/quick/" not in name] == []


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
