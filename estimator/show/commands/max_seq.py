"""``estimator max-seq``: the longest sequence that fits."""

from __future__ import annotations

from functools import partial

from . import inverse

configure = partial(inverse.configure, "max-seq")
execute = partial(inverse.execute, "max-seq")
