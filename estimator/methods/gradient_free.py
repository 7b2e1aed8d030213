"""What methods without a backward pass have in common: which parameters train is a block of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Union

from pydantic import BeforeValidator, Field, SerializeAsAny

from ..errors import InputError
from ..ledger.sizes import Size
from ..programs.config import Config
from ..programs.method import Method
from .options import MethodOptions

if TYPE_CHECKING:
    from ..plans.models import ModelSpec
    from ..plans.plan import Plan


def _adapter(value: Any) -> MethodOptions | None:
    from .registry import method_options

    options = None if value is None else method_options(value)
    if options is not None and options.procedure != "backpropagation":
        raise InputError(f"adapter {options.name} is no adapter; name what trains, such as {{name: lora, r: 16}}")
    return options


class GradientFreeOptions(MethodOptions):
    """A step that saves nothing for backward."""

    peft: ClassVar[bool] = False
    adapter: Annotated[Union[SerializeAsAny[MethodOptions], None], BeforeValidator(_adapter)] = Field(
        None, description="method block that says which parameters train (default: all)"
    )

    @property
    def inner(self) -> MethodOptions:
        from .full import FullMethod

        return self.adapter or FullMethod()

    def build(self, config: Config, dtype: str, rank: Size | None = None) -> Method:
        return self.inner.build(config, dtype, rank)

    def open_values(self) -> dict[str, int]:
        return self.inner.open_values()

    def check_plan(self, plan: Plan, spec: ModelSpec) -> None:
        self.inner.check_plan(plan, spec)
        if plan.checkpointing != "none":
            raise InputError(
                f"{self.title} saves nothing for backward, so there is nothing to recompute; set checkpointing: none"
            )
        if plan.saved_activations != "as-is":
            raise InputError(f"{self.title} saves nothing for backward; set saved_activations: as-is")
        if plan.loss != "standard" or plan.mlp_chunks > 1:
            key = "mlp_chunks" if plan.mlp_chunks > 1 else f"loss: {plan.loss}"
            raise InputError(f"{key} is recomputed in backward, which {self.title} does not have; leave it out")
        if plan.optimizer in ("lomo", "adamw-in-backward"):
            raise InputError(f"{plan.optimizer} updates in backward, which {self.title} does not have; take another")
        if plan.gradient_accumulation_steps > 1:
            raise InputError(f"{self.title} updates after every batch; set gradient_accumulation_steps: 1")
