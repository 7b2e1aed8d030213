"""Records what real modules call, as programs. Needs PyTorch."""
