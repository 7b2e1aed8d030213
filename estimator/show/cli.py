"""The command line. Each command is a module in ``commands``, which is imported only when it is asked for."""

from __future__ import annotations

import argparse
import gc
import io
import os
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from types import ModuleType
from typing import Any, NoReturn

from ..errors import InputError, asked_in_a_shell, defect, nearest
from ..io.files import READ
from ..io.outputs import REPLACED
from ..text import printable
from .commands import module_of, tables
from .topics import COMMANDS, EVERY_OPTION

MOST_WORDS = 2_000
"""The most words of a command line: argparse takes time that grows with the square of their number."""


class _Parser(argparse.ArgumentParser):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._negative_number_matcher = re.compile(r"-\.?\d")  # also -5GiB and -5%: values, which are refused as such

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see `{self.prog} --help`")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command. Returns 0 (fits, or no budget), 1 (does not fit) or 2 (anything else, with a line that says what).

    Returns 130 after Ctrl-C, and 141 without a line where the reader of its output has closed the pipe. An error never
    returns 1, so job scripts can rely on 1 for a step that does not fit.
    """
    with asked_in_a_shell():
        return _main(list(sys.argv[1:] if argv is None else argv))


def _main(arguments: list[str]) -> int:
    try:
        if sys.stdout is None:
            raise InputError("standard output is closed, so nobody would read the answer; leave it open")
        status = _run(arguments)
        sys.stdout.flush()
        return status
    except InputError as error:
        return _refused(str(error))
    except OSError as error:
        if sys.stdout is sys.__stdout__ and sys.stdout is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python's buffer is written there at exit
        if isinstance(error, BrokenPipeError):  # as in `estimator devices | head -1`
            return 128 + 13  # as a shell says of a program that SIGPIPE ended: 0 would say that the step fits
        return _refused(str(InputError(str(error))))
    except KeyboardInterrupt:
        _refused("interrupted")
        return 130
    except BaseException as error:  # a defect here, out of memory or stack, or a panic in an extension
        return _refused(defect(error))


def _refused(line: str) -> int:
    if sys.stderr is not None:
        with suppress(OSError):
            print(f"estimator: {line}", file=sys.stderr)
    return 2


def _run(arguments: list[str]) -> int:
    numbers = (os.environ.get("_ARGCOMPLETE", ""), os.environ.get("COMP_POINT", ""))
    if all(map(str.isdecimal, numbers)) and "COMP_LINE" in os.environ:  # a shell asks for completions
        from .completion import complete

        complete(COMMANDS)
    if len(arguments) > MOST_WORDS:
        raise InputError(f"{len(arguments):,} words on the command line; give {MOST_WORDS:,} at most, or a plan's file")
    if arguments[:1] in (["-V"], ["--version"]):
        from ..io.version import __version__

        print(f"estimator {__version__}")
        return 0
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # for bars and lines, where the terminal has no Unicode
    tables.start(quiet=False)
    READ.clear()
    REPLACED.clear()
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:], "--help"]
    command = arguments[0] if arguments else "--help"
    if command in ("-h", "--help"):
        tables.show(
            "usage: estimator COMMAND [MODEL] [options]",
            "How many bytes a fine-tuning step or an inference run of a transformer language model needs.",
            tables.table(("command", "what it gives"), list(COMMANDS.items()), left=(0, 1)),
            "`estimator help COMMAND` or `COMMAND --help` shows a command's options; `-V` prints the version.",
        )
        return 0
    if command not in COMMANDS:
        raise InputError(f"no command '{command}'{nearest(command, COMMANDS)}; there are {', '.join(COMMANDS)}")
    module = module_of(command)
    options = arguments[1 : arguments.index("--") if "--" in arguments[1:] else None]
    if any(word in ("-h", "--help") or word.startswith("--help-") for word in options):
        from .commands.help import requested, show_help

        topic, method = requested(arguments[1:])
        show_help(_parser(module, command, [EVERY_OPTION, "--method", method]), topic, method)
        return 0
    args = _parsed(module, command, arguments[1:])
    tables.start(getattr(args, "quiet", False))
    if not gc.isenabled():  # see ``startup``
        gc.freeze()
        gc.enable()
        gc.set_threshold(10_000)  # tensors die by their reference counts, so there is little to find
    status: int = module.execute(args)
    if (written := getattr(args, "output", None)) is not None and os.path.realpath(written) in REPLACED:
        print(f"estimator: overwrote '{printable(str(written))}'", file=sys.stderr)
    return status


def _parser(module: ModuleType, command: str, arguments: Sequence[str]) -> argparse.ArgumentParser:
    own = _Parser(prog=f"estimator {command}", description=COMMANDS[command], allow_abbrev=False, add_help=False)
    module.configure(own, arguments)
    if command not in ("formula", "export", "sweep", "completion"):  # these print nothing but the answer
        own.add_argument(
            "--quiet", action="store_true", help="print the answer alone, without table, notes and assumptions"
        )
    return own


def _value_of(option: str, words: Sequence[str]) -> str | None:
    """The value that follows an unknown option on a command line, behind an equals sign or as the next word."""
    at = next(i for i, word in enumerate(words) if word.partition("=")[0] == option) if option else len(words)
    if at < len(words) and "=" in words[at]:
        return words[at].partition("=")[2]
    following = words[at + 1] if at + 1 < len(words) else ""
    return None if not following or following.startswith("--") else following


def _parsed(module: ModuleType, command: str, arguments: list[str]) -> argparse.Namespace:
    """A command's arguments. Options of all methods are accepted, since the plan refuses those of other methods."""
    for given in (arguments, [EVERY_OPTION, "--method", ""]):
        own = _parser(module, command, given)
        args, rest = own.parse_known_args(arguments)
        if not rest:
            return args
    names = [word.partition("=")[0] for word in rest if word.startswith("--")]  # not their values, perhaps tokens
    option = next(iter(names), "")
    if hasattr(args, "plan"):  # the word may be another program's name for a key of the plan
        from ..plans.words import refuse_word

        refuse_word(option.removeprefix("--"), _value_of(option, rest))
    known = [name for action in own._actions for name in action.option_strings]
    hint = nearest(option, known) if option else ""
    raise InputError(f"unrecognized arguments: {' '.join(names or rest)}{hint}; see `{own.prog} --help`")


if __name__ == "__main__":
    sys.exit(main())
