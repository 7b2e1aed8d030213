"""A callback of transformers' Trainer: the estimate before the first step, and afterwards beside what was measured.

Nothing is sent anywhere. The records are lines of JSON in a file of the user's own. Whatever goes wrong here is a
warning: a run of days does not end for want of an estimate.
"""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..engines.devices import find
from ..errors import InputError, defect, shown
from ..io.limits import within
from ..io.outputs import append_line
from ..programs.libraries import is_installed
from ..text import dumped, human
from ..witnesses.machine import peak_rss, reset_peak_rss, versions
from .check import Checked, check
from .measured_runs import MeasuredRun
from .sentences import verdict

if TYPE_CHECKING:
    from typing import Unpack

    from transformers import TrainerCallback

    from ..plans.keywords import PlanKeys

_LOG = logging.getLogger("estimator")
_SAME = 0.06
"""The share by which drivers report less memory than a GPU's size; GPUs of one name and two sizes differ by more."""
_LONGEST_NAME = 60
"""The most characters of a model's name: some take four bytes, and a folder's name may have 255."""
MOST_SECONDS = 3600
_LIBRARIES = ("torch", "transformers", "peft", "trl", "accelerate", "bitsandbytes")


class DoesNotFit(RuntimeError):
    """Raised before the first step where the estimate does not fit and the callback was told to stop."""


def callback(
    *,
    on_failure: Literal["warn", "stop"] = "warn",
    output: str | Path | None = None,
    time_limit: float = 5.0,
    **keys: Unpack[PlanKeys],
) -> TrainerCallback:
    """A ``TrainerCallback`` that estimates before the first step and reports predicted against measured after the last.

    The plan is read from the Trainer's arguments, the model's config and its adapter; ``keys`` of a plan take the place
    of what they say. A Trainer's arguments name no length: give ``seq``, unless they are TRL's.

    Args:
        on_failure: what an estimate that does not fit does: a warning, or ``DoesNotFit`` before the first step.
        output: a file to which the run's record is added as a line of JSON; `estimator report` makes a table of them.
        time_limit: the most seconds that the estimate may take. Where they are over, a warning says that there is none,
            and the training goes on.
        **keys: keys of a plan, such as ``seq`` or ``budget``.

    Raises:
        InputError: without PyTorch and transformers, for another ``on_failure``, for an ``output`` that is no path, and
            for a ``time_limit`` that is no positive number.

    """
    if on_failure not in ("warn", "stop"):
        raise InputError(f"on_failure must be warn or stop, not {on_failure!r}")
    if not isinstance(output, str | Path | None):
        raise InputError(f"output must be a file's path, not {output!r}")
    if isinstance(time_limit, bool) or not isinstance(time_limit, int | float) or not 0 < time_limit <= MOST_SECONDS:
        raise InputError(f"time_limit must be a number of seconds up to {MOST_SECONDS:,}, not {shown(time_limit)}")
    if not is_installed("torch", "transformers"):
        raise InputError("a callback of transformers' Trainer needs it and PyTorch: pip install '.[trace]' in a clone")
    from transformers import TrainerCallback

    class EstimatorCallback(TrainerCallback):  # type: ignore[misc]
        """The estimate of a Trainer's run, and what the run took."""

        def __init__(self) -> None:
            self.checked: Checked | None = None
            self.record: MeasuredRun | None = None

        def on_train_begin(self, args: Any, state: Any, control: Any, **objects: Any) -> None:
            """Estimate, warn or stop, and begin to measure."""
            with _harmless("no estimate"):
                self.checked = checked = _checked(args, objects["model"], dict(keys), time_limit)
                _begin(args.device)
                result = checked.result
                if result is None:
                    _LOG.warning("estimator: no estimate: %s", checked.error)
                elif result.fits is False:
                    line = f"{verdict(result)} The peak is at: {result.peak_at}."
                    if on_failure == "stop":
                        raise DoesNotFit(line)
                    _LOG.warning("estimator: %s", line)
                else:
                    _LOG.info("estimator: %s predicted. %s", human(result.bytes["process"]), verdict(result))

        def on_train_end(self, args: Any, state: Any, control: Any, **objects: Any) -> None:
            """Report what was measured beside what was predicted."""
            if self.checked is None:
                return
            with _harmless("no record of the run"):
                self.record = _record(self.checked, args.device)
                print(self.record.line())
                if output is not None:
                    append_line(Path(output), dumped(self.record.to_dict()))

    return EstimatorCallback()


