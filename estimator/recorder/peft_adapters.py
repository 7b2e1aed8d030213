"""Programs of a Hugging Face model that PEFT has wrapped, recorded from the installed PEFT. Needs PyTorch and PEFT."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from typing import Any
from unittest import mock

import peft
import torch
import transformers
from tqdm import tqdm

from ..errors import InputError
from ..methods.options import MethodOptions
from ..methods.patterns import spelt_out
from ..programs.modules import Method
from ..programs.recorded import Config
from . import partly_real
from .calls import Wrapped
from .hugging_face import HuggingFaceModel, config_of, held


class PeftModel(HuggingFaceModel):
    """The programs of a config.json's model with a method of PEFT on a ``device``, ``cpu`` or ``cuda``."""

    def __init__(self, raw: Mapping[str, Any], where: str, method: MethodOptions, device: str) -> None:
        super().__init__(raw, where)
        self.peft_type, self.options = method.peft_type or method.name.upper(), method.peft_options()
        self.in_float32 = getattr(method, "adapter_dtype", None) in ("float32", None)
        """Whether adapters are, as PEFT casts those of models in 16 bits."""
        self.device = device
        self._parameters: dict[str, Any] = {}

    @cached_property
    def trained(self) -> dict[str, bool]:
        """For each parameter, by its name in a program, whether PEFT trains it."""
        model = self._model("bfloat16")
        base = model.get_base_model()
        prefix = next(f"{path}." for path, module in model.named_modules() if module is base)
        return {name.removeprefix(prefix): p.requires_grad for name, p in model.named_parameters()}

    def build(self, dtype: str, attention: str | None = None, experts: str | None = None) -> Any:
        model = super().build(dtype, attention, experts)
        self._parameters = dict(model.named_parameters())
        return wrap(model, self.peft_type, self.options, self.in_float32, self.device)

    @property
    def peft_release(self) -> str:
        return str(peft.__version__)

    @property
    def origin(self) -> str:
        return (
            f"the program is what the installed transformers {transformers.__version__} and PEFT {peft.__version__} "
            f"run with method {self.peft_type.lower()}, which has no rules for it here; "
            f"{_CHANGED.get(self.peft_type, 'others may differ')}{self._note}"
        )

    def wrapped(self, model: Any) -> Wrapped:
        return Wrapped(model.get_base_model(), self._parameters)

    def does_not_run(self, error: Exception, batch: int, seq: int) -> str:
        if _raised_by_peft(error):
            return f"{self.where}: PEFT's method {self.peft_type.lower()} does not run in this model: {_line(error)}"
        return super().does_not_run(error, batch, seq)

    def running(self) -> AbstractContextManager[Any]:
        return partly_real.PartlyReal(self.device)


@contextmanager
def silent() -> Iterator[None]:
    """Within it, libraries draw no progress bars."""
    made = tqdm.__init__

    def without_bar(self: Any, *args: Any, **kwargs: Any) -> None:
        made(self, *args, **{**kwargs, "disable": True})

    with mock.patch.object(tqdm, "__init__", without_bar):
        yield


def wrap(
    model: Any, peft_type: str, options: Mapping[str, Any], autocast_adapter_dtype: bool = True, device: str = "cpu"
) -> Any:
    """``peft.get_peft_model`` of a model on the meta device, as on the ``device``.

    Raises ``InputError`` where PEFT refuses the options.
    """
    name = peft_type.lower()
    if peft_type in _WITH_TASKS:
        raise InputError(f"method {name} needs task_ids beside the tokens, which the step of a plan does not pass")
    try:
        paths = [path for path, _ in model.named_modules()]
        config = peft.PEFT_TYPE_TO_CONFIG_MAPPING[peft_type](**spelt_out(options, paths))
        with warnings.catch_warnings(), partly_real.building(device), silent(), _even_clusters(peft_type):
            warnings.simplefilter("ignore")
            return peft.get_peft_model(model, config, autocast_adapter_dtype=autocast_adapter_dtype)
    except (ImportError, TypeError, ValueError) as error:
        raise InputError(f"PEFT refuses method {name}: {_line(error)}") from None
    except (AttributeError, KeyError) as error:
        raise InputError(f"PEFT refuses method {name}: {type(error).__name__}: {_line(error)}") from None
    except (NotImplementedError, RuntimeError) as error:
        if _raised_by_peft(error):
            raise InputError(f"PEFT refuses method {name}: {_line(error)}") from None
        raise InputError(
            f"method {name} cannot be built without data ({type(error).__name__}: {_line(error)})"
        ) from None


@contextmanager
def _even_clusters(peft_type: str) -> Iterator[None]:
    """Within it, AdaMSS cuts a weight's rows into parts of equal size, since which rows are alike is in the weights."""
    if peft_type != "ADAMSS":
        yield
        return

    def clusters(rows: Any, num_subspaces: int, _iterations: int) -> tuple[Any, int]:
        n = min(num_subspaces, len(rows))
        return torch.arange(len(rows), device="cpu") * n // len(rows), n

    with mock.patch("peft.tuners.adamss.layer.clustering_Z", clusters):
        yield


_CHANGED = {
    "ADAMSS": "weights decide which of a layer's rows belong together, and equal parts are taken",
    "OSF": "PEFT up to 0.20 takes more, since it builds the whole weight in each pass; from 0.21 on it does not",
}
"""What other releases are known to do, or what was assumed, by method."""
_WITH_TASKS = ("POLY", "MULTITASK_PROMPT_TUNING")


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _raised_by_peft(error: Exception) -> bool:
    """Whether PEFT has raised an error on purpose, and not PyTorch for want of data."""
    frames = error.__traceback__
    while frames is not None and frames.tb_next is not None:
        frames = frames.tb_next
    return frames is not None and str(frames.tb_frame.f_globals.get("__name__", "")).partition(".")[0] == "peft"


class RecordedMethod(Method):
    """A method that a program has in it: what is trained is what PEFT trains."""

    def __init__(self, config: Config) -> None:
        assert isinstance(config.source, PeftModel)
        self._source = config.source

    def trains(self, path: str) -> bool:
        return self._source.trained[path]


def wrapped_config(raw: Mapping[str, Any], where: str, method: MethodOptions, device: str = "cpu") -> Config:
    """The numbers of a model that PEFT has wrapped with a method's options on a ``device``. Raises ``InputError``."""
    key = [raw, where, method.name, method.peft_options(), getattr(method, "adapter_dtype", None), device]
    return held(key, lambda: config_of(raw, PeftModel(raw, where, method, device)))
