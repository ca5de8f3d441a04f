"""``omnivast parity`` as tests run it."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from types import SimpleNamespace

from omnivast.scripts.tools.parity import command


def check(folder: Path, *flags: str) -> SimpleNamespace:
    """The verb's exit status, its rows by kind and name (error, whether within tolerance), the names of those that are not, with their
    notes, the groups, and what it wrote besides."""
    out, other = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(other):
        status = command.main([str(folder), "--json", *flags])
    told = json.loads(out.getvalue() or "{}")
    values = told.get("values", [])
    rows = {(row["kind"], row["name"]): (float("inf") if row["error"] is None else row["error"], row["ok"]) for row in values}
    assert len(rows) == len(values), "a row occurs twice"
    return SimpleNamespace(status=status, rows=rows, failed=[row["name"] for row in values if not row["ok"]], what=told.get("what"),
                           notes={row["name"]: row["note"] for row in values if not row["ok"]}, groups=told.get("groups"),
                           passed=told.get("passed"), text=other.getvalue())


def edit(folder: Path, change) -> None:
    """Change what a folder's golden.json holds."""
    golden = json.loads((folder / "golden.json").read_text())
    change(golden)
    (folder / "golden.json").write_text(json.dumps(golden))
