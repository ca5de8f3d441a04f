"""``omnivast completion bash``: a script by which a shell completes verbs, their options and the values of these.

Options are read from what ``omnivast VERB --help`` prints, so that there is nothing to keep up to date.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import re
import shlex
import sys
from collections.abc import Callable, Sequence

from omnivast.__main__ import VERBS, Verb

Options = dict[str, tuple[str, ...]]
"""Option → the values that it is one of; none where it is anything."""
OPTION = re.compile(r"^ {2,}(?:-\w(?: [^\s,]+)?, )?(--[\w-]+)(?:[ =]\{([^}\s]+)\})?", re.MULTILINE)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the script of a shell."""
    parser = argparse.ArgumentParser(
        prog="python -m omnivast completion", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Print a script by which a shell completes verbs and options. To keep it:\n"
                    "  omnivast completion bash > ~/.local/share/bash-completion/completions/omnivast\n"
                    "  omnivast completion zsh > \"${fpath[1]}/_omnivast\"")
    parser.add_argument("shell", choices=SCRIPTS)
    shell = parser.parse_args(arguments).shell
    sys.stdout.write(SCRIPTS[shell]({name: options_of(verb) for name, verb in VERBS.items()}))
    return 0


def options_of(verb: Verb) -> Options:
    """The options that the help of a verb lists."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        getattr(importlib.import_module(verb.module), verb.main)([*verb.first, "--help"])
    return {name: tuple(values.split(",")) if values else () for name, values in OPTION.findall(printed.getvalue())}


def bash(verbs: dict[str, Options]) -> str:
    """For bash, 3.2 too; where nothing fits it completes names of files."""
    values = [f'            "{verb} {option}") found="{" ".join(known)}" ;;' for verb, options in verbs.items()
              for option, known in options.items() if known]
    names = [f'            {verb}) found="{" ".join(options)}" ;;' for verb, options in verbs.items()]
    return "\n".join([
        "_omnivast() {",
        '    local word="${COMP_WORDS[COMP_CWORD]}" found=""',
        '    if [ "$COMP_CWORD" -eq 1 ]; then',
        f'        found="{" ".join(verbs)}"',
        "    else",
        '        case "${COMP_WORDS[1]} ${COMP_WORDS[COMP_CWORD - 1]}" in', *values, "        esac",
        '        [ -n "$found" ] || [ "${word#-}" = "$word" ] || case "${COMP_WORDS[1]}" in', *names, "        esac",
        "    fi",
        '    COMPREPLY=($(compgen -W "$found" -- "$word"))',
        "}",
        "complete -o bashdefault -o default -F _omnivast omnivast", ""])


def zsh(verbs: dict[str, Options]) -> str:
    """For zsh, which also shows what each verb does."""
    does = [f"            {shlex.quote(f'{verb}:{VERBS[verb].does}')}" for verb in verbs]
    values = [f"        '{verb} {option}') compadd -- {' '.join(known)}; return ;;" for verb, options in verbs.items()
              for option, known in options.items() if known]
    names = [f"        {verb}) compadd -- {' '.join(options)}; return ;;" for verb, options in verbs.items() if options]
    return "\n".join([
        "#compdef omnivast",
        "_omnivast() {",
        "    if (( CURRENT == 2 )); then",
        "        local -a verbs", "        verbs=(", *does, "        )",
        "        _describe verb verbs", "        return",
        "    fi",
        '    case "$words[2] $words[CURRENT-1]" in', *values, "    esac",
        '    [[ "$words[CURRENT]" == -* ]] && case "$words[2]" in', *names, "    esac",
        "    _files",
        "}",
        'if [[ "$funcstack[1]" == _omnivast ]]; then _omnivast "$@"; else compdef _omnivast omnivast; fi', ""])


SCRIPTS: dict[str, Callable[[dict[str, Options]], str]] = {"bash": bash, "zsh": zsh}
