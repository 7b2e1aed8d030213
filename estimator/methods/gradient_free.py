"""What methods without a backward pass have in common: an ``adapter`` block says which parameters train."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Union

from pydantic import BeforeValidator, Field, SerializeAsAny

from ..errors import InputError
from ..ledger import Size
from ..programs import Config, Method
from .options import MethodOptions


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
