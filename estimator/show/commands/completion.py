"""``estimator completion``: a script for completion in a shell."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

SHELLS = ("bash", "zsh", "fish")


def configure(parser: argparse.ArgumentParser, _: Sequence[str]) -> None:
    """Add the command's options."""
    parser.description = (
        "a script that makes a shell complete commands, options, models, devices and methods. "
        'bash: eval "$(estimator completion bash)" in ~/.bashrc; zsh: the same in ~/.zshrc, behind compinit; '
        "fish: estimator completion fish | source, in ~/.config/fish/config.fish"
    )
    parser.add_argument("shell", metavar="SHELL", choices=SHELLS, help=", ".join(SHELLS))


def execute(args: argparse.Namespace) -> int:
    """Print the script. Always returns 0."""
    import argcomplete

    print(argcomplete.shellcode(["estimator"], shell=args.shell))
    return 0
