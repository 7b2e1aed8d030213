"""``estimator max-rank``: the highest rank that fits."""

from __future__ import annotations

from functools import partial

from . import inverse

configure = partial(inverse.configure, "max-rank")
execute = partial(inverse.execute, "max-rank")
