"""LoRA on parameters instead of layers: PEFT's ``target_parameters``, as for experts whose weights are one tensor.

transformers 5 keeps the experts of a layer in two parameters, [experts, n_out, n_in]; before, each was a module of
linear layers. PEFT turns names of those layers into names of the parameters
(``peft/utils/transformers_weight_conversion.py``). Where gate and up are one parameter, its rank is doubled.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..errors import InputError
from ..programs import Config
from ..programs.module_table import KINDS
from ..programs.releases import is_older
from .base import Targets, by_layer, is_saved
from .default_targets import ADAPTED_EXPERTS, EXPERT_LAYERS, TRANSPOSED_EXPERTS
from .layered import name_of
from .lora_config import LoraConfig

if TYPE_CHECKING:
    from ..programs import Config


def parameters_of_layers(config: Config) -> Mapping[str, str]:
    """For each name of experts' layers, the parameter that PEFT adapts instead. Empty for most models."""
    if is_older(config.source.release or "5", "5"):
        return {}
    return EXPERT_LAYERS[ADAPTED_EXPERTS[config.family]] if config.family in ADAPTED_EXPERTS else {}


def converted(options: LoraConfig, config: Config) -> tuple[LoraConfig, dict[str, int]]:
    """The options with parameters in the place of experts' layers (``_convert_peft_config_moe``).

    Gives how many layers each of these parameters is the weight of, too. Raises ``InputError`` where PEFT refuses it.
    """
    parameters = parameters_of_layers(config)
    if not parameters:
        return options, {}
    if options.target_modules is None and options.target_parameters:
        return options.model_copy(update={"target_modules": []}), {}
    if options.target_modules is None:
        raise InputError(
            f"with transformers 5, PEFT has no default target_modules of {options.title} for {config.family}; name "
            "some, such as q_proj and v_proj"
        )
    text = isinstance(options.target_modules, str)
    wanted = _leaf_names(options, config, parameters) if text else list(options.target_modules)
    if not wanted:  # what it says is refused elsewhere
        return options, {}
    layers: list[str] = []
    targeted: dict[str, set[str]] = {}
    for name in wanted:
        if (last := name_of(name)) in parameters:
            targeted.setdefault(parameters[last], set()).add(last)
        else:
            layers.append(name)
    for parameter, given in targeted.items():
        missing = sorted(layer for layer in fused(parameters, parameter) if layer not in given)
        if missing:
            raise InputError(
                f"PEFT adapts {' and '.join(fused(parameters, parameter))} of experts together, as one parameter; "
                f"add {', '.join(missing)} to target_modules"
            )
    found = list(dict.fromkeys((*(options.target_parameters or ()), *targeted)))
    several = {parameter: len(fused(parameters, parameter)) for parameter in targeted}
    return options.model_copy(update={"target_modules": layers, "target_parameters": found}), several


def fused(parameters: Mapping[str, str], parameter: str) -> list[str]:
    """The layers whose weights are one parameter."""
    return [layer for layer, name in parameters.items() if name == parameter]


def _leaf_names(options: LoraConfig, config: Config, parameters: Mapping[str, str]) -> list[str]:
    """The last parts of the names that a text stands for (``_resolve_string_target_modules``)."""
    assert isinstance(options.target_modules, str)
    modules = config.modules
    if options.target_modules == "all-linear":
        return list(dict.fromkeys([*map(name_of, modules.all_linear), *parameters]))
    targets = Targets(options.target_modules, options.exclude_modules)
    names = [*(module.path for module in modules.modules), *config.parameters]
    found = dict.fromkeys(name_of(name) for name in names if name in targets)
    for layer, parameter in parameters.items():
        containers = {name.rpartition(".")[0] for name in config.parameters if name_of(name) == parameter}
        if layer not in found and any(f"{container}.{layer}" in targets for container in containers):
            found[layer] = None
    ends = modules.ends(*KINDS)
    return [name for name in found if name in parameters or name in ends]


class TargetParameters:
    """The parameters that are adapted (``peft/tuners/tuners_utils.py: _inject_parameters``)."""

    def __init__(self, options: LoraConfig, config: Config) -> None:
        """Raises ``InputError`` for a name that no parameter has, and for options that PEFT refuses here."""
        self.options, self._several = converted(options, config)
        self.names = tuple(self.options.target_parameters or ())
        self.by_layer = by_layer(self.names)
        self.transposed = config.family in TRANSPOSED_EXPERTS
        self.of_module: dict[str, tuple[str, ...]] = {}
        """For each module, by its path, the names of its adapted parameters."""
        known = config.parameters if self.names else {}
        for name in self.names:
            if name not in self._several and not any(_ends_with(parameter, name) for parameter in known):
                kinds = dict.fromkeys(name_of(parameter) for parameter, shape in known.items() if len(shape) == 3)
                raise InputError(
                    f"target_parameters '{name}' matches nothing in this model"
                    + (f"; its parameters of three dimensions are {', '.join(kinds)}" if kinds else "")
                )
        for parameter, shape in known.items():
            if not any(_ends_with(parameter, one) for one in self.names):
                continue
            if len(shape) not in (2, 3):
                raise InputError(
                    f"target_parameters: {parameter} has {len(shape)} dimension(s), and PEFT adapts those of two or "
                    "three alone; leave it out"
                )
            path = parameter.rpartition(".")[0]
            self.of_module[path] = (*self.of_module.get(path, ()), parameter)
        if self.of_module:
            _check_options(options, all(f"{path}.weight" in known for path in self.of_module))

    def check_modules(self, targets: Targets) -> None:
        """Raise ``InputError`` for what PEFT refuses on a module whose parameter it has wrapped."""
        saved = self.options.saved
        for path in self.of_module:
            for option, means in (("target_modules", path in targets), ("modules_to_save", is_saved(path, saved))):
                if means:
                    raise InputError(f"{path} is in {option}, and its parameter is adapted, too; keep one of them")

    def multiple(self, name: str) -> int:
        """How many layers a parameter is the weight of: its rank is so many times that of one."""
        return next((count for one, count in self._several.items() if _ends_with(name, one)), 1)


def _ends_with(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _check_options(options: LoraConfig, have_weights: bool) -> None:
    """Raise ``InputError`` for options that PEFT refuses for parameters (``ParamWrapper``).

    ``have_weights``: all their modules have a weight, which some initialisations read.
    """
    initial = options.init_lora_weights
    given = {
        "lora_dropout": bool(options.lora_dropout),
        "lora_bias": options.lora_bias,
        "use_dora": options.use_dora,
        f"init_lora_weights {initial}": initial == "mica"
        or not (have_weights or initial in (True, False, "gaussian", "eva")),
    }
    for option, is_given in given.items():
        if is_given:
            raise InputError(
                f"{option} is not for parameters such as experts' weights (PEFT's rule); leave it out, or take what "
                "it adapts of experts out of target_modules and target_parameters"
            )
