"""The project's Markdown pages: their prose, headings and blocks of code; and what its code says in docstrings and comments."""

from __future__ import annotations

import ast
import re
import tokenize
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks" / "README.md",
         ROOT / "datasets" / "omnistamps" / "README.md", ROOT / "tests" / "goldens" / "README.md"]
FOLDERS = ("benchmarks", "config", "corpus", "data", "datasets", "docs", "evaluation", "model", "omnivast", "scripts", "tests",
           "training", "utils")
CODE = [*ROOT.glob("*.py"), *ROOT.glob("*.sh"),
        *(file for folder in FOLDERS for kind in ("py", "sh") for file in sorted((ROOT / folder).rglob(f"*.{kind}")))]
FENCE = re.compile(r"^(?P<run><!-- run -->\n)?```(?P<language>\w*)\n(?P<code>.*?)^```$", re.M | re.S)


@dataclass(frozen=True)
class Block:
    """A fenced block of code; ``runs``: a line ``<!-- run -->`` stands before it."""

    language: str
    code: str
    runs: bool


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def prose(page: Path) -> str:
    """The page without its blocks of code."""
    return FENCE.sub("", page.read_text())


def blocks(page: Path) -> list[Block]:
    return [Block(found["language"], found["code"], bool(found["run"])) for found in FENCE.finditer(page.read_text())]


def anchors(page: Path) -> set[str]:
    """What ``#…`` may name on the page, as GitHub makes it from the headings."""
    headings = re.findall(r"^#+ +(.*)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: Path) -> list[str]:
    """Targets of links and pictures within the project; addresses of the web are left out."""
    text = re.sub(r"`[^`\n]*`", "", prose(page))
    found = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    return [target for target in found if not re.match(r"[a-z]+:", target)]


def remarks(file: Path) -> str:
    """Docstrings, those of attributes too, and comments of a file of code; a shell script whole."""
    if file.suffix != ".py":
        return file.read_text()
    strings = [node.value.value for node in ast.walk(ast.parse(file.read_text()))
               if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)]
    with file.open("rb") as stream:
        comments = [token.string for token in tokenize.tokenize(stream.readline) if token.type == tokenize.COMMENT]
    return "\n".join([*strings, *comments])
