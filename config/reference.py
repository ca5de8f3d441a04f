"""docs/config.md from the schema: every setting with its type, default and meaning. ``python -m omnivast config-reference`` prints it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence

from omnivast.config.fields import OBSOLETE, SECTIONS, Setting, moved_keys, section_keys
from omnivast.config.flags import SHORTHANDS, also_flag, described
from omnivast.config.schema import DataConfig

PREFACE = """# Settings

This page is generated from `config/schema.py`; write it anew with `python -m omnivast config-reference > docs/config.md`.
`python run.py --help` prints the same for the terminal.

A config is a JSON file with three sections:

```json
{
  "run_cfg":   {"output_dir": "output/mine", "learning_rate": 1e-4},
  "model_cfg": {"default": "config/vast/default_model_cfg.json"},
  "data_cfg":  {"train": [{"name": "clips", "task": "ret%tvas_cap%tvas", "txt": "train.json", "vision": "videos/", "epoch": 5}],
                "val":   [{"name": "clips", "task": "ret%tvas", "txt": "test.json", "vision": "videos/"}]}
}
```

- **What wins**: settings come, from the weakest to the strongest, from the defaults below, the section's `"default"` file, the pretrained
  run (the keys in `model_cfg.inherit_keys`), the config file itself, and flags on the command line.
- **Flags**: a key of `run_cfg` or `model_cfg` is a flag of the same name, `--learning_rate 2e-5`. The whole path works for every key:
  `--model_cfg.contra_dim 256`, `--data_cfg.train.0.steps 100` (datasets are counted from 0). Lists are written `--betas 0.9 0.98`.
- **Tasks**: `ret%tvas%tv_cap%tva` means retrieval (contrastive and matching) on the groups vas and v, and captioning on va; `qa%tvas` means
  answering questions. The letters are v (vision), a (audio), s (subtitle) and t (the text that is compared with them or written).
- **Paths**: `~` and `$VARIABLES` are expanded, in files too; relative paths are looked up from the working directory.
- **Mistakes**: a key or flag that is not known is an error that names the nearest one, also by the names of other programs (`--lr`,
  `--batch_size`, `--epochs`).
"""


def reference() -> str:
    """The whole page, in Markdown."""
    parts = [PREFACE]
    for section, schema in SECTIONS.items():
        parts.append(f"## {section}\n\n{schema.__doc__}\n\n{_table(section_keys(section).values())}\n")
    parts.append(f"## data_cfg\n\n{DataConfig.__doc__} Each of the lists `train` and `val` holds datasets with these keys:\n\n"
                 f"{_table(section_keys('data_cfg').values())}\n")
    parts.append("## Shorthand flags for datasets\n\n| flag | sets |\n|---|---|\n" + "\n".join(_shorthands()) + "\n")
    parts.append("## Keys that moved\n\nOlder configs, those of the release among them, have these in another section. They are understood "
                 f"there too, also as flags with the whole path.\n\n{_moved()}\n")
    parts.append("## Keys of older configs without effect\n\nThey are understood, and one line says what decides instead.\n\n"
                 "| key | what decides instead |\n|---|---|\n" + "\n".join(_obsolete()) + "\n")
    return "\n".join(parts)


def _table(settings: Iterable[Setting]) -> str:
    rows = [f"| `{s.name}` | {_cell(s.describe() + _bounds(s))} | `{json.dumps(s.default)}` | {_cell(described(s))} |"
            for s in settings if not s.metadata.get("obsolete")]
    return "\n".join(["| setting | type | default | meaning |", "|---|---|---|---|", *rows])


def _bounds(setting: Setting) -> str:
    low, high = setting.metadata.get("minimum"), setting.metadata.get("maximum")
    return (f", at least {low:g}" if low is not None else "") + (f", at most {high:g}" if high is not None else "")


def _shorthands() -> Iterable[str]:
    for flag, (lists, key) in SHORTHANDS.items():
        where = "every dataset" if len(lists) > 1 else f"every dataset of data_cfg.{lists[0]}"
        yield f"| `--{flag}` | `{key}` of {where}{also_flag(flag)} |"


def _moved() -> str:
    lines = [f"- from `{before}` to `{home}`: " + ", ".join(f"`{key}`" for key, other in moved_keys(before).items() if other == home)
             for before in SECTIONS for home in dict.fromkeys(moved_keys(before).values())]
    return "\n".join(lines)


def _obsolete() -> Iterable[str]:
    for section in (*SECTIONS, "data_cfg"):
        keys = {s.name: s.metadata["obsolete"] for s in section_keys(section).values() if s.metadata.get("obsolete")}
        for key, instead in {**keys, **OBSOLETE.get(section, {})}.items():
            yield f"| `{section}.{key}` | {_cell(instead)} |"


def _cell(text: str) -> str:
    """Text that stands in a table as it is written: <name> is no HTML, * no emphasis, | no border."""
    return text.replace("<", "&lt;").replace(">", "&gt;").replace("*", r"\*").replace("|", r"\|")


def main(arguments: Sequence[str]) -> int:
    """Prints the page."""
    argparse.ArgumentParser(prog="python -m omnivast config-reference", description=__doc__).parse_args(arguments)
    sys.stdout.write(reference())
    return 0
