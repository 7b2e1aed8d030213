"""What a plan may say of MLC-LLM: nothing beside the model, the device and a context."""

from ..published import keys_of

KEYS = keys_of("mlc", ("mlc-llm", "mlc_llm", "mlc-chat"))
