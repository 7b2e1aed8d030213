"""Records what steps of ``fully_shard`` take on a card and on its host: ``python -m tests.cases.offloaded_steps``.

The card is a device without memory (PyTorch's device for backends written in Python, under ``FakeTensorMode``). What
runs is PyTorch's own code of FSDP2, which moves shards to the card and gradients to the host, under the fake process
group. The live bytes of both are noted after each operator. So temporaries within an operator are left out.
"""

from __future__ import annotations

import contextlib
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

from tests.cases.kinds import Case
from tests.cases.sharding import ACCUMULATED, LAYERS, MIXED, TINY, sharded
from tests.cases.small_models import write_config
from tests.helpers.files import DATA, write_record

RECORD = DATA / "offloaded_steps.json"
CASES: list[Case] = [
    (name, {**LAYERS, **config}, sharded({**keys, "attention": "eager"}, world, **options))
    for name, world, config, keys, options in (
        ("not", 3, {}, TINY, MIXED),
        ("plain", 3, {}, TINY, {"cpu_offload": True}),
        ("tied", 2, {"tie_word_embeddings": True}, {**TINY, "dtype": "bfloat16"}, {"cpu_offload": True}),
        ("one", 1, {}, TINY, {"cpu_offload": True, **MIXED}),
        ("mixed", 2, {}, TINY, {"cpu_offload": True, **MIXED}),
        ("uneven", 7, {}, TINY, {"cpu_offload": True, **MIXED}),
        ("kept", 2, {}, TINY, {"cpu_offload": True, "reshard_after_forward": False}),
        ("replicated", 8, {}, TINY, {"cpu_offload": True, "replicate": 2, "reduce_dtype": "bfloat16"}),
        ("accumulated", 3, {}, ACCUMULATED, {"cpu_offload": True, **MIXED}),
        ("accumulated-synced", 3, {}, {**ACCUMULATED, "seq": 1}, {"cpu_offload": True, "sync_each_batch": True}),
        ("momentum", 7, {}, {**TINY, "optimizer": "sgd-momentum"}, {"cpu_offload": True}),
    )
]


class _Idle:
    """What stands for streams and events, and for what they are asked."""

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: _Idle()


class _Card:
    """What FSDP2 asks of the module of a device."""

    Stream = Event = current_stream = staticmethod(lambda *arguments, **keys: _Idle())
    stream = staticmethod(lambda stream: contextlib.nullcontext())
    current_device = staticmethod(lambda: 0)
    device_count = staticmethod(lambda: 1)


def _live() -> Any:
    """A mode that notes the live bytes of each device after each operator."""
    import torch
    from torch.multiprocessing.reductions import StorageWeakRef
    from torch.utils._python_dispatch import TorchDispatchMode

    class Live(TorchDispatchMode):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.held: dict[int, tuple[Any, str]] = {}
            self.peak: dict[str, int] = {}

        def note(self, tensor: Any) -> None:
            tensor = getattr(tensor, "_local_tensor", tensor)
            storage = tensor.untyped_storage()
            known = self.held.get(storage._cdata)
            if known is None or known[0].expired():
                self.held[storage._cdata] = StorageWeakRef(storage), tensor.device.type

        def bytes(self) -> dict[str, int]:
            self.held = {key: one for key, one in self.held.items() if not one[0].expired()}
            total = dict.fromkeys(("card", "cpu"), 0)
            for one, where in self.held.values():
                total[where] += torch.UntypedStorage._new_with_weak_ptr(one.cdata).nbytes()
            return total

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            found = function(*args, **(kwargs or {}))
            torch.utils._pytree.tree_map_only(torch.Tensor, self.note, found)
            self.peak = {where: max(now, self.peak.get(where, 0)) for where, now in self.bytes().items()}
            return found

    return Live()


def measured(config: dict[str, Any], plan: dict[str, Any]) -> dict[str, int]:
    """Bytes between steps and at most, on the card and on the host, of the second step."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.distributed import device_mesh
    from torch.distributed import fsdp as api
    from torch.distributed.fsdp import _fully_shard as fsdp
    from transformers import PreTrainedModel

    from estimator.plans.plan import parse_plan
    from estimator.plans.resolve import resolve
    from estimator.witnesses.measure import Step
    from estimator.witnesses.reference.model import build_model, build_optimizer
    from estimator.witnesses.reference.sharding import as_rank, shard

    with TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        resolved = resolve(parse_plan({"model": write_config(Path(folder) / "model", config), **plan}))
        stack.enter_context(as_rank(resolved.step.sharding))

        def patch(where: Any, name: str, what: Any) -> None:
            stack.enter_context(mock.patch.object(where, name, what))

        for name in ("_fsdp_param_group", "_fsdp_state", "_fsdp_collectives", "_fsdp_init"):
            patch(import_module(f"{fsdp.__name__}.{name}"), "_get_device_handle", lambda *arguments: _Card)
        patch(device_mesh, "_get_device_handle", lambda *arguments: _Card)
        sharding, policy = resolved.step.sharding, api.CPUOffloadPolicy
        assert sharding is not None
        shape = (sharding.replicate, sharding.shard)[sharding.replicate == 1 :]
        names = ("replicate", "shard")[-len(shape) :]
        mesh = device_mesh.init_device_mesh("card", shape, mesh_dim_names=names)  # before tensors have no data
        patch(device_mesh, "init_device_mesh", lambda *arguments, **keys: mesh)
        patch(api, "CPUOffloadPolicy", lambda **keys: policy(pin_memory=False))
        patch(PreTrainedModel, "init_weights", PreTrainedModel.tie_weights)
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        model, live = build_model(resolved, "card"), _live()
        with live:
            model = shard(model, resolved)
            for tensor in (*model.parameters(), *model.buffers()):
                live.note(tensor)
            step = Step(resolved, 100, model, build_optimizer(resolved, model), "card")
            step.micro_steps = resolved.plan.gradient_accumulation_steps
            step.run()
            between, live.peak = live.bytes(), {}
            step.run()
    return {**between, **{f"{where}_peak": nbytes for where, nbytes in live.peak.items()}}


def main() -> None:
    """Measure every step and write the record."""
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

    _setup_privateuseone_for_python_backend("card")
    steps = {name: measured(config, plan) for name, config, plan in CASES}
    write_record(RECORD, ("accelerate", "peft", "torch", "transformers"), steps=steps)


if __name__ == "__main__":
    main()
