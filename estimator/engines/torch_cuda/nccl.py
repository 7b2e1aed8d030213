"""What NCCL has on a GPU outside of PyTorch's allocator: the buffers of its communicators, and what was fitted.

A communicator of two A100 has 544 MiB, a larger one 688 MiB at the end of its tree, as issue 964 of NVIDIA/nccl has it.
"""

from __future__ import annotations

from ...steps.sharding.options import ShardingOptions
from ...text import human

MIB = 2**20
CONNECTION = 12 * MIB
"""A connection of a channel, as the driver maps it in granules of 2 MiB (``src/transport/p2p.cc: p2pSendSetup,
p2pRecvSetup``). Protocols have 0.5 MiB (LL), 4.7 MiB (LL128) and 4 MiB (Simple): 2 MiB for what is sent and 10 MiB for
what is received (issue 1685 logs both), or 6 and 6 on an A100, which reads Simple's buffer from its peer."""
NVLINK = ((7, 0), (8, 0), (9, 0), (10, 0), (10, 3))
"""Compute capabilities of cards that NVLink connects: V100, A100, H100 and their successors."""
CHANNELS = {True: 24, False: 4}
"""Channels for collectives of one host, with NVLink and without: as NCCL logs them on A100 and H100 ("24 coll
channels"), and at most in issue 307 of NVIDIA/nccl-tests."""
SHARED = {True: 32 * 16 * MIB // 2, False: 4 * 16 * MIB // 8}
"""The network's shared buffer: channels as a power of two, steps, ``NCCL_P2P_NVL_CHUNKSIZE`` or
``NCCL_P2P_PCI_CHUNKSIZE`` (``src/transport/net.cc: sharedNetBuffersInit``)."""
LAZY = "2.7"
"""The first release of PyTorch whose NCCL (2.26) makes a buffer when an algorithm needs it (``runtimeConn``)."""
NVLS = {"2.4": 6 * MIB, "2.6": 3 * MIB}
"""Bytes of a buffer of multicast over NVLink until these releases (NCCL 2.20, 2.21; ``src/transport/nvls.cc``)."""
MULTICAST = (9, 0)
"""The first compute capability with multicast."""
FITTED = 630 * MIB
"""What a process on several GPUs shows beyond these buffers: kernels that NCCL loads, and what the allocator's replay
lacks. The median of 20 published runs on two A100 (``fms-acceleration-fsdp.yaml`` and ``-granite-fsdp.yaml`` in
``docs/measured/published``). Fitted to one half of their plans (seed 0), it has 10 of the 10 runs of the other half
within 5 %, and the other way round 8 of 10 (``tests/engines/test_nccl.py``)."""
LEAST, MOST = -156 * MIB, 1869 * MIB
"""The range of these runs."""


def nccl_bytes(sharding: ShardingOptions | None, capability: tuple[int, int], torch: str) -> int:
    """Bytes of a rank's communicators on one host: one of each group of processes, and of several one of all."""
    if sharding is None:
        return 0
    world = sharding.world_size or sharding.split
    groups = [size for size in (sharding.replicate, sharding.tp, world // sharding.split) if size > 1]
    groups += [world] if len(groups) > 1 else []
    return sum(_communicator(size, capability, _numbers(torch)) for size in groups)


def said(buffers: int, fitted: int) -> list[str]:
    """What an answer says of a process's share, with the range of the runs that it was fitted to. Sizes are bytes."""
    if fitted:
        return [
            f"process has {human(buffers + fitted)} for NCCL: {human(buffers)} of buffers, and {human(fitted)} that "
            "runs on two A100 had beyond them in the median; as in those, "
            f"{human(buffers + LEAST)} to {human(buffers + MOST)}"
        ]
    if buffers:
        return [
            f"process has {human(buffers)} of NCCL's buffers; no process on cards without NVLink is published, and "
            f"those on two A100 had up to {human(MOST)} more"
        ]
    return []


def _communicator(ranks: int, capability: tuple[int, int], torch: tuple[int, ...]) -> int:
    """Bytes on a rank in the middle of the tree, which has connections both ways; a pair has its ring's alone."""
    linked = capability in NVLINK
    rings_and_trees = (1 if ranks == 2 else 2) * CHANNELS[linked] * CONNECTION
    if torch >= _numbers(LAZY):
        return rings_and_trees
    buffer = next(size for last, size in NVLS.items() if torch <= _numbers(last))
    heads = min(ranks, 8) if capability >= MULTICAST and linked and ranks > 2 else 0
    return rings_and_trees + SHARED[linked] + 2 * 16 * heads * buffer


def _numbers(release: str) -> tuple[int, ...]:
    return tuple(map(int, release.split(".")))
