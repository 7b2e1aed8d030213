"""What acts around a step whose model several processes share, held against PyTorch's own functions."""

from __future__ import annotations

import random

import pytest

from estimator.steps.sharding.ddp import bucket_assignment


@pytest.mark.extra("trace")
def test_buckets_are_those_of_torch() -> None:
    """Witness: ``torch.distributed._compute_bucket_assignment_by_size``, over sizes at and beside the limits."""
    import torch
    from torch.distributed import _compute_bucket_assignment_by_size as assigned

    chosen = random.Random(5)
    for _ in range(200):
        limits = chosen.choice(([1000], [400, 1000], [2000, 400]))
        numels = [chosen.choice((1, 50, 99, 100, 101, 250, 251, 600)) for _ in range(chosen.randrange(1, 30))]
        tensors = [torch.empty(n, dtype=chosen.choice((torch.float32, torch.bfloat16))) for n in numels]
        sizes = [(str(tensor.dtype), tensor.nbytes) for tensor in tensors]
        assert bucket_assignment(sizes, limits) == assigned(tensors, limits)[0]
