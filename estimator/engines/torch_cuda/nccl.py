"""The buffers that NCCL has on a GPU, outside of PyTorch's allocator.

A channel of a ring has one buffer on each GPU, of all protocols (``src/transport/p2p.cc: p2pRecvSetup``), of which the
driver maps whole granules. Of it issue 1685 of NVIDIA/nccl shows allocations of 10,485,760 B.
"""

from __future__ import annotations

from ...steps.sharding.options import ShardingOptions

LL = 8 * 512 * 8 * 16
"""``DEFAULT_LL_BUFFSIZE`` (``src/init.cc``): lines of a thread, threads, steps, bytes of a line."""
LL128 = 120 * 640 * 8 * 8
"""``DEFAULT_LL128_BUFFSIZE``: elements of a thread, threads, steps, bytes of an element."""
SIMPLE = 1 << 22
"""``DEFAULT_BUFFSIZE``."""
GRANULE = 2 << 20
"""What the driver maps at once."""
CHANNELS = 24
"""Channels for collectives on a host of eight H100 or A100 with NVSwitch, as NCCL's log says ("24 coll channels").
Cards without NVLink have 2 to 4 (issue 307 of NVIDIA/nccl-tests), whose buffers may lie on the host."""


def nccl_bytes(sharding: ShardingOptions | None) -> int:
    """Bytes of a rank's communicators, one for each way in which processes share the model."""
    if sharding is None:
        return 0
    ways = (sharding.replicate, sharding.tp, (sharding.world_size or sharding.split) // sharding.split)
    channel = -(-(LL + LL128 + SIMPLE) // GRANULE) * GRANULE
    return sum(size > 1 for size in ways) * CHANNELS * channel
