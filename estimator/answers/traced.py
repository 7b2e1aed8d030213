"""A step of a method without rules on a CPU: the real module is traced on the meta device."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from ..plans.resolve import Resolved
from ..steps.step import StepTotals
from ..witnesses.reference.libraries import torch
from ..witnesses.reference.model import build_optimizer, storage_bytes
from ..witnesses.trace import added, build, counts, forward, new_storages, trace, without_data


def trace_step(resolved: Resolved) -> StepTotals:
    """The totals of one step of the real module, with PEFT and the optimizer, on the meta device.

    The peak counts every tensor that PyTorch makes, but not the workspace within a kernel. Raises ``InputError`` where
    the model reads its data.
    """
    plan = resolved.plan
    model = build(resolved)
    optimizer = build_optimizer(resolved, model)
    parameters = list(model.parameters())
    live = _Live()
    with without_data():
        for second in (False, True):
            if second:
                states = [v for s in optimizer.state.values() for v in s.values() if isinstance(v, torch.Tensor)]
                live.start((*parameters, *model.buffers(), *states))
                saved = sum(row.nbytes for row in trace(model, plan, plan.batch, plan.seq))
            with live if second else nullcontext():
                live.moment = "forward"
                out = forward(model, plan, plan.batch, plan.seq)
                if not plan.keep_logits:
                    out = {"loss": out.loss}
                live.moment = "backward"
                out["loss"].backward()
                if plan.drop_output_before_step:
                    out = None
                live.moment = "optimizer step"
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                del out
    counted = counts(model)
    of_peft = added(model)
    names = {id(p) for name, p in model.named_parameters() if name in of_peft}
    return StepTotals(
        parameters=counted["parameters"],
        adapters=storage_bytes([p for p in parameters if id(p) in names]),
        buffers=counted["buffers"],
        gradients=counted["gradients"],
        optimizer=storage_bytes(states),
        saved=saved,
        trainable_parameters=counted["trainable_parameters"],
        total_parameters=counted["total_parameters"],
        moments={moment: [peak] for moment, peak in live.peaks.items()},
    )


class _Live(torch.utils._python_dispatch.TorchDispatchMode):  # type: ignore[misc]
    """Counts the bytes of live storages, and their peak in each moment of a step."""

    def __init__(self) -> None:
        super().__init__()
        self.moment, self.live = "", 0
        self.peaks: dict[str, int] = {}
        self._known: set[int] = set()

    def start(self, resident: Sequence[Any]) -> None:
        """Do not count these tensors."""
        self._known = {t.untyped_storage()._cdata for t in resident}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for _, storage in new_storages(out, self._known):
            self._known.add(storage._cdata)
            self.live += storage.nbytes()
            self.peaks[self.moment] = max(self.peaks.get(self.moment, 0), self.live)
            weakref.finalize(storage, self._free, storage._cdata, storage.nbytes())
        return out

    def _free(self, address: int, nbytes: int) -> None:
        self._known.discard(address)
        self.live -= nbytes
