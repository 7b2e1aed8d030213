"""llama.cpp: what the engine keeps in memory."""
