"""What a plan may say of LiteRT-LM: nothing beside the model, the device and a context."""

from ..keys import of_published

KEYS = of_published("litert", ("litert-lm", "litert_lm", "mediapipe", "tflite", "ai-edge"))
