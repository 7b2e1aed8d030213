"""What the modules and optimizers that stand for libraries allocate: ``tests/data/reference_allocations.json``.

The profiler's allocations and releases in order, in bytes, and what is held after them. Where a GPU's kernels are known
the tests of steps compare it with them; here it is what it was. ``python -m tests.cases.reference_allocations`` writes
the file anew.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

from tests.helpers.files import DATA

RECORD = DATA / "reference_allocations.json"
OPTIMIZERS = ("adamw", "adamw-in-backward", "lion", "lomo", "muon", "sgd-momentum")
LOSSES = ("chunked", "liger", "cce", "ce-chunked-output", "linear-cross-entropy")


def _allocated(function: Callable[[], Any]) -> str:
    from estimator.witnesses.measure import allocator_events, peak_of, without_matmul_scratch

    events = without_matmul_scratch(allocator_events(function))
    return f"{' '.join(str(nbytes) for nbytes, _ in events)}; at most {peak_of(events)}"


def _states(optimizer: Any) -> str:
    return str([
        {name: (tuple(x.shape), str(x.dtype)) for name, x in state.items() if hasattr(x, "shape")}
        for state in optimizer.state.values()
    ])  # fmt: skip


def of_optimizer(make: Callable[[list[tuple[str, Any]]], Any], dtype: str) -> Iterator[str]:
    """Two steps over a matrix within the layers, an embedding, a vector and a frozen matrix."""
    import torch

    kind = getattr(torch, dtype)
    shapes = {
        "layers.0.q_proj.weight": (6, 4),
        "embed_tokens.weight": (9, 4),
        "layers.0.norm.weight": (4,),
        "x": (3, 3),
    }
    named = [(name, torch.nn.Parameter(torch.ones(shape).to(kind), name != "x")) for name, shape in shapes.items()]
    optimizer = make(named)

    def step() -> None:
        sum((p * p).sum() for _, p in named if p.requires_grad).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    yield from (_allocated(step) for _ in range(2))
    yield _states(optimizer)


def of_loss(name: str, dtype: str, trained: str, autocast: bool) -> Iterator[str]:
    """A loss of 15 tokens, of which some have no label, with its backward pass."""
    import torch

    from estimator.witnesses.reference import savings

    kind = getattr(torch, dtype)
    head = torch.nn.Linear(8, 30, bias=False).to(kind)
    head.weight.requires_grad_(trained != "input")
    x = torch.randn(3, 5, 8, dtype=kind, requires_grad=trained != "head")
    labels = torch.arange(15).reshape(3, 5)
    labels[0, :3] = labels[2, 4] = -100
    plan: Any = SimpleNamespace(loss_chunk=6, num_output_chunks=2)
    held: list[Any] = []

    def forward() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast), torch.set_grad_enabled(trained != "nothing"):
            held.append(savings._LOSSES[name](head, x, labels, plan))

    yield _allocated(forward)
    if trained != "nothing":
        yield _allocated(held[0].backward)
        yield str([None if one.grad is None else str(one.grad.dtype) for one in (x, head.weight)])


def of_activations(bits: int) -> Iterator[str]:
    """Activations as integers, and back."""
    import torch

    from estimator.witnesses.reference import activations

    held: list[Any] = []
    for count in (32, 21):
        flat = torch.linspace(-1, 1, count)
        yield _allocated(lambda flat=flat: held.append(activations.quantise(flat, bits, 8)))  # type: ignore[misc]
        yield _allocated(lambda: held.append(activations.dequantise(held[-1])))
        yield f"{held[-2].codes.tolist()} {held[-1].dtype}"


def of_packed(name: str, dtype: str, group: int) -> Iterator[str]:
    """A linear layer of four bits, forward and backward."""
    import torch

    from estimator.witnesses.reference import packed

    layer = getattr(packed, name)(torch.nn.Linear(16, 24), getattr(torch, dtype), group)
    x = torch.ones(2, 3, 16, dtype=getattr(torch, dtype), requires_grad=True)
    held: list[Any] = []
    yield _allocated(lambda: held.append(layer(x)))
    yield _allocated(lambda: held[0].sum().backward())
    yield str({name: (tuple(b.shape), str(b.dtype)) for name, b in layer.named_buffers()})


def lines() -> dict[str, list[str]]:
    """What is allocated, by what allocates it."""
    import torch

    from estimator.witnesses.reference import mezo, optimizers

    found: dict[str, Iterator[str]] = {}
    for name in OPTIMIZERS:
        found[name] = of_optimizer(lambda named, name=name: optimizers.make_optimizer(name, named, 2), "float32")
    for dtype in ("float32", "bfloat16"):
        found[f"a wide copy of {dtype}"] = of_optimizer(
            lambda named: optimizers.MasterAdamW([p for _, p in named if p.requires_grad]), dtype
        )
    for name in LOSSES:
        for dtype, trained, autocast in (
            *(("float32", trained, False) for trained in ("both", "input", "head", "nothing")),
            *(("bfloat16", "both", False), ("float32", "both", True), ("bfloat16", "input", True)),
        ):
            found[f"{name} of {dtype}, {trained}, {autocast}"] = of_loss(name, dtype, trained, autocast)
    found |= {f"{bits} bits": of_activations(bits) for bits in (4, 8)}
    for name in ("GptqLinear", "AwqLinear"):
        for dtype, group in (("float32", 8), ("bfloat16", 16)):
            found[f"{name} of {dtype}"] = of_packed(name, dtype, group)
    model = torch.nn.Sequential(torch.nn.Linear(6, 10), torch.nn.Linear(10, 4))
    x = torch.ones(3, 6)
    own = [*model.parameters()][1:]
    found["mezo"] = iter([_allocated(lambda: mezo.step(lambda: model(x).sum(), model, own))])
    return {name: [*rows] for name, rows in found.items()}


def main() -> None:
    """Write the file."""
    import torch

    torch.set_num_threads(1)
    RECORD.write_text(json.dumps(lines(), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
