"""The witnesses against which results are checked: the real module traced or run, and the real llama.cpp."""
