"""llama.cpp: the memory of a process that runs a GGUF model."""
