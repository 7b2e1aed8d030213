"""The block of queries that the CPU's flash kernel takes at once, as a symbol of the sequence length."""

from __future__ import annotations

from estimator import operators as ops


def test_blocks_of_longer_sequences() -> None:
    """A block's size over S + 20 tokens is a symbol of its own, with its definition."""
    from estimator.ledger.sizes import registered, symbol, value_of

    rows = ops.query_block(symbol("S") + 20)
    assert rows == symbol("query_block_S_20") != ops.query_block(symbol("S"))
    for seq in (3, 171, 172, 747, 748):
        assert value_of(registered("query_block_S_20"), {"S": seq}) == ops.query_block(seq + 20)
        assert value_of(registered("query_block"), {"S": seq}) == ops.query_block(seq)
