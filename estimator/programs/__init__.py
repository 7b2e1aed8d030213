"""Programs: each model family's forward pass, and the modules and sizes that it is written with."""

# ruff: noqa: F401
# mypy: implicit-reexport

from .config import Config
from .method import Method
from .modules import Builder, Embedding, Linear, Module, RMSNorm
from .sizes import Run, Sizes
from .step import Generated, Inputs, Step
