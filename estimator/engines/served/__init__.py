"""What vLLM and SGLang share: the parameters of a rank, quantised checkpoints, what a layer caches, command lines."""
