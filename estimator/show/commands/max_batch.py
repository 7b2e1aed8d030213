"""``estimator max-batch``: the largest micro-batch that fits."""

from __future__ import annotations

from functools import partial

from . import inverse

configure = partial(inverse.configure, "max-batch")
execute = partial(inverse.execute, "max-batch")
