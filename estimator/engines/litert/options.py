"""What a plan may say of LiteRT-LM: nothing beside the model, the device and a context."""

from ..published import keys_of

KEYS = keys_of("litert", ("litert-lm", "litert_lm", "mediapipe", "tflite", "ai-edge"))
