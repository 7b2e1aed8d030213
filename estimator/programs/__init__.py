"""Programs: each model family's forward pass, and the modules and sizes that it is written with."""

# ruff: noqa: F401
# mypy: implicit-reexport

from .method import Method
from .modules import Builder, Embedding, Linear, Module
from .recorded import Config, Sizes
from .sizes import Run
from .step import CachedTokens, Generated, Inputs, Procedure, Sharding, Step
