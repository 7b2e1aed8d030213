"""ExecuTorch: what a program that ``export_llm`` makes holds, and a ``.pte`` file's own plan."""
