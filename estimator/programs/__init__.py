"""Programs: each model family's forward pass as data, and what runs it."""

# ruff: noqa: F401
# mypy: implicit-reexport

from .layer_runs import Run
from .modules import Builder, Embedding, Linear, Method, Module
from .recorded import Config, Sizes
from .step import Blocks, CachedTokens, Generated, Inputs, Procedure, Sharding, Step
