"""Programs of a Hugging Face model that PEFT has wrapped, recorded from the installed PEFT. Needs PyTorch and PEFT."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import peft

from ..errors import InputError
from . import partly_real
from .live import Live
from .method import Method
from .program import Program
from .recorder import Wrapped


class LivePeft(Live):
    """The programs of a config.json's model with a method of PEFT.

    ``options`` gives the keys of PEFT's config class for the paths of the model's modules.
    """

    def __init__(
        self,
        raw: Mapping[str, Any],
        where: str,
        peft_type: str,
        options: Callable[[Sequence[str]], Mapping[str, Any]],
        autocast_adapter_dtype: bool = True,
    ) -> None:
        super().__init__(raw, where)
        self.peft_type, self.options, self.autocast_adapter_dtype = peft_type, options, autocast_adapter_dtype

        self._parameters: dict[str, Any] = {}

    def build(self, dtype: str, attention: str | None = None) -> Any:
        model = super().build(dtype, attention)
        self._parameters = dict(model.named_parameters())
        return wrap(model, self.peft_type, self.options, self.autocast_adapter_dtype)

    def wrapped(self, model: Any) -> Wrapped:
        return Wrapped(model.get_base_model(), self._parameters)

    def running(self) -> AbstractContextManager[Any]:
        return partly_real.PartlyReal()


def wrap(
    model: Any,
    peft_type: str,
    options: Callable[[Sequence[str]], Mapping[str, Any]],
    autocast_adapter_dtype: bool = True,
) -> Any:
    """``peft.get_peft_model`` of a model on the meta device. Raises ``InputError`` where PEFT refuses the options."""
    name = peft_type.lower()
    try:
        config = peft.PEFT_TYPE_TO_CONFIG_MAPPING[peft_type](**options([path for path, _ in model.named_modules()]))
        with warnings.catch_warnings(), partly_real.building():
            warnings.simplefilter("ignore")
            return peft.get_peft_model(model, config, autocast_adapter_dtype=autocast_adapter_dtype)
    except (ImportError, TypeError, ValueError) as error:
        raise InputError(f"PEFT refuses method {name}: {str(error).splitlines()[0]}") from None
    except (KeyError, NotImplementedError, RuntimeError) as error:
        raise InputError(
            f"method {name} cannot be built without data ({type(error).__name__}: {str(error).splitlines()[0]})"
        ) from None


class RecordedMethod(Method):
    """A method that a program has in it: what is trained is what was trained when it was recorded."""

    def __init__(self, program: Program) -> None:
        self._trained = {p.name: p.requires_grad for p in program.parameters}

    def trains(self, path: str) -> bool:
        return self._trained[path]
