"""What published runs are scored by: a figure that was printed, beside the range of what could be answered.

Settings that were not printed have several values, so that an answer is a range.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HEAD = "run\tfigure\tlogged\tanswered, least\tmost\tin the bar\twhy not"


@dataclass(frozen=True)
class Score:
    """A figure of a run: what was logged, and the range of the answers."""

    run: str
    what: str
    said: Any
    low: Any
    high: Any
    bar: float
    digits: float = 0.005
    """Half of the last digit that was printed."""

    @property
    def hit(self) -> bool:
        """Whether what was logged is in the range, with the bar around it; of an error, whether the words are."""
        if isinstance(self.said, str):
            return bool(self.low)
        room = abs(self.said) * self.bar + self.digits
        return bool(self.low - room <= self.said <= self.high + room)


def chosen(missing: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """Every choice of the settings that were not printed."""
    for values in itertools.product(*missing.values()):
        yield dict(zip(missing, values, strict=True))


def line(score: Score, missed: Mapping[tuple[str, str], str]) -> str:
    """A figure's line of the table."""
    ends = [f"{end:.5g}" if isinstance(end, float) else f"{end}" for end in (score.low, score.high)]
    why = missed.get((score.run, score.what), "")
    return "\t".join((score.run, score.what, f"{score.said}", *ends, "yes" if score.hit else "no", why))


def write(
    words: Sequence[str],
    scores: Iterable[Score],
    missed: Mapping[tuple[str, str], str],
    not_asked: Mapping[str, str],
    table: Path,
) -> None:
    """Print scores, and without words, which leave out some, write them to the table."""
    lines = [HEAD, *(line(score, missed) for score in scores)]
    lines += [f"{name}\t\t\t\t\tnot asked\t{why}" for name, why in not_asked.items()]
    print("\n".join(lines))
    if not words:
        table.write_text("\n".join(lines) + "\n", encoding="utf-8")
