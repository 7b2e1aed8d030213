"""Programs: each model family's forward pass as data, and what runs it."""

# ruff: noqa: F401
# mypy: implicit-reexport

from .modules import Builder, Embedding, Linear, Method, Module
from .recorded import Config, Sizes
from .sizes import Run
from .step import CachedTokens, Generated, Inputs, Procedure, Sharding, Step
