"""The ``run`` block of a plan."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool

from ..io.fields import FloatDtype, Whole, parse_size


def _size(text: str) -> str:
    """A number with a unit. Raises ``InputError``."""
    parse_size(text)
    return text


HOST = 8
"""Processes of a host where a plan does not say: one for each of eight GPUs, as servers have them."""


class RunOptions(BaseModel):
    """What surrounds the steps of a run, by the names of ``TrainingArguments``, ``Trainer`` and ``from_pretrained``."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    moment: Literal["loading", "first step", "step", "evaluation", "saving", "merging", "precomputing"] | None = Field(
        None, description="this moment alone, and the verdict on it; if not given, all, and the verdict on the largest"
    )
    checkpoint_dtype: FloatDtype | None = Field(
        None, description="dtype of the weights in the files; if not given, the dtype in the model's config"
    )
    disable_mmap: StrictBool = Field(False, description="files are read into memory, not mapped (from_pretrained's)")
    max_shard_size: Annotated[str, AfterValidator(_size)] = Field(
        "50GB", description="disable_mmap: the most bytes of a file of the checkpoint, as save_pretrained was given"
    )
    device_map: Literal["none", "auto"] = Field(
        "none", description="torch-cuda: auto: from_pretrained puts each weight on the GPU as it reads it"
    )
    processes_per_host: Whole | None = Field(
        None,
        ge=1,
        le=10**6,
        description="sharding: processes on a host, each of which loads the model; if not given all, but 8 at most",
    )
    cpu_ram_efficient_loading: StrictBool = Field(
        False,
        description="sharding fsdp1, fsdp2: of a host the first process alone reads the weights (accelerate's)",
    )
    eval_samples: Whole | None = Field(
        None, ge=1, le=10**9, description="rows of the evaluation set, of seq tokens each; none: no evaluation"
    )
    per_device_eval_batch_size: Whole = Field(8, ge=1, le=10**6, description="rows of a batch of evaluation")
    compute_metrics: StrictBool = Field(
        False, description="the Trainer has compute_metrics, so evaluation keeps logits and labels"
    )
    prediction_loss_only: StrictBool = Field(False, description="evaluation keeps the losses only")
    preprocess_logits_for_metrics: Literal["none", "argmax"] = Field(
        "none", description="argmax: evaluation keeps the likeliest token of each position in place of its logits"
    )
    eval_accumulation_steps: Whole | None = Field(
        None,
        ge=1,
        le=10**9,
        description="batches after which logits and labels go to the host; by default at the end",
    )
    batch_eval_metrics: StrictBool = Field(False, description="metrics of each batch: logits and labels are not kept")
    eval_do_concat_batches: StrictBool = Field(
        True, description="logits and labels of all batches are joined; else they stay a list"
    )
    precompute_ref_batch_size: Whole | None = Field(
        None,
        ge=1,
        le=10**6,
        description="precompute_ref_log_probs: TRL's batch of that pass before the training; if not given, batch, and "
        "per_device_eval_batch_size of an evaluation set",
    )
    save_total_limit: Whole | None = Field(None, ge=1, le=10**6, description="checkpoints that are kept on the disk")
    save_only_model: StrictBool = Field(False, description="checkpoints are without the optimizer's states")
    merge_and_unload: StrictBool = Field(False, description="the adapter is merged into its base, which is saved")
    safe_merge: StrictBool = Field(False, description="merge_and_unload merges into a copy of each weight")
    dataloader_num_workers: Whole = Field(0, ge=0, le=10**4, description="processes that read batches")
    dataloader_prefetch_factor: Whole | None = Field(
        None, ge=1, le=10**6, description="batches that each worker reads ahead; 2 if not given"
    )
    dataloader_pin_memory: StrictBool = Field(True, description="torch-cuda: batches are copied to pinned memory")


def processes_of_host(world_size: int, options: RunOptions | None) -> int:
    """How many processes a host has, of those that share a model."""
    return min(world_size, (None if options is None else options.processes_per_host) or HOST)
