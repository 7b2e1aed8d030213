"""Advice for a training file: changes that the file's tool can say, as a patch of the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from ..io.files import read_text
from ..plans.margins import STATED, Margin
from ..trainers import patches
from ..trainers.formats import WANTED, of_text, with_adapter
from .advice import Advice, advise
from .check import Checked, answered, check
from .estimate import Progress


@dataclass(frozen=True)
class FileAdvice:
    """Advice for a training file."""

    checked: Checked
    advice: Advice
    edits: Mapping[str, Any]
    """The file's new values, by its keys."""
    patch: str
    """A unified diff of the file; empty where nothing changes."""
    patched: Checked
    """The answer to the file with the patch."""

    def to_dict(self) -> dict[str, Any]:
        """The advice as an object, with the file's edits and their patch."""
        after = self.patched.result
        return {
            **self.advice.to_dict(),
            "edits": dict(self.edits),
            "patch": self.patch,
            "patched_bytes": None if after is None else after.bytes["process"],
        }


def advise_file(
    source: str,
    keys: Mapping[str, Any] | None = None,
    tool: str | None = None,
    progress: Progress = lambda: None,
    margin: Margin = STATED,
) -> FileAdvice:
    """The cheapest changes that the file's tool can say and after which the step fits. Arguments as of ``check``.

    Raises ``InputError`` for a file without an estimate, and for a format whose keys cannot be written.
    """
    checked = check(source, keys, tool)
    if checked.plan is None:
        raise InputError(checked.error)
    name, path = checked.format, checked.path
    if name not in patches.WRITERS or path is None:
        raise InputError(
            f"{source}: changes can be written into files of {', '.join(patches.WRITERS)}; name such a file"
        )
    said_by = checked.said_by
    found = advise(
        checked.plan.model_dump(exclude_unset=True, exclude={"run"}),  # advice is about the step
        progress,
        margin,
        lambda change: patches.edits(name, change, said_by) is not None,
    )[0]
    edits: dict[str, Any] = {}
    for step in found.steps:
        edits |= patches.edits(name, step.keys, said_by) or {}
    text = read_text(path, WANTED, or_stdin=True)
    after = patches.edited(text, edits)
    patched = answered(with_adapter(of_text(after, source, name), path.parent), source, keys)
    return FileAdvice(checked, found, edits, patches.patch(path.name, text, after), patched)
