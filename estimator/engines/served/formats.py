"""Quantised checkpoints: the bytes of a rank's linear layers, by the method's name in vLLM and SGLang.

Sources: ``vllm/model_executor/layers/quantization/`` (``fp8.py``, ``gptq_marlin.py``, ``awq_marlin.py``, ``mxfp4.py``,
``bitsandbytes.py``, ``compressed_tensors/schemes``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, NamedTuple

from ...errors import InputError, shown
from .weights import Part

BLOCK = 64
"""Weights that share a float32 scale in bitsandbytes' four bits."""
MX_BLOCK = 32


@dataclass(frozen=True)
class Format:
    """How a linear layer's weights are held."""

    method: str
    bits: Fraction
    """Of a weight."""
    group: int | None = None
    """Weights in a row that share a scale; ``None`` for a whole row."""
    of_group: Fraction = Fraction(0)
    """Bytes of a group: its scale and zero point."""
    of_output: int = 0
    """Bytes of an output's scale."""
    block: tuple[int, int] | None = None
    """Outputs and inputs that share a float32 scale."""
    experts_alone: bool = False
    kept: tuple[str, ...] = ()
    """Modules that stay as they are."""
    pads: tuple[int, int] = (1, 1)
    """The model's and the experts' sizes are padded to multiples of so many."""

    def of(self, part: Part) -> int | None:
        """Bytes of a part; ``None`` where it stays as it is."""
        if part.linear is None or (self.experts_alone and ".experts." not in part.name):
            return None
        if re.search(r"(^|\.)(gate|router|shared_expert_gate|conv1d|conv|wk|weights_proj)(\.|$)", part.name):
            return None
        if any(word in part.name for word in self.kept) or part.name.endswith("lm_head.weight"):
            return None
        outputs, inputs = part.linear
        sizes = (inputs, outputs // 2) if part.name.endswith("gate_up_proj") else (outputs, inputs)
        elements = Fraction(part.elements)
        for size, pad in zip(sizes, self.pads, strict=True):
            elements *= Fraction(-(-size // pad) * pad, size)
        held = elements * self.bits / 8
        if self.group:
            held += elements / inputs * max(1, inputs // self.group) * self.of_group
        if self.block is not None:
            held += part.elements * 4 // (self.block[0] * self.block[1])
        return int(held + part.elements // inputs * self.of_output)


_FP8 = Format("fp8", Fraction(8), of_output=4)
_INT4 = Format("compressed-tensors", Fraction(4), 128, Fraction(2))
NAMED: tuple[tuple[str, Format], ...] = (
    (r"bnb-4bit|bnb-nf4|unsloth-bnb-4bit", Format("bitsandbytes", Fraction(4), BLOCK, Fraction(4))),
    (r"awq(?:-int4|-4bit)?|int4-awq", Format("awq_marlin", Fraction(4), 128, Fraction(5, 2))),
    (r"gptq(?:-int4|-4bit)?|int4-gptq", Format("gptq_marlin", Fraction(4), 128, Fraction(5, 2))),
    (r"gptq-int8|gptq-8bit", Format("gptq_marlin", Fraction(8), 128, Fraction(3))),
    (r"quantized\.w4a16|w4a16|int4", _INT4),
    (r"quantized\.w8a8|w8a8|int8", Format("compressed-tensors", Fraction(8), of_output=4)),
    (r"nvfp4|fp4", Format("modelopt_fp4", Fraction(4), 16, Fraction(1))),
    (r"fp8-dynamic|fp8_dynamic|fp8", _FP8),
)
"""Formats by the ends of a checkpoint's name, in lower case."""
MXFP4 = Format("mxfp4", Fraction(4), MX_BLOCK, Fraction(1), experts_alone=True, pads=(256, 64))
_BLOCKS = replace(_FP8, of_output=0, block=(128, 128))
PUBLISHED = dict.fromkeys(("deepseek_v3", "deepseek_v32", "minimax_m2"), _BLOCKS) | {"gpt_oss": MXFP4}
"""Formats of families whose own checkpoints are quantised."""
METHODS = {
    "fp8": _FP8,
    "awq": NAMED[1][1],
    "awq_marlin": NAMED[1][1],
    "gptq": NAMED[2][1],
    "gptq_marlin": NAMED[2][1],
    "bitsandbytes": NAMED[0][1],
    "mxfp4": MXFP4,
    "modelopt_fp4": NAMED[6][1],
    "modelopt": _FP8,
    "ptpc_fp8": _FP8,
    "fp8_per_channel": _FP8,
    "fp8_per_tensor": replace(_FP8, of_output=0),
    "int8_per_channel_weight_only": Format("int8", Fraction(8), of_output=4),
    "moe_wna16": NAMED[1][1],
    "gpt_oss_mxfp4": MXFP4,
}
"""Formats by the method's name."""


def named(model: str) -> tuple[str, Format] | None:
    """A checkpoint's name without the word for its format, and the format."""
    for ends, found in NAMED:
        if match := re.search(rf"[-_.](?:{ends})$", model.lower()):
            return model[: match.start()], found
    return None


class Known(NamedTuple):
    """The methods that a release of an engine has."""

    release: str
    """With the engine's name."""
    methods: tuple[str, ...]

    def check(self, method: str) -> None:
        """Raise ``InputError`` in the engine's words for a method that it lacks."""
        if method not in self.methods:
            raise InputError(
                f"{self.release} stops: Unknown quantization method: {method}. Must be one of {list(self.methods)}.; "
                "take a checkpoint of one of these, or another release"
            )


def format_of(quantization: Any, method: str | None, known: Known, where: str) -> Format | None:
    """The format of a checkpoint's linear layers; ``None`` where they are not quantised.

    ``method``: of ``--quantization``. Raises ``InputError`` for one that the release lacks, or that has no rule.
    """
    if isinstance(quantization, Mapping):
        known.check(str(quantization.get("quant_method")))
        return of_config(quantization, where)
    if isinstance(quantization, Format):
        known.check(quantization.method)
        return quantization
    if method is None:
        return None
    known.check(method)
    if method not in METHODS:
        raise InputError(
            f"quantization: {method} has no rule without the checkpoint's config.json; give that, or --weights, which "
            "is what the log says of loading"
        )
    return METHODS[method]


_KEPT = ("modules_to_not_convert", "ignore", "exclude_modules")
"""Keys of a ``quantization_config`` for modules that stay as they are."""


def of_config(quantization: Mapping[str, Any], where: str) -> Format:
    """The format of a ``quantization_config``. Raises ``InputError`` for one without a rule."""
    method = quantization.get("quant_method")
    kept = next((quantization[key] for key in _KEPT if quantization.get(key)), ())
    words = tuple(str(word).removeprefix("re:").strip(".*") for word in kept if isinstance(word, str))
    if method == "fp8":
        size = quantization.get("weight_block_size")
        found = replace(_FP8, of_output=0, block=tuple(size) if size else None)  # else one scale
    elif method in ("gptq", "awq"):
        bits, group = quantization.get("bits", 4), quantization.get("group_size", 128)
        found = replace(METHODS[method], bits=Fraction(bits), group=group if group > 0 else None)
        found = replace(found, of_group=2 + Fraction(bits, 8))
    elif method == "mxfp4":
        return MXFP4
    elif method == "modelopt" and quantization.get("quant_algo") in ("NVFP4", "FP8"):
        found = METHODS["modelopt_fp4" if quantization["quant_algo"] == "NVFP4" else "modelopt"]
    elif method == "bitsandbytes":
        eight = quantization.get("load_in_8bit")
        found = Format("bitsandbytes", Fraction(8), of_output=4) if eight else METHODS["bitsandbytes"]
    elif method == "compressed-tensors":
        groups = quantization.get("config_groups") or {}
        weights = next((one.get("weights") for one in groups.values() if isinstance(one, Mapping)), None) or {}
        bits, group = weights.get("num_bits", 8), weights.get("group_size")
        packed = bits < 8 or quantization.get("format") == "pack-quantized"
        found = Format("compressed-tensors", Fraction(bits), group, Fraction(2 if group else 0), 0 if group else 4)
        found = found if packed else replace(found, group=None, of_group=Fraction(0), of_output=4)
    else:
        raise InputError(f"{where}: quantization_config of {shown(method)} has no rule here; give --weights, the log's")
    return replace(found, kept=words)
