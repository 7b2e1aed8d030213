"""What a plan may say of MLC-LLM: nothing beside the model, the device and a context."""

from ..keys import of_published

KEYS = of_published("mlc", ("mlc-llm", "mlc_llm", "mlc-chat"))
