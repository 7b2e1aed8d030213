"""Programs: each model family's forward pass, and the modules and sizes that it is written with."""

# ruff: noqa: F401
# mypy: implicit-reexport

from .config import Config as WrittenConfig
from .method import Method
from .modules import Builder, Embedding, Linear, Module
from .recorded import RecordedConfig
from .sizes import Run, Sizes
from .step import CachedTokens, Generated, Inputs, Procedure, Sharding, Step

Config = WrittenConfig | RecordedConfig
"""The numbers of a model: of one of litgpt, whose program is written by hand, or of a recorded one."""
