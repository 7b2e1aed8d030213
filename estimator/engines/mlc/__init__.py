"""MLC-LLM: published figures, since its compiled models cannot be had."""