@contextmanager
def _harmless(what: str) -> Iterator[None]:
    """Whatever is raised within is one warning, but ``DoesNotFit``, which was asked for, and Ctrl-C."""
    try:
        yield
    except (DoesNotFit, KeyboardInterrupt):
        raise
    except BaseException as error:  # libraries also raise SystemExit, and panics of extensions
        with suppress(Exception):  # a handler of the logger may raise, too
            line = str(error) if isinstance(error, InputError | OSError) else defect(error)
            _LOG.warning("estimator: %s: %s", what, line)


def _checked(arguments: Any, model: Any, keys: dict[str, Any], seconds: float) -> Checked:
    """The answer to a Trainer's arguments and model, which are written as the files that ``check`` reads.

    Raises ``TimeoutError`` where ``check`` takes longer than so many seconds.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "training_args.json").write_text(arguments.to_json_string(), encoding="utf-8")
        config = model.config
        name = re.sub(r"[^\w.-]", "-", Path(getattr(config, "_name_or_path", "") or config.model_type).name)
        place = folder / "model" / (name[:_LONGEST_NAME].strip(".") or str(config.model_type))
        place.mkdir(parents=True)
        (place / "config.json").write_text(config.to_json_string(use_diff=False), encoding="utf-8")
        adapters = getattr(model, "peft_config", None)
        if isinstance(adapters, Mapping) and adapters:
            next(iter(adapters.values())).save_pretrained(folder)
        found = {**_of_module(model), **keys}
        if arguments.device.type == "cuda" and "device" not in found and "budget" not in found:
            found |= _gpu()
        found.setdefault("runtime", "torch-cuda" if arguments.device.type == "cuda" else "torch-cpu")
        found.setdefault("model", str(place))
        return within(seconds, lambda: check(str(folder), found))


def _of_module(model: Any) -> dict[str, Any]:
    """What the module itself says: the dtype of its frozen or first weights, quantisation, attention."""
    import torch

    keys: dict[str, Any] = {}
    config = model.config
    quantised = getattr(config, "quantization_config", None)
    if quantised is not None and getattr(quantised, "load_in_4bit", False):
        keys |= {
            "dtype": quantised.bnb_4bit_quant_type,
            "compute_dtype": str(quantised.bnb_4bit_compute_dtype).removeprefix("torch."),
            "double_quant": bool(quantised.bnb_4bit_use_double_quant),
        }
    elif quantised is not None and getattr(quantised, "load_in_8bit", False):
        keys["dtype"] = "int8"
    floats = [p for p in model.parameters() if p.dtype in (torch.float32, torch.bfloat16, torch.float16)]
    base = [p for p in floats if not p.requires_grad] or floats
    if base:
        dtype = str(max(base, key=lambda p: p.numel()).dtype).removeprefix("torch.")
        keys["rest_dtype" if "dtype" in keys else "dtype"] = dtype
    attention = getattr(config, "_attn_implementation", None)
    if attention in ("eager", "sdpa"):
        keys["attention"] = attention
    elif isinstance(attention, str) and "flash" in attention:
        keys["attention"] = "flash"
    return keys


def _gpu() -> dict[str, str]:
    """The GPU that runs, where the catalogue knows it with this memory; else its memory as a budget."""
    import torch

    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    with suppress(InputError):
        device = find(properties.name)
        if abs(device.total_bytes / properties.total_memory - 1) < _SAME:
            return {"device": device.name}
    return {"budget": f"{properties.total_memory}B"}


def _begin(device: Any) -> None:
    reset_peak_rss()
    if device.type == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats(device)


def _record(checked: Checked, device: Any) -> MeasuredRun:
    result = checked.result
    predicted: dict[str, int] = {}
    if result is not None:
        predicted = {"process": result.bytes["process"]}
        if device.type == "cuda":
            predicted |= {"allocated": result.bytes["allocated_peak"], "reserved": result.bytes["reserved_peak"]}
    name = Path(str(checked.keys.get("model", ""))).name or "the model"
    return MeasuredRun(
        model=name,
        device=_device_name(device),
        predicted=predicted,
        measured=_measured(device),
        plan={**{key: value for key, value in checked.keys.items() if value is not None}, "model": name},
        versions=versions(*_LIBRARIES),
        date=datetime.now(UTC).date().isoformat(),
        error=checked.error,
    )


def _measured(device: Any) -> dict[str, int]:
    """Bytes that the run took at its peak: the allocator's on a GPU, and the process's where the system says them."""
    if device.type == "cuda":
        import torch

        free, total = torch.cuda.mem_get_info(device)
        return {
            "allocated": torch.cuda.max_memory_allocated(device),
            "reserved": torch.cuda.max_memory_reserved(device),
            "process": total - free,
        }
    return {"process": peak_rss()}


def _device_name(device: Any) -> str:
    if device.type != "cuda":
        return str(device.type)
    import torch

    return str(torch.cuda.get_device_name(device))
