"""DeepSpeed's ZeRO as an optimizer, of one rank in one process, under PyTorch's fake process group.

DeepSpeed runs on its CPU accelerator: pinning and ``empty_cache`` do nothing, streams and events are none. The two
operators of its own that a CPU would use (collectives in shared memory, ``DeepSpeedCPUAdam``) are not built.
"""

from __future__ import annotations

import logging
import os
import sys
from contextlib import redirect_stdout
from typing import Any

import torch

from ...errors import InputError
from ...plans.resolve import Resolved


def prepare(world: int = 1, rank: int = 0) -> None:
    """Import DeepSpeed, for a CPU and a rank. Raises ``InputError`` where it is not installed."""
    os.environ |= {"DS_ACCELERATOR": "cpu", "DS_BUILD_OPS": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    try:
        import deepspeed
    except ImportError:
        raise InputError(
            "a step of ZeRO is measured where DeepSpeed is installed: DS_BUILD_OPS=0 pip install deepspeed"
        ) from None
    deepspeed.utils.logger.setLevel(logging.ERROR)


def config_of(resolved: Resolved) -> dict[str, Any]:
    """The plan as a DeepSpeed config. Keys that the plan leaves out are left out, for DeepSpeed's defaults."""
    plan, sharding = resolved.plan, resolved.step.sharding
    dtype = plan.dtype if plan.base is None else plan.rest_dtype
    assert plan.sharding is not None
    given = plan.sharding.model_dump(exclude_unset=True, exclude_none=True, exclude={"name", "world_size"})
    zero: dict[str, Any] = {name: getattr(sharding, name) for name in given}  # numbers in place of `auto`
    for name in ("offload_optimizer", "offload_param"):
        if name in zero:
            zero[name] = {"device": zero[name]}
    return {
        "train_micro_batch_size_per_gpu": plan.batch,
        "gradient_accumulation_steps": plan.gradient_accumulation_steps,
        "bf16": {"enabled": dtype == "bfloat16"},
        "fp16": {"enabled": dtype == "float16", "initial_scale_power": 4},  # so that no step overflows and is skipped
        "gradient_clipping": float(plan.gradient_clipping),
        "zero_optimization": {"stage": int(str(plan.sharding.name)[-1]), **zero},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }


class Engine:
    """The engine that ``deepspeed.initialize`` makes, as a step's optimizer. Its module is the model."""

    def __init__(self, resolved: Resolved, model: Any, optimizer: Any) -> None:
        import deepspeed

        sharding = resolved.step.sharding
        self.offloads = sharding is not None and sharding.has_cpu_adam
        if self.offloads:  # in place of DeepSpeedCPUAdam, which is compiled, and updates in place as well
            optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True)
        with redirect_stdout(sys.stderr):  # where it says what it has built
            self.model, *_ = deepspeed.initialize(
                model=model, optimizer=optimizer, config=config_of(resolved), dist_init_required=False
            )
        self.zero = self.model.optimizer
        self.gathers = bool(self.model.zero_optimization_partition_weights())
        """Stage 3, in which each step frees and gathers anew what parameters it keeps whole."""
        self.gradient_bytes = 0
        self._ends = False

    def backward(self, loss: torch.Tensor) -> None:
        """Run backward, and what the engine does after a micro-batch that is not the last."""
        self._ends = self.model.is_gradient_accumulation_boundary()
        self.model.backward(loss)
        if self._ends and self.offloads:
            self.gradient_bytes = sum(copy.grad.nbytes for copy in self._copies)
        elif self._ends:
            kept = [x.untyped_storage() for xs in self.zero.averaged_gradients.values() for x in xs]
            self.gradient_bytes = sum({storage._cdata: storage.nbytes() for storage in kept}.values())
        else:
            self.model.step()

    def step(self) -> None:
        """Update the parameters, after the last micro-batch."""
        assert self._ends
        self.model.step()

    def zero_grad(self, set_to_none: bool) -> None:
        """The engine has done so."""

    @property
    def state(self) -> dict[Any, dict[Any, Any]]:
        """The optimizer's states, and the float32 copies of the parameters that it updates."""
        counts = ("step",) if self.offloads else ()  # which DeepSpeedCPUAdam has as a number
        states = {
            p: {name: x for name, x in state.items() if name not in counts} for p, state in self.zero.state.items()
        }
        return {**states, "fp32": dict(enumerate(self._copies))}

    @property
    def _copies(self) -> list[torch.Tensor]:
        zero = self.zero
        copies = zero.fp32_partitioned_groups_flat if self.gathers else zero.single_partition_of_fp32_groups
        return list(copies)

    @property
    def parts(self) -> list[torch.Tensor]:
        """The rank's parts of parameters that are gathered."""
        return [p.ds_tensor for p in self.model.parameters()] if self.gathers else []

    @property
    def communication(self) -> list[torch.Tensor]:
        """What is kept between steps beside parameters, gradients and states."""
        if not self.gathers and not self.offloads:
            return []
        if not self.gathers:
            zero = self.zero
            buffers = [zero.temp_grad_buffer_for_cpu_offload, zero.temp_grad_buffer_for_gpu_offload]
            gradients = [copy.grad for copy in self._copies]
            accumulated = list(zero.accumulated_grads_in_cpu.values())
            return [*buffers, *gradients, *zero.param_buffer_of_bit16_for_cpu_offload_groups, *accumulated]
        buckets = [bucket.buffer for bucket in self.zero.ipg_buckets.values()]
        gradients = [copy.grad for copy in self._copies if copy.grad is not None]
        return [self.zero.grad_partitions_flat_buffer, *gradients, *(x for x in buckets if x is not None)]
