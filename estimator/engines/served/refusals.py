"""What does not go with a server in a plan."""

from __future__ import annotations

from ..keys import Refusals

REFUSED: Refusals = {
    "task: {p.task} does not go with runtime: {p.runtime}, which serves requests; set task: serve": (
        lambda p: p.task != "serve"
    ),
    "dtype: {p.dtype} has no rule with runtime: {p.runtime}; give float16 or bfloat16, and quantization for a "
    "quantised checkpoint": lambda p: p.dtype not in ("float32", "bfloat16", "float16"),
    "runtime: {p.runtime} has no rule without a device; name a GPU, such as h100-80gb": lambda p: p.device is None,
}
