"""What PyTorch's own CUDA caching allocator reserves for the sequences of ``tests/cases/allocator_sequences.py``.

The allocator of a released wheel (``libc10_cuda.so``) runs over a stand-in for the CUDA runtime that
hands out addresses, downwards as a driver does or upwards, and counts bytes: no GPU is needed, since the
allocator never touches the memory. It needs gcc and a folder per release, named after it, with the wheels
unpacked:

    pip install --no-deps --target 2.14 'torch===2.14.1' 'nvidia-cuda-runtime<13.1' 'nvidia-cuda-crt<13.1'
    pip install --no-deps --target 2.10 'torch===2.10.0' 'nvidia-cuda-runtime-cu12==12.8.90'
    python benchmarks/c10_allocator/record.py 2.10 2.12 2.14

writes ``tests/data/allocator_record.json``. With ``--compare SECONDS`` it writes nothing and compares the
estimator's replay with each release's allocator over random sequences and settings for that long.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from estimator.engines.torch_cuda.caching_allocator import MIB, TIES, Ties
from tests.cases.allocator_sequences import (
    EVERY,
    RECORD,
    SEQUENCES,
    SETTINGS,
    Request,
    Row,
    Setting,
    make_requests,
    replay,
)

HERE = Path(__file__).parent
Run = Callable[[list[Request], Setting, bool], list[Row]]
FAILING = ("2.1", "2.2", "2.3", "2.4")
"""Releases that fail an assertion of their own when both options are on and memory runs out."""


def build(wheels: Path, into: Path) -> Run:
    """The allocator of the wheels as a function of the requests, the setting and whether addresses descend."""
    libraries = wheels / "torch" / "lib"
    include = [f"-I{wheels / part / 'include'}" for part in ("torch", "nvidia/cu13", "nvidia/cuda_runtime")]
    name = "libcudart.so.13" if (wheels / "nvidia" / "cu13").exists() else "libcudart.so.12"
    into.mkdir()
    versions = into / "versions"
    versions.write_text(f"{name} {{ global: *; }};")
    runtime = into / name
    flags = ["-shared", "-fPIC", f"-Wl,-soname,{name}", f"-Wl,--version-script={versions}"]
    subprocess.run(["gcc", "-w", *include, HERE / "runtime.c", "-o", runtime, *flags], check=True)
    for driver in ("libcuda.so.1", "libnvidia-ml.so.1"):
        (into / driver).symlink_to(name)
    linked = [libraries / "libc10_cuda.so", libraries / "libc10.so", runtime]
    flags = ["-std=c++20", f"-Wl,-rpath,{libraries}:{into}", "-Wl,--unresolved-symbols=ignore-in-shared-libs"]
    subprocess.run(["g++", "-w", *include, HERE / "drive.cpp", "-o", into / "drive", *linked, *flags], check=True)

    def run(requests: list[Request], setting: Setting, descending: bool) -> list[Row]:
        options = ["expandable_segments:True"] if setting.expandable else []
        if setting.max_split:
            options.append(f"max_split_size_mb:{setting.max_split // MIB}")
        environment = {
            **os.environ,
            "LD_LIBRARY_PATH": str(into),
            "PYTORCH_CUDA_ALLOC_CONF": ",".join(options),
            "TORCH_CUDA_EXPANDABLE_SEGMENTS_IPC": "0",  # which would ask the driver for its handle types
        }
        capacity = setting.capacity or 1 << 50
        command = [into / "drive", str(capacity), str(setting.device or capacity), str(int(descending))]
        written = {"m": "m {0} {1}\n", "f": "f {0}\n", "e": "e\n"}
        lines = "".join(written[action].format(number, size) for action, number, size in requests)
        answer = subprocess.run(command, input=lines, env=environment, capture_output=True, text=True, check=True)
        failures, rows = 0, []
        for line in answer.stdout.splitlines():
            failed, allocated, reserved, peak_allocated, peak_reserved = map(int, line.split())
            failures += failed
            rows.append((failures, allocated, reserved, peak_allocated, peak_reserved))
        return rows

    return run


def ties_of(release: str, descending: bool) -> Ties:
    """How the replay settles ties as a release does; addresses that ascend with segments put the oldest first."""
    return TIES[release] if descending or TIES[release] != "address" else "segment"


def compare(release: str, run: Run, seconds: float) -> None:
    end = time.monotonic() + seconds
    sequences = events = failures = 0
    while time.monotonic() < end:
        dice = random.Random(sequences)
        kind = dice.choice(list(SIZES))
        requests = make_requests(sequences, SIZES[kind], dice.choice([50, 300, 1500]))
        capacity = dice.choice([None, None, 300 * MIB, 1000 * MIB, 2001 * MIB + 12345])
        device = capacity + dice.choice([0, 50 * MIB, capacity // 3]) if capacity else None
        setting = Setting(dice.random() < 0.6, capacity, dice.choice([None, None, 64 * MIB, 200 * MIB]), device)
        if setting.expandable and release in FAILING:
            setting = setting._replace(max_split=None)
        descending = dice.random() < 0.5
        theirs = run(requests, setting, descending)
        ours = list(replay(requests, setting.allocator(ties_of(release, descending))))
        if theirs != ours:
            at = next(i for i, pair in enumerate(zip(theirs, ours, strict=True)) if pair[0] != pair[1])
            asked = f"{release}: {kind} {sequences} {setting} {descending=}"
            raise SystemExit(f"{asked}: at {at} {requests[at]}: {theirs[at]}, not {ours[at]}")
        sequences, events, failures = sequences + 1, events + len(requests), failures + theirs[-1][0]
    print(f"{release}: {sequences} sequences, {events} requests, {failures} out of memory: all equal")


SIZES: dict[str, Callable[[Callable[[int], int]], int]] = {
    "any size": lambda below: 1 + below(1 << (10 + below(19))),
    "small": lambda below: 1 + below(MIB + 1),
    "whole MiB": lambda below: (1 + below(90)) * MIB + (0, 0, -512, 1)[below(4)],
    "few sizes": lambda below: (3, 7, 11, 25, 40, 66, 210)[below(7)] * MIB - 12345,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    parser.add_argument("--compare", type=float, metavar="SECONDS")
    given = parser.parse_args()
    record: dict[str, dict[str, dict[str, list[Row]]]] = {}
    with tempfile.TemporaryDirectory() as into:
        for folder in given.folders:
            run = build(folder.resolve(), Path(into) / folder.name)
            if given.compare:
                compare(folder.name, run, given.compare)
                continue
            for descending in (True, False):
                rows = {
                    sequence: {
                        name: run(requests, setting, descending)[EVERY - 1 :: EVERY]
                        for name, setting in SETTINGS.items()
                    }
                    for sequence, requests in SEQUENCES.items()
                }
                known = record.setdefault(ties_of(folder.name, descending), rows)
                if known != rows:
                    raise SystemExit(f"{folder.name}, {descending=}: not as other releases with these ties")
    if given.compare:
        return
    text = json.dumps(record, separators=(",", ":"))
    RECORD.write_text(text.replace("}", "\n}").replace(',"', ',\n"').replace('{"', '{\n"') + "\n")


if __name__ == "__main__":
    main()
