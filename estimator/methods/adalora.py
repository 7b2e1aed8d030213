"""AdaLoRA as PEFT runs it before ranks are pruned (``peft/tuners/adalora/``; arXiv 2303.10512)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, StrictBool

from .. import operators as ops
from ..errors import InputError
from ..io.fields import Number, Rank, Whole
from ..ledger import Ledger, Size, Tensor
from ..programs import Builder, Config, Linear, Method, Module
from .layered import Adapters, LayerOptions
from .options import TaskType

Steps = Annotated[Whole, Field(ge=0)]


def _release(value: Any) -> str:
    """0.20 for that release of PEFT and earlier ones, 0.21 for later ones. Raises ``ValueError``."""
    numbers = re.match(r"(\d{1,4})\.(\d{1,4})(?![0-9])", value) if isinstance(value, str) else None
    if numbers is None:
        raise ValueError('must be a release of PEFT, such as "0.20" or "0.21.2"')
    return "0.20" if (int(numbers[1]), int(numbers[2])) < (0, 21) else "0.21"


class SVDLinear(Module):
    """A linear layer with lora_A [r, n_in], lora_B [n_out, r], E [r, 1] as lora_E, and the rank in ranknum [1]."""

    def __init__(self, build: Builder, base: Linear, adalora: AdaLora) -> None:
        self.path, self.ledger, self.base_layer, self.p = base.path, base.ledger, base, adalora.options.lora_dropout
        n_out, n_in = base.weight.shape
        r, dtype = adalora.size, adalora.adapter_dtype
        self.lora_A = build.adapter(f"{self.path}.lora_A", (r, n_in), dtype)
        self.lora_B = build.adapter(f"{self.path}.lora_B", (n_out, r), dtype)
        self.lora_E = build.adapter(f"{self.path}.lora_E", (r, 1), dtype)
        # PEFT means to freeze it. From 0.21 on, its cast to a 16-bit base's dtype makes a new parameter, which trains.
        trained = base.weight.dtype != "float32" and adalora.options.peft_version != "0.20"
        self.ranknum = build.adapter(f"{self.path}.ranknum", (1,), dtype, trained=trained)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.base_layer(x)
        ranknum = ops.add(self.ranknum, ops.SCALAR)
        x = ops.to(x, self.lora_A.dtype)
        result = ops.add_(result, ops.div(ops.mul(self.product(x), ops.SCALAR), ranknum))
        return result

    def product(self, x: Tensor) -> Tensor:
        """``dropout(x) @ (lora_A * lora_E).T @ lora_B.T``: each factor is freed once it is multiplied."""
        return ops.matmul(
            ops.matmul(ops.dropout(x, self.p), ops.transpose(ops.mul(self.lora_A, self.lora_E), 0, 1)),
            ops.transpose(self.lora_B, 0, 1),
        )


class AdaLoraMethod(LayerOptions):
    """AdaLoRA (peft.AdaLoraConfig), at its initial rank."""

    title: ClassVar[str] = "AdaLoRA"
    linear = SVDLinear
    opens_rank = True
    rank_key: ClassVar[str] = "init_r"
    harmless: ClassVar[frozenset[str]] = frozenset({"alpha_pattern", "qalora_group_size"})
    name: Literal["adalora"] = "adalora"
    init_r: Rank = Field(12, description="rank before pruning")
    target_r: Rank = Field(8, description="average rank after pruning (the estimate is for init_r)")
    r: Rank = Field(8, description="not used by PEFT")
    total_step: Annotated[Whole, Field(ge=1)] = Field(description="training steps")
    tinit: Steps = Field(0, description="steps before pruning starts")
    tfinal: Steps = Field(0, description="steps after pruning has ended")
    deltaT: Annotated[Whole, Field(ge=1)] = Field(1, description="steps between two prunings")  # noqa: N815
    beta1: Number = Field(0.85, description="smoothing of the importance (no effect on memory)")
    beta2: Number = Field(0.85, description="smoothing of its uncertainty (no effect on memory)")
    orth_reg_weight: Annotated[Number, Field(ge=0)] = Field(0.5, description="weight of the orthogonality loss")
    lora_alpha: Number = Field(8, description="scale (no effect on memory)")
    lora_dropout: Annotated[Number, Field(ge=0, lt=1)] = Field(0.0, description="dropout before lora_A")
    bias: Literal["none", "all", "lora_only"] = Field("none", description="biases to train")
    lora_bias: StrictBool = Field(False, description="not used by PEFT")
    use_rslora: StrictBool = Field(False, description="not used by PEFT")
    init_lora_weights: StrictBool = Field(True, description="initialisation (no effect on memory)")
    task_type: TaskType | None = Field(
        None, description="a task: PEFT adds the orthogonality loss; without a task_type it does not"
    )

    update_and_allocate: StrictBool | None = Field(
        None,
        description="the loop calls update_and_allocate after each step, as PEFT asks: three more copies of the "
        "adapters; if not given, true on torch-cuda, false on torch-cpu (whose measured step does not call it)",
    )
    peft_version: Annotated[Literal["0.20", "0.21"], BeforeValidator(_release)] = Field(
        "0.21",
        description="PEFT's release; 0.20 stands for earlier ones, too; 0.21 trains ranknum on a 16-bit base",
    )

    def allocates(self, on_gpu: bool) -> bool:
        """Whether the loop calls ``update_and_allocate``."""
        return on_gpu if self.update_and_allocate is None else self.update_and_allocate

    def notes(self, on_gpu: bool, task: str) -> list[str]:
        if task == "infer":
            return []
        found = []
        if "peft_version" not in self.model_fields_set:
            found.append(
                "from PEFT 0.21 on ranknum trains on a 16-bit base; peft_version: '0.20' counts earlier releases, "
                "which freeze it"
            )
        if not on_gpu and self.update_and_allocate is None:
            found.append(
                "a loop that calls update_and_allocate, as PEFT asks, keeps three more copies of the adapters; "
                "update_and_allocate: true counts them"
            )
        return found

    @property
    def peft_release(self) -> str:
        return self.peft_version if self.peft_version == "0.20" else super().peft_release

    def build(self, config: Config, dtype: str, rank: Size | None = None) -> Method:
        if self.tinit >= self.total_step - self.tfinal:
            raise InputError(
                f"tinit {self.tinit} and tfinal {self.tfinal} leave none of the {self.total_step} steps for pruning; "
                "lower them or raise total_step (PEFT's rule)"
            )
        return AdaLora(self, self._targets(config), dtype, rank)

    def peft_options(self) -> dict[str, Any]:
        options = super().peft_options()
        for key in ("lora_bias", "update_and_allocate", "peft_version"):
            options.pop(key, None)
        return options


class AdaLora(Adapters[AdaLoraMethod]):
    """y = W x + B diag(E) A x * scale, and a loss that keeps A's rows and B's columns orthogonal.

    Without a ``task_type``, PEFT runs ``PeftModel.forward``, which skips ``AdaLoraModel.forward`` and so its loss.
    """

    def state_sizes(self, p: Tensor) -> list[Size]:
        """``RankAllocator.update_ipt`` keeps the importance, its running mean and its uncertainty's running mean.

        It does so until pruning has ended.
        """
        return [p.nbytes] * 3 if self._scored(p) else []

    def after_update(self, ledger: Ledger, trained: Sequence[Tensor]) -> None:
        """``RankAllocator.update_ipt`` computes each of its three tensors anew, and then replaces the old one.

        Pruning (``mask_to_budget``) is left out: its largest tensor has one adapter's size, too.
        """
        for p in filter(self._scored, trained):
            # b * mean + (1 - b) * |importance - mean|: the first product, the absolute difference, the second product.
            held = [ledger.empty(p.shape, p.dtype) for _ in range(2)]
            number = ops.wrapped_number(ledger, p.dtype)
            held.append(ledger.empty(p.shape, p.dtype))
            del number
            held.clear()

    def _scored(self, p: Tensor) -> bool:
        allocates = self.options.allocates(p.ledger.device.has_own_memory)
        return allocates and p.name.endswith((".lora_A", ".lora_B", ".lora_E"))

    def add_to_loss(self, loss: Tensor) -> Tensor:
        """``AdaLoraModel.forward`` adds the mean of |A A' - I| and |B' B - I| over all adapters."""
        if self.options.task_type is None:
            return loss
        ledger = loss.ledger
        ledger.module = "orthogonality"
        factors = [p for p in ledger.parameters if p.name.endswith((".lora_A", ".lora_B"))]
        regu_loss: Tensor | None = None
        for copies, layer in groupby(factors, key=lambda p: p.copies):
            with ledger.counted(copies):
                for p in layer:
                    norm = orthogonality(p)
                    regu_loss = ops.add(norm, ops.SCALAR) if regu_loss is None else ops.add_(regu_loss, norm)
        assert regu_loss is not None
        regu_loss = ops.div(regu_loss, ops.SCALAR)
        return ops.add_(loss, ops.mul(regu_loss, ops.SCALAR))


def orthogonality(p: Tensor) -> Tensor:
    """|A A' - I| of lora_A, [r, n], or |B' B - I| of lora_B, [n, r]; a scalar."""
    transposed = ops.transpose(p, 0, 1)
    para_cov = ops.matmul(p, transposed) if p.name.endswith("lora_A") else ops.matmul(transposed, p)
    identity = p.ledger.empty(para_cov.shape, para_cov.dtype)
    return ops.linalg_vector_norm(ops.sub(para_cov, identity))
