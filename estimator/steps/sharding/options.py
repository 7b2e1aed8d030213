"""The ``sharding`` block of a plan."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ...errors import InputError
from ...io.fields import FloatDtype, Whole, block_reader

Count = Annotated[Whole, Field(ge=1, le=10**6)]
Elements = Annotated[Whole, Field(ge=1, le=10**12)]


class ShardingOptions(BaseModel):
    """How the processes of a job share a model. All that is answered is of the one with the most bytes."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    name: Literal["ddp", "fsdp1", "fsdp2", "hsdp", "zero1", "zero2", "zero3"] | None = Field(
        None,
        description="how processes share parameters, gradients and states: ddp (not at all), fsdp1, fsdp2 or hsdp "
        "(PyTorch's), zero1, zero2 or zero3 (DeepSpeed's)",
    )
    world_size: Count | None = Field(
        None, description="sharding: number of processes; without a name the product of those below"
    )
    replicate: Count = Field(1, description="sharding: groups of processes that have whole models (hsdp)")
    tp: Count = Field(1, description="sharding: processes that share each product (tensor parallelism)")
    cp: Count = Field(1, description="sharding: processes that share each sequence")
    pp: Count = Field(1, description="sharding: stages of layers")
    ep: Count = Field(1, description="sharding: processes that share the experts")
    reshard_after_forward: bool | Count | None = Field(
        None,
        description="fsdp1, fsdp2: parameters are freed after forward, or kept in parts among so many processes; by "
        "default all are freed but those outside of the layers",
    )
    param_dtype: FloatDtype | None = Field(
        None, description="fsdp1, fsdp2: dtype in which parameters are gathered and used; by default as they are stored"
    )
    reduce_dtype: FloatDtype | None = Field(
        None, description="fsdp1, fsdp2: dtype in which gradients are reduced; by default param_dtype"
    )
    groups: Literal["layers", "accelerate", "transformers"] | None = Field(
        None,
        description="fsdp1, fsdp2: what is gathered together: each layer and the rest (layers; default without a "
        "trainer), as accelerate does it (default with one), or transformers: fsdp1 as its trainer, where adapters are "
        "apart, fsdp2 by its fsdp_plan",
    )
    sync_each_batch: bool = Field(
        False, description="ddp, fsdp: each batch of gradient accumulation reduces gradients, and not the last alone"
    )
    cpu_offload: bool = Field(False, description="fsdp1, fsdp2: parameters, gradients and states rest on the host")
    gradient_as_bucket_view: bool = Field(False, description="ddp: gradients are views of the buckets")
    find_unused_parameters: bool = Field(False, description="ddp: parameters may get no gradient; copies outputs")
    static_graph: bool = Field(False, description="ddp: each step uses the same parameters")
    bucket_cap_mb: Count | None = Field(None, description="ddp: MiB of a bucket, by default 25")
    reduce_bucket_size: Elements | Literal["auto"] | None = Field(
        None, description="zero: elements that are reduced at once, by default 500,000,000; auto: transformers' choice"
    )
    allgather_bucket_size: Elements | None = Field(
        None, description="zero1, zero2: elements that are gathered at once, by default 500,000,000"
    )
    overlap_comm: bool | None = Field(None, description="zero: reduce during backward; by default with zero3")
    contiguous_gradients: bool = Field(True, description="zero: gradients are copied into one buffer")
    stage3_prefetch_bucket_size: Elements | Literal["auto"] | None = Field(
        None, description="zero3: elements that are gathered ahead, by default 50,000,000"
    )
    stage3_param_persistence_threshold: Elements | Literal["auto"] | None = Field(
        None, description="zero3: elements of the largest parameters that stay whole, by default 100,000"
    )
    offload_optimizer: Literal["none", "cpu"] = Field("none", description="zero: where optimizer states rest")
    offload_param: Literal["none", "cpu"] = Field("none", description="zero3: where parameters rest")
    sequence_parallel: bool = Field(False, description="tp: norms and dropout share each sequence")

    @property
    def split(self) -> int:
        """How many processes have one part of what ``shard`` processes share: the product of the other sizes."""
        return self.replicate * self.tp * self.cp * self.pp

    @property
    def shard(self) -> int:
        """How many processes share the parameters."""
        return (self.world_size or self.split) // self.split

    @property
    def casts(self) -> bool:
        """Whether all parameters are cast to one dtype before the first step (DeepSpeed)."""
        return self.name in ("zero1", "zero2", "zero3")

    @property
    def label(self) -> str:
        """What messages call it."""
        return " x ".join(filter(None, (self.name, f"tp {self.tp}" if self.tp > 1 else "")))

    @property
    def which(self) -> str:
        """The process that is answered for: the one that needs most, and the first of equal ones."""
        return "the largest" if self.name in ("fsdp1", "zero1", "zero2") else "the first"


