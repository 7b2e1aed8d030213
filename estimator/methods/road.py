"""RoAd as PEFT runs it: rotations of a linear layer's output (``peft/tuners/road/layer.py``; arXiv 2409.00119)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StrictBool

from .. import operators as ops
from ..errors import InputError
from ..io.fields import Whole
from ..ledger import Size, Tensor, whole
from ..programs import Builder, Config, Linear, Method, Module
from .layered import AdapterOptions, Adapters


class RoadLinear(Module):
    """y = R (W x): every pair of outputs is rotated by an angle and scaled.

    road_theta and road_alpha have n_out / 2, n_out or 2 n_out elements in the variants 1, 2 and 4.
    """

    def __init__(self, build: Builder, base: Linear, road: Adapters[RoadMethod]) -> None:
        self.path, self.ledger, self.base_layer = base.path, base.ledger, base
        self.variant, self.group = road.options.variant, road.options.group_size
        self.n_out = n_out = whole(base.weight.shape[0])
        size = {"road_1": n_out // 2, "road_2": n_out, "road_4": 2 * n_out}[self.variant]
        self.road_theta = build.adapter(f"{self.path}.road_theta", (size,), road.adapter_dtype)
        self.road_alpha = build.adapter(f"{self.path}.road_alpha", (size,), road.adapter_dtype)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.base_layer(x)
        result_dtype = result.dtype
        result = ops.to(result, self.road_theta.dtype)
        result = self.apply_road(result)
        result = ops.to(result, result_dtype)
        return result

    def apply_road(self, x: Tensor) -> Tensor:
        """``_apply_road``: x * first_col + rotate_half(x) * second_col."""
        first_col, second_col = self.prepare_cols()
        x_grouped = ops.reshape(x, (x.numel // self.n_out * (self.n_out // self.group), 2, self.group // 2))
        x1 = ops.select(x_grouped, 1)
        x2 = ops.select(x_grouped, 1)
        rotate_half_x = ops.reshape(ops.stack((ops.neg(x2), x1), 1), x.shape)
        return ops.add(ops.mul(x, first_col), ops.mul(rotate_half_x, second_col))

    def prepare_cols(self) -> tuple[Tensor, Tensor]:
        """The factors of each output and of the output it is paired with: two tensors [n_out]."""
        theta, alpha = self.road_theta, self.road_alpha
        if self.variant == "road_4":
            theta, alpha = (ops.view(p, (self.n_out // self.group, 2, self.group)) for p in (theta, alpha))
            theta_cos = self.flat(ops.cos(ops.select(theta, 1)))
            theta_sin = self.flat(ops.sin(ops.select(theta, 1)))
            alpha_1, alpha_2 = self.flat(ops.select(alpha, 1)), self.flat(ops.select(alpha, 1))
            return ops.mul(alpha_1, theta_cos), ops.mul(alpha_2, theta_sin)
        if self.variant == "road_1":
            theta, alpha = self.repeated(theta), self.repeated(alpha)
        theta_cos = ops.cos(theta)
        theta_sin = ops.sin(theta)
        return ops.mul(alpha, theta_cos), ops.mul(alpha, theta_sin)

    def flat(self, x: Tensor) -> Tensor:
        """``x.flatten()``."""
        return ops.reshape(x, (self.n_out,))

    def repeated(self, x: Tensor) -> Tensor:
        """``x.reshape(-1, group / 2).repeat_interleave(2, dim=0).flatten()``."""
        shape = (self.n_out // self.group, 1, self.group // 2)
        pairs = ops.expand(ops.unsqueeze(ops.view(x, (shape[0], shape[2])), 1), (shape[0], 2, shape[2]))
        return self.flat(ops.view(ops.clone(pairs), (2 * shape[0], shape[2])))


class RoadMethod(AdapterOptions):
    """RoAd (peft.RoadConfig)."""

    title: ClassVar[str] = "RoAd"
    linear = RoadLinear
    open_sizes: ClassVar[bool] = False
    """Off, since group_size must divide the outputs."""
    adapts_conv1d: ClassVar[bool] = False
    name: Literal["road"] = "road"
    variant: Literal["road_1", "road_2", "road_4"] = Field("road_1", description="parameters per output pair")
    group_size: Annotated[Whole, Field(ge=2)] = Field(64, description="outputs per group; halves are paired")
    init_weights: StrictBool = Field(True, description="initialisation (no effect on memory)")

    def check_target(self, path: str, n_out: int, n_in: int, size: Size) -> None:
        if self.group_size % 2:
            raise InputError(f"group_size {self.group_size} is odd; each group's halves are paired")
        if n_out % self.group_size:
            raise InputError(f"group_size {self.group_size} does not divide the {n_out} outputs of {path}")

    def build(self, config: Config, dtype: str, rank: Size | None = None) -> Method:
        if self.exclude_modules:
            raise InputError("PEFT's RoadConfig has no exclude_modules; name the modules in target_modules")
        return super().build(config, dtype, rank)
