"""The witnesses against which results are checked: a trace of the real module, and a measured step. Needs PyTorch."""