SIZES = ("replicate", "tp", "cp", "pp", "ep")
"""The keys that say how many processes share what."""
NO_RULE_YET = {"cp": "context parallelism", "pp": "pipeline parallelism", "ep": "expert parallelism"}
"""The keys of the block for which there is no rule, with what the field calls them."""


def without_rule(what: str) -> str:
    """What is said of a parallelism without a rule, and in its place."""
    return (
        f"{what} has no rule, since no run of it was measured; leave it out, and take sharding fsdp2, zero3 or ddp, "
        "or share products by tp"
    )


_options = block_reader(ShardingOptions, "sharding", "{name: fsdp2, world_size: 8}")


def read(block: Any) -> ShardingOptions:
    """A block of sharding, or its name alone, with its world. Raises ``InputError``."""
    block = {"name": block} if isinstance(block, str) else block
    if isinstance(block, Mapping) and isinstance(name := block.get("name"), str):
        block = {**block, "name": name.lower().replace("_", "-")}
    if isinstance(block, Mapping) and str(block.get("reshard_after_forward")) in ("0", "0.0"):
        raise InputError(
            "sharding.reshard_after_forward 0 is no number of processes (`it should be a factor of` those that share "
            "the parameters, PyTorch's words); take false, true or such a number"
        )
    options = _options(block)
    for key, what in NO_RULE_YET.items():
        if (value := getattr(options, key)) > 1:
            raise InputError(f"sharding.{key} {value}: {without_rule(what)}")
    if options.tp > 1 and options.name == "ddp":
        raise InputError(
            "sharding.tp does not go with sharding ddp (`Tensor/Context parallelism (tp/cp_size > 1) cannot be used "
            "with pure data parallelism`, accelerate's words); take fsdp2"
        )
    if options.tp > 1 and options.name not in (None, "fsdp2", "hsdp"):
        raise InputError(
            f"sharding.tp {options.tp} has no rule with sharding {options.name} yet; leave one of them out"
        )
    if options.sequence_parallel:
        raise InputError(
            "sharding.sequence_parallel: transformers reserves `enable_sequence_parallel` and has not wired it up yet; "
            "leave it out"
        )
    return _with_world(options)


def auto_values(hidden_size: int) -> dict[str, int]:
    """What transformers takes where a DeepSpeed config says ``auto`` (``integrations/deepspeed.py``)."""
    return {
        "reduce_bucket_size": hidden_size**2,
        "stage3_prefetch_bucket_size": int(0.9 * hidden_size**2),
        "stage3_param_persistence_threshold": 10 * hidden_size,
    }


def _with_world(options: ShardingOptions) -> ShardingOptions:
    """The options with their ``world_size``, and ``hsdp`` where whole models are replicated."""
    product, world = options.split, options.world_size
    if options.name is None:
        if product == 1:
            raise InputError("sharding has no name; add one: --sharding fsdp2, or {name: fsdp2, world_size: 8}")
        if options.replicate > 1:
            raise InputError("sharding.replicate goes with a name; add one: --sharding hsdp")
        if world not in (None, product):
            raise InputError(f"sharding.world_size {world} is not the product of its sizes, {product}; leave it out")
        return options.model_copy(update={"world_size": product})
    if options.replicate > 1 and options.name not in ("fsdp1", "fsdp2", "hsdp"):
        raise InputError(
            f"sharding.replicate {options.replicate} does not go with {options.name}, whose processes are all of one "
            "group; leave it out, or take hsdp"
        )
    if world is None:
        raise InputError("sharding has no world_size; add the number of processes: --world-size 8")
    if world % product:
        sizes = " x ".join(f"{key} {getattr(options, key)}" for key in SIZES if getattr(options, key) > 1)
        raise InputError(f"sharding.world_size {world} is no multiple of {sizes}; take {product} or a multiple of it")
    if options.name == "hsdp" and options.replicate == 1:
        raise InputError(
            "sharding hsdp has no replicate; add the number of groups that have whole models: --replicate 2"
        )
    if options.name == "fsdp2" and options.replicate > 1:
        return options.model_copy(update={"name": "hsdp"})
    return options
