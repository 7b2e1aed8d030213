"""The engine: what was published of it (``engines/published.json``)."""

from ..published import Published

ENGINE = Published("mlc", "MLC-LLM")
