"""What the options of every method have in common: PEFT's own names, checked by pydantic."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Union, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from ..errors import InputError
from ..io.fields import FloatDtype, FloatName, Name, Whole
from ..ledger import Size
from ..programs import Config, Method
from ..programs.module_table import KINDS, Kind, ModuleTable, NamedModule, endings
from . import patterns
from .base import Targets, is_saved
from .default_targets import PEFT, TARGET_MODULES


def _lower_word(names: str | list[str]) -> str | list[str]:
    """PEFT's word all-linear in lower case, as it reads it."""
    return "all-linear" if isinstance(names, str) and names.lower() == "all-linear" else names


Pattern = Annotated[str, AfterValidator(patterns.check)]
MOST_SAVED = 1000
"""Most names in ``modules_to_save``. Each is compared with the end of every module's path."""
Names = Union[Pattern, list[str]]
AdapterDtype = FloatDtype
TaskType = Literal["SEQ_CLS", "SEQ_2_SEQ_LM", "CAUSAL_LM", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION"]
HEADS: Mapping[str, tuple[str, ...]] = {
    "SEQ_CLS": ("classifier", "score"), "TOKEN_CLS": ("classifier", "score"), "QUESTION_ANS": ("qa_outputs",)
}  # fmt: skip
"""By ``task_type``: modules that PEFT adds to ``modules_to_save``, where the model has them (``peft_model.py``)."""
Tokens = Annotated[list[Annotated[Whole, Field(ge=0)]], Field(min_length=1)]


class MethodOptions(BaseModel):
    """The block of a method in a plan."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)  # a plan uses one of thirty methods
    name: str
    title: ClassVar[str]
    """The method's name in texts."""
    rank_key: ClassVar[str] = "r"
    """The key that says how large the adapters are, where there is such a key."""
    peft: ClassVar[bool] = True
    """Whether PEFT has the method. ``name`` is then PEFT's peft_type in lower case."""
    tuner: ClassVar[bool] = True
    """PEFT puts a module of its own between its model and the model, as for all methods but those of prompts."""
    peft_type: ClassVar[str] = ""
    """PEFT's peft_type, where it is not ``name`` in upper case."""
    harmless: ClassVar[frozenset[str]] = frozenset()
    """Keys of the method's adapter_config.json that do not change memory."""
    open_sizes: ClassVar[bool] = True
    """Whether formulas may keep the model's sizes as symbols."""
    by_token: ClassVar[bool] = True
    """Whether an adapted layer treats every token by itself, so that tokens may come in chunks."""
    pads_labels: ClassVar[bool] = False
    """Whether the method adds positions that have no label."""
    plain_saved: ClassVar[bool] = True
    """Whether adapted layers save dense real tensors only. Quantised activations have rules for these alone."""
    procedure: ClassVar[str] = "backpropagation"
    """How a step finds its update: backpropagation, zeroth-order or forward-mode."""
    plan_defaults: ClassVar[Mapping[str, Any]] = {}
    """Keys of the plan that the method sets where the user does not."""

    @property
    def inner(self) -> "MethodOptions":
        """The method that makes the model: this one, or the one in its ``adapter`` block."""
        return self

    acts_on_programs: ClassVar[bool] = True
    """Whether the method's rules act on recorded programs. If not, the module that PEFT wraps is recorded."""
    acts_on_interfaces: ClassVar[bool] = False
    """Whether they act on those whose attention and cache are calls of their own, and on no others."""

    @property
    def has_rules(self) -> bool:
        """Whether its rules know all its options. If not, the module that PEFT wraps is recorded."""
        return True

    def check_config(self, raw: Mapping[str, Any]) -> None:
        """Raise ``InputError`` where PEFT does not find in a config.json what it fills in."""

    def build(self, config: Config, dtype: str, rank: Size | None = None) -> Method:
        """The method, its options checked against a model. ``rank`` replaces the option ``r``: a symbol in formulas.

        Raises ``InputError``.
        """
        raise NotImplementedError

    @property
    def peft_release(self) -> str:
        """The release of PEFT that the rules follow; empty for a method whose modules PEFT does not make."""
        return PEFT if self.peft or self.peft_type else ""

    def notes(self, on_gpu: bool, task: str) -> list[str]:
        """Sentences about the method that an answer prints."""
        return []

    def open_values(self) -> dict[str, int]:
        """The rank by its symbol's name, where formulas may keep it as a symbol."""
        return {}

    def peft_options(self) -> dict[str, Any]:
        """Arguments of the PEFT config class."""
        return self.model_dump(exclude_none=True, exclude={"name", "adapter_dtype"})


_LORA_LIKE = ("LORA", "ADALORA", "RANDLORA")
_STATE_SPACE = ("falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h")
"""Methods and families of ``_check_lora_target_modules_mamba``."""
_PLURAL: Mapping[Kind, str] = {"linear": "linear layers", "embedding": "embeddings", "norm": "norms"}


class TargetOptions(MethodOptions):
    """Options of methods that change chosen modules."""

    adapted: ClassVar[tuple[Kind, ...]] = ("linear",)
    """Kinds of modules that the method adapts."""
    adapts_conv1d: ClassVar[bool] = True
    """Whether it adapts GPT-2's linear layers, ``Conv1D``."""
    target_modules: Annotated[Names, AfterValidator(_lower_word)] | None = Field(
        None, description="modules to adapt: names, a regular expression, all-linear"
    )
    exclude_modules: Names | None = Field(None, description="modules to leave out")
    modules_to_save: Annotated[list[Name], Field(max_length=MOST_SAVED)] | None = Field(
        None, description="modules trained as full copies"
    )
    task_type: TaskType | None = Field(
        None, description="PEFT's task: of SEQ_CLS, TOKEN_CLS and QUESTION_ANS the head is trained as a full copy"
    )

    def default_targets(self, model_type: str) -> Names | None:
        """What PEFT adapts where ``target_modules`` are left out; ``None`` where PEFT has no default for the model."""
        return TARGET_MODULES.get(self.peft_type.lower() or self.name, {}).get(model_type)

    def _targets(self, config: Config, **layers: Any) -> Targets:
        """The modules to adapt. Raises ``InputError``."""
        names = self.target_modules if self.target_modules is not None else self.default_targets(config.family)
        if names is None:
            raise InputError(f"PEFT has no default target_modules of {self.title} for {config.family}; name some")
        modules = config.modules
        targets = Targets(names, self.exclude_modules, **layers, all_linear=modules.all_linear)
        adaptable = modules.of(*self.adapted)
        wanted = [names] if isinstance(names, str) else names
        if not wanted:
            raise InputError("target_modules is empty; name a module such as q_proj, or leave it out")
        self._check_kinds(modules, targets, wanted)
        ends = modules.ends(*self.adapted) if wanted is names else ()
        anywhere = Targets(names, all_linear=modules.all_linear)
        for name in wanted if self.target_modules is not None else ():  # of PEFT's defaults, some may match nothing
            if name not in ends and (wanted is names or not _any_in(adaptable, anywhere)):
                raise InputError(
                    f"target_modules '{name}' matches nothing in this model; its modules are "
                    f"{', '.join(dict.fromkeys(module.path.rpartition('.')[2] for module in adaptable))}"
                )
        if not _any_in(adaptable, targets):
            raise InputError(
                "exclude_modules or layers_to_transform leave nothing of target_modules; change one of them"
            )
        self._check_state_space(config, [module.path for module in adaptable if module.path in targets])
        check_modules_to_save(config, self.modules_to_save)
        if self.task_type in ("TOKEN_CLS", "QUESTION_ANS"):
            for module in adaptable:
                if module.path in targets and is_saved(module.path, HEADS[self.task_type]):
                    raise InputError(
                        f"task_type {self.task_type} has no rule where {module.path} is adapted, which PEFT copies "
                        "with its adapter; put it into exclude_modules"
                    )
        for name in self.modules_to_save or ():
            if any(module.path.endswith(name) and module.path in targets for module in adaptable):
                raise InputError(f"'{name}' is in target_modules and in modules_to_save; keep one of them")
        return targets

    @property
    def saved(self) -> tuple[str, ...]:
        """``modules_to_save`` with the head that ``task_type`` names."""
        return (*(self.modules_to_save or ()), *HEADS.get(self.task_type or "", ()))

    def _check_state_space(self, config: Config, paths: Sequence[str]) -> None:
        """``_check_lora_target_modules_mamba`` of PEFT, in its words. Raises ``InputError``."""
        kind = self.peft_type or self.name.upper()
        if kind not in _LORA_LIKE or config.family not in _STATE_SPACE:
            return
        if any(path.rpartition(".")[2] == "out_proj" for path in paths):
            raise InputError(
                f"PEFT refuses method {self.name}: Module 'out_proj' is incompatible with Mamba-based models "
                f"(model_type='{config.family}'). Please remove it from `target_modules`"
            )

    def _check_kinds(self, modules: ModuleTable, targets: Targets, wanted: list[str]) -> None:
        """Raise ``InputError`` for a target of a kind that the method does not adapt."""
        others = [kind for kind in KINDS if kind not in self.adapted]
        if targets.all_linear is not None or (
            not isinstance(targets.target_modules, str) and modules.ends(*others).isdisjoint(wanted)
        ):
            return
        for module in modules.of(*others):
            if module.path in targets:
                name = next((end for end in endings(module.path) if end in wanted), module.path)
                *most, last = (_PLURAL[kind] for kind in self.adapted)
                kinds = f"{', '.join(most)} and {last}" if most else last
                raise InputError(f"{self.title} adapts {kinds} only; take {name} out of target_modules")


def checked_dtype(adapter_dtype: str, dtype: str) -> str:
    """The adapters' dtype on a base of ``dtype``. Raises ``InputError``.

    On a quantised base it is any: tools cast the adapters after PEFT has made them.
    """
    if dtype in get_args(FloatName) and adapter_dtype not in ("float32", dtype):
        raise InputError(
            f"adapter_dtype {adapter_dtype} is neither float32 nor the base's dtype {dtype}; "
            "PEFT casts adapters to one of these"
        )
    return adapter_dtype


def check_modules_to_save(config: Config, names: Sequence[str] | None) -> None:
    """Raise ``InputError`` for a name with which no path of a module that has parameters ends."""
    for name in names or ():
        if not any(is_saved(module.path, [name]) for module in config.modules.of("linear", "embedding", "norm")):
            raise InputError(f"modules_to_save '{name}' matches nothing in this model")


def _any_in(modules: Sequence[NamedModule[int]], targets: Targets) -> bool:
    return any(module.path in targets for module in modules)
