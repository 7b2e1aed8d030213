"""The base model's weights, as a checkpoint names them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ..ledger import Ledger, product, whole
from ..programs import Builder
from ..programs.causal_lm import RecordedCausalLM

if TYPE_CHECKING:
    from ..engines.engine import Job


class Weight(NamedTuple):
    """A parameter of the base model. Tied ones are there once."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    """Bytes of the parameter in the model; fewer than of its shape and dtype where it is packed."""

    @property
    def numel(self) -> int:
        """The number of elements before packing."""
        return whole(product(self.shape))

    @property
    def packed(self) -> bool:
        """Whether the weight is quantised: bytes that hold one or two elements."""
        return self.dtype == "uint8"


class Weights(NamedTuple):
    """The base model: its parameters, and the bytes of the constants of quantised ones (0 if none are)."""

    parameters: tuple[Weight, ...]
    constants: int
    trained: Ledger
    """Of the model as it trains: the parameters, those that the method adds among them."""

    @property
    def nbytes(self) -> int:
        """Bytes of the model's parameters and constants."""
        return sum(weight.nbytes for weight in self.parameters) + self.constants

    @property
    def experts(self) -> tuple[Weight, ...]:
        """Parameters of several experts, [experts, ...], which a checkpoint may have one by one."""
        return tuple(weight for weight in self.parameters if len(weight.shape) == 3 and ".experts." in weight.name)


def weights_of(job: Job) -> Weights:
    """The weights of a plan's base model, every layer's, in the order of the model's state dict."""
    ledger = _built(job, loaded_dtype(job))
    found = [
        Weight(_base_name(p.name), tuple(map(whole, p.shape)), p.dtype, whole(p.storage.nbytes))
        for p in ledger.parameters
        if not p.added
    ]
    # Other buffers, such as those of rotary positions, are not in the files, and small.
    trained = ledger if loaded_dtype(job) == job.step.dtype else _built(job, job.step.dtype)
    return Weights(tuple(found), whole(ledger.buffer_bytes) if job.step.base else 0, trained)


def _built(job: Job, dtype: str) -> Ledger:
    """A ledger with the parameters of a plan's model, every layer's, as its method makes it of weights of a dtype."""
    ledger = job.step.ledger(unrolled=True)
    build = Builder(ledger, job.method, dtype, base=job.step.base)
    job.method.wrap_model(build, RecordedCausalLM(build, job.sizes()))
    return ledger


def loaded_dtype(job: Job) -> str:
    """The dtype that ``from_pretrained`` gives to weights, those that it then quantises included."""
    step = job.step
    return step.dtype if step.base is None else step.base.dtype


def _base_name(name: str) -> str:
    """The name of a parameter in the base model, from its name in PEFT's."""
    return name.removeprefix("base_model.model.").replace(".base_layer.", ".")
