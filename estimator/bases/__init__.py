"""Quantised base models: what their linear layers hold, save for backward and dequantise."""
