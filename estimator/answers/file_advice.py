"""Advice for a training file: changes that the file's tool can say, as a patch of the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from ..io.files import read_text
from ..plans.margins import STATED, Margin
from ..plans.plan import Plan
from ..trainers import patches
from ..trainers.formats import WANTED, called, of_text, with_adapter
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
    """A unified diff of the file; empty where nothing changes, and where a line that changes has a key that nothing
    counts, whose value may be a token."""
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
            f"{called(source)}: changes can be written into files of {', '.join(patches.WRITERS)}; name such a file"
        )
    before = checked.plan.model_dump(exclude={"run"})  # advice is about the step
    text = read_text(path, WANTED, or_stdin=True)
    written: dict[str, patches.Edits] = {}

    def after(edits: patches.Edits) -> Checked:
        edited = of_text(patches.edited(text, edits), source, name)
        return answered(with_adapter(edited, path.parent), source, keys)

    def made(change: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """A change as the file says it. What it makes of sharding is read back, since other keys depend on it."""
        edits = patches.edits(name, change, checked.said_by, before["sharding"])
        if edits is None or "sharding" not in change:
            said = None if edits is None else change
        else:
            said = _read_back(after(edits).plan, before, change["sharding"])
        written[repr(said)] = edits or {}
        return said

    found = advise(checked.plan.model_dump(exclude_unset=True, exclude={"run"}), progress, margin, made)[0]
    edits = {key: own for step in found.steps for key, own in written[repr(step.keys)].items()}
    uncounted = {one.key.rpartition(".")[2] for one in checked.ignored}
    diff = patches.patch(path.name, text, patches.edited(text, edits), uncounted)
    return FileAdvice(checked, found, edits, diff, after(edits))


def _read_back(plan: Plan | None, before: Mapping[str, Any], wanted: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The keys of a plan that are others than ``before``; ``None`` where it does not share as is ``wanted``."""
    if plan is None or plan.sharding is None or not wanted.items() <= plan.sharding.model_dump().items():
        return None
    block = plan.sharding.model_dump(exclude_unset=True)
    now = {**plan.model_dump(exclude={"run"}), "sharding": block}
    return {key: value for key, value in now.items() if value != before.get(key)}
