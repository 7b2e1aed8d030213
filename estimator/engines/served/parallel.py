"""How ranks share a model."""

from __future__ import annotations

from typing import NamedTuple


class Parallel(NamedTuple):
    """How ranks share a model."""

    tp: int
    """Ranks that split attention."""
    pp: int
    dp: int
    """Groups of such ranks that share the experts."""
    ep: int
    """Ranks that have whole experts, of those that share them."""
    dense: int = 0
    """Ranks that split MLPs, where not those that split attention."""
    head: int = 0
    """Ranks that split the output layer, likewise."""
    engine: str = "vLLM"
    option: str = "tensor_parallel_size"
    """The engine and its option, for refusals."""

    @property
    def moe(self) -> int:
        """Ranks that share the experts."""
        return self.tp * self.dp

    def experts(self, count: int) -> int:
        """Experts of the rank that has most."""
        return -(-count // self.ep)
