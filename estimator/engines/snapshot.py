"""PyTorch's memory snapshots: what ``torch.cuda.memory._snapshot`` returns, of a process that is replayed.

``torch/cuda/_memory_viz.py`` and https://pytorch.org/memory_viz read them. Sources of the format:
``torch/csrc/cuda/Module.cpp: THCPModule_memorySnapshot`` and ``torch/utils/viz/MemoryViz.js``. As in PyTorch, the sizes
of a trace are what was asked for, and those of blocks are what the allocator gave.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from ..ledger import Origin

PROTOCOL = 4
"""The newest version of pickle that the viewer's JavaScript reads in all releases."""
CATEGORIES = ("parameter", "optimizer_state", "gradient", "activation", "temporary")
"""For each kind of a timeline, PyTorch's word (``torch/profiler/_memory_profiler.py: Category``)."""
UNKNOWN = "unknown"
"""The category of what is no allocation. The viewer fails where a trace has categories and not this one."""
UNNAMED = "(unnamed)"
"""The operator of an allocation where none is known."""
_PHASES = {"update": "optimizer step", "step": "optimizer step"}
_AUTOGRAD_NAME = r"(\w+?)Backward\d*"
_CAPITAL = r"(?<=[a-z0-9])(?=[A-Z])"

Frames = list[dict[str, Any]]
"""A stack, its innermost frame first. The file is a module's path, the function what runs there; of the outermost frame
the line is the number of the step."""


def loaded(name: str) -> Origin:
    """Where a parameter is made, by its name."""
    module, _, own = name.rpartition(".")
    return Origin("load", module or name, own if module else "")


@lru_cache(maxsize=200_000)
def operator_of(origin: Origin) -> str:
    """The operator that allocates: in backward the name of autograd's node, elsewhere that of its operator in aten."""
    node = re.fullmatch(_AUTOGRAD_NAME, origin.operator)
    if node is None or origin.phase == "backward":
        return origin.operator
    return re.sub(_CAPITAL, "_", node[1]).lower()


@lru_cache(maxsize=200_000)
def frames_of(step: int, phase: str, module: str = "", operator: str = "") -> Frames:
    """The frames of an operator within a module, each module below the one around it. Equal ones are one object."""
    frames = [_frame(module, 0, operator or UNNAMED)] if module else []
    path = module.split(".") if module else []
    for depth in range(len(path), 0, -1):
        frames.append(_frame(".".join(path[: depth - 1]) or "module", 0, path[depth - 1]))
    return [*frames, _frame("step", step, _PHASES.get(phase, phase))]


@lru_cache(maxsize=200_000)
def _frame(filename: str, line: int, name: str) -> dict[str, Any]:
    return {"filename": filename, "line": line, "name": name}


class BlockState(NamedTuple):
    """A block in its segment: offset and size in bytes, and whether it is allocated."""

    offset: int
    size: int
    allocated: bool


class Segment(NamedTuple):
    """Memory that was taken from the device in one piece: address, size in bytes, and its blocks in order."""

    address: int
    size: int
    blocks: tuple[BlockState, ...]
    small: bool
    """Whether it is of the small pool."""


class Snapshot:
    """The trace of a process, and in the end its segments. Addresses are the allocator's.

    Nothing is timed: ``time_us`` counts the entries.
    """

    def __init__(self) -> None:
        self.trace: list[dict[str, Any]] = []
        self.segments: Sequence[Segment] = ()
        self.step = 0
        """The number of the step that runs; loading belongs to the first."""
        self.part = ""
        """The part of the step that runs, by its mark in the event log."""
        self._live: dict[int, tuple[int, Frames]] = {}
        """By address, the bytes that were asked for and the frames of each live allocation."""

    def allocated(self, address: int, nbytes: int, kind: int, origin: Origin) -> None:
        """Note an allocation of a kind (an index into ``CATEGORIES``)."""
        frames = frames_of(self.step, origin.phase or self.part, origin.module, operator_of(origin))
        self._live[address] = nbytes, frames
        self._note("alloc", address, nbytes, frames, CATEGORIES[kind])

    def freed(self, address: int) -> None:
        """Note that an allocation was freed."""
        nbytes, _ = self._live.pop(address)
        frames = frames_of(self.step, self.part)
        for action in ("free_requested", "free_completed"):
            self._note(action, address, nbytes, frames, UNKNOWN)

    def segment(self, action: str, address: int, nbytes: int) -> None:
        """Note that the allocator took memory from the device, or gave it back."""
        self._note(action, address, nbytes, frames_of(self.step, self.part), UNKNOWN)

    def taken(self, allocated: int) -> None:
        """Note the end of a step, as PyTorch notes that a snapshot was taken, with the bytes that are allocated."""
        self._note("snapshot", 0, allocated, frames_of(self.step, self.part), UNKNOWN)

    def out_of_memory(self, nbytes: int, free: int) -> None:
        """Note a request that failed, and the bytes that the device had left."""
        self._note("oom", 0, nbytes, frames_of(self.step, self.part), UNKNOWN)
        del self.trace[-1]["addr"]
        self.trace[-1]["device_free"] = free

    def _note(self, action: str, address: int, nbytes: int, frames: Frames, category: str) -> None:
        self.trace.append(
            {
                "action": action,
                "addr": address,
                "size": nbytes,
                "stream": 0,
                "time_us": len(self.trace),
                "frames": frames,
                "category": category,
            }
        )

    def to_dict(self, expandable_segments: bool = False) -> dict[str, Any]:
        """The snapshot at the end of the trace."""
        return {
            "segments": [self._segment(one, expandable_segments) for one in self.segments],
            "device_traces": [self.trace],
            "allocator_settings": {
                "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True" if expandable_segments else "",
                "max_split_size": -1,
                "garbage_collection_threshold": 0.0,
                "expandable_segments": expandable_segments,
            },
            "external_annotations": [],
        }

    def _segment(self, segment: Segment, expandable: bool) -> dict[str, Any]:
        blocks = []
        for offset, size, allocated in segment.blocks:
            requested, frames = self._live[segment.address + offset] if allocated else (0, [])
            blocks.append(
                {
                    "address": segment.address + offset,
                    "size": size,
                    "requested_size": requested,
                    "state": "active_allocated" if allocated else "inactive",
                    "frames": frames,
                }
            )
        allocated_size = sum(block.size for block in segment.blocks if block.allocated)
        return {
            "device": 0,
            "address": segment.address,
            "total_size": segment.size,
            "allocated_size": allocated_size,
            "active_size": allocated_size,
            "requested_size": sum(block["requested_size"] for block in blocks),
            "stream": 0,
            "segment_type": "small" if segment.small else "large",
            "segment_pool_id": (0, 0),
            "is_expandable": expandable,
            "frames": [],
            "blocks": blocks,
        }


def pickled(snapshot: dict[str, Any]) -> bytes:
    """A snapshot as a file, which holds nothing but lists, tuples, dictionaries, numbers and text."""
    import pickle  # of answers this one alone needs it

    return pickle.dumps(snapshot, protocol=PROTOCOL)
