"""A server's program, as its command lines name it."""

from __future__ import annotations

import re
from typing import NamedTuple

from ...errors import InputError


class Server(NamedTuple):
    """A server's program."""

    pattern: str
    """A regular expression of its name, or its module's."""
    name: str
    """As people write it."""
    image: str
    """A regular expression of the names of its container's images, whose entry point it is or which run it."""
    example: str
    """How it is written, with a model."""

    def is_command(self, text: str) -> bool:
        """Whether a text is a command line of the program: of a shell, after other programs, or a container.

        The name as an option's value is none, as in a trainer's ``--infer_backend vllm``.
        """
        words = text.split()
        return any(
            re.fullmatch(self.image, word)
            or (re.fullmatch(rf"(?:\S*/bin/)?(?:{self.pattern})", word) and (after == "serve" or before[:2] != "--"))
            for before, word, after in zip(["", *words], words, [*words[1:], ""], strict=False)
        )

    def refuse(self, text: str) -> None:
        """Raise ``InputError`` for a command line of the program, which has an answer of its own."""
        if self.is_command(text):
            first = text.split()[0]
            raise InputError(f"'{first} ...' is a server's command line; ask `estimator serving` with it and --device")
