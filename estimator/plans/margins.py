"""How much of a budget an answer leaves free, since a process takes more or less memory than predicted."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from ..engines.engine import HOST, Limit
from ..errors import InputError, shown
from ..io.fields import parse_size

MARGIN_HELP = "what an answer keeps free: a share (5%%), a size (500MiB) or 0; the estimate's uncertainty if not given"
_ZERO = r"(?ai)\s*0+(?:\.0+)?\s*(?:%|[kmgt]?i?b)?\s*"
_SHARE = r"\s*([0-9]{1,3}(?:\.[0-9]{1,6})?)\s*%\s*"


class Margin(NamedTuple):
    """What is kept free: a share of the predicted bytes, or bytes. With neither it is the answer's own uncertainty."""

    share: float | None = None
    nbytes: int | None = None

    @classmethod
    def parse(cls, text: str | None) -> Margin:
        """A margin as people write it: ``5%``, ``500MiB``, ``0`` for none; ``None`` for the stated uncertainty.

        Raises ``InputError``.
        """
        if text is None:
            return cls()
        if not isinstance(text, str):
            raise InputError(f"margin {shown(text)} is no text; write it like '5%', '500MiB' or '0'")
        if re.fullmatch(_ZERO, text):
            return cls(nbytes=0)
        if found := re.fullmatch(_SHARE, text):
            share = float(found[1]) / 100
            if share < 1:
                return cls(share=share)
            raise InputError(
                f"a margin of {shown(text)} is more than the prediction; write a share below 100%, such as 5%"
            )
        try:
            return cls(nbytes=parse_size(text))
        except InputError:
            raise InputError(f"margin {shown(text)} is no share and no size; write it like 5%, 500MiB or 0") from None

    def of(self, nbytes: int, uncertainty: float) -> int:
        """Bytes to keep free beside a prediction of ``nbytes``. ``uncertainty`` is a share of the prediction."""
        if self.nbytes is not None:
            return self.nbytes
        return round((uncertainty if self.share is None else self.share) * nbytes)

    def left(self, limit: Limit, uncertainty: float) -> int:
        """Bytes of a limit's budget that remain beside the need and the margin; negative if some are missing."""
        return limit.left - self.of(limit.uncertain, uncertainty)

    def tightest(self, limits: Sequence[Limit], uncertainty: float) -> Limit:
        """The limit of which least is left."""
        return min(deciding(limits), key=lambda one: self.left(one, uncertainty), default=limits[0])


def deciding(limits: Sequence[Limit]) -> list[Limit]:
    """The limits that a verdict is of. Where the first one, of the process, has no budget, it is the host's alone."""
    return [one for one in limits if limits[0].budget is not None or one.against == HOST]


STATED, NO_MARGIN = Margin(), Margin(nbytes=0)


NOT_SURE = "not sure"
"""The verdict where something was read that changes memory by an amount without a rule."""


def verdict_of(fits: bool, with_margin: bool) -> str:
    """The verdict in words: whether the prediction fits the budget, and whether it does with the margin added."""
    return "fits" if with_margin else "tight" if fits else "does not fit"
