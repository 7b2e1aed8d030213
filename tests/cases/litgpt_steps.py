"""litgpt's own training loop on the CPU, measured as ``estimator.witnesses.measure`` measures.

``PYTHONPATH=... python -m tests.cases.litgpt_steps`` writes ``tests/data/litgpt_measured.json`` anew, where litgpt and
lightning are installed. The cases are small models of litgpt's own ``Config``; no case is a size of a real model.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import Any

from estimator.bases.formats import Base
from estimator.methods.litgpt_lora import LitLora
from estimator.plans.litgpt import model as of_row
from estimator.programs.modules import Method
from estimator.programs.step import Step
from estimator.steps.procedures import procedure_of
from estimator.steps.sharding.fsdp1 import Fsdp1
from estimator.steps.step import run
from tests.helpers.files import DATA

RECORD = DATA / "litgpt_measured.json"
PRECISIONS = {"32-true": "float32", "bf16-true": "bfloat16"}

LLAMA: dict[str, Any] = {
    "block_size": 400,
    "n_layer": 3,
    "n_embd": 48,
    "n_head": 4,
    "head_size": 16,
    "n_query_groups": 4,
    "padded_vocab_size": 611,
    "intermediate_size": 88,
    "rope_n_elem": 16,
    "norm_class_name": "RMSNorm",
    "mlp_class_name": "LLaMAMLP",
}
STABLELM = {
    **LLAMA,
    "n_embd": 64,
    "rope_n_elem": 8,
    "norm_class_name": "LayerNorm",
    "mlp_class_name": "GptNeoxMLP",
    "parallel_residual": True,
    "bias": True,
}
GEMMA = {
    **LLAMA,
    "n_query_groups": 1,
    "head_size": 24,
    "rope_n_elem": 24,
    "mlp_class_name": "GemmaMLP",
    "scale_embeddings": True,
    "add_unit_offset": True,
}
MODELS: dict[str, dict[str, Any]] = {
    "llama": LLAMA,
    "mistral": {**LLAMA, "n_query_groups": 2},
    "phi-3": {**LLAMA, "sliding_window_size": 32},
    "stablelm": STABLELM,
    "phi-2": {**STABLELM, "shared_attention_norm": True, "lm_head_bias": True},
    "gemma": GEMMA,
    "gemma-2": {
        **GEMMA,
        "n_layer": 6,
        "n_query_groups": 2,
        "post_attention_norm": True,
        "post_mlp_norm": True,
        "attention_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "sliding_window_size": 32,
        "sliding_window_every": 2,
    },
}
NF4 = Base("nf4", "float16", "bfloat16", quantises_head=True)
METHODS: dict[str, dict[str, Any] | None] = {
    "full": None,
    "query-value": {"parts": ["query", "value"], "r": 3, "dropout": 0.1},
    "all": {"parts": ["query", "key", "value", "projection", "mlp", "head"], "r": 5, "dropout": 0.05},
    "query": {"parts": ["query"], "r": 4, "dropout": 0.0},
    "nf4": {"parts": ["query", "value"], "r": 3, "dropout": 0.1, "base": NF4},
    "nf4-stable": {"parts": ["query", "value"], "r": 3, "dropout": 0.1, "base": NF4},
}
SHAPES = ((1, 70, 1), (2, 300, 1), (2, 129, 2), (3, 40, 2))
"""Batch, sequence, micro-batches in a step."""


def cases() -> list[tuple[str, str, str, int, int, int, int]]:
    """(model, method, precision, vocabulary, batch, sequence, micro-batches): every model and method, the rest in turn;
    with the small vocabulary a step's peak is in a block.
    """
    found = []
    for number, (model, method) in enumerate((model, method) for model in MODELS for method in METHODS):
        turn = number + number // len(METHODS)  # so that each method meets each shape
        for offset, precision in enumerate(["bf16-true"] if method.startswith("nf4") else PRECISIONS):
            found.append((model, method, precision, (611, 16)[turn % 2], *SHAPES[(turn + 2 * offset) % len(SHAPES)]))
    return found


SHARED: list[tuple[str, str, str, int, int, int, int, int]] = [
    ("llama", "full", "32-true", 611, 1, 70, 1, 2),
    ("llama", "query-value", "32-true", 611, 2, 129, 2, 3),
    ("llama", "all", "32-true", 16, 1, 40, 1, 5),
    ("phi-2", "query-value", "32-true", 16, 2, 40, 2, 2),
    ("stablelm", "query-value", "32-true", 16, 1, 4, 1, 2),
]
"""Cases of so many processes: FSDP1 around each block, which runs in a checkpoint, as litgpt's loop shares a model."""


def _totals(model: str, method: str, precision: str, vocab: int, batch: int, seq: int, micro: int, world: int) -> Any:
    c = of_row(model, {**MODELS[model], "padded_vocab_size": vocab}).config
    lora, stable = METHODS[method], method == "nf4-stable"
    way = Method() if lora is None else LitLora(lora["parts"], lora["r"], lora["dropout"], c, stable)
    base = None if lora is None else lora.get("base")
    options = Step(
        "litgpt",
        PRECISIONS[precision],
        base=base,
        micro_batches=min(micro, 3 if world else 2),
        checkpointing="layer" if world else "none",
        sharding=_sharding(precision, world),
        drop_output_before_step=True,
        procedure=procedure_of("backpropagation"),
    )
    return run(options, c.sizes(lambda path: None, options, batch, seq), way, batch, seq)


def predicted(
    model: str, method: str, precision: str, vocab: int, batch: int, seq: int, micro: int, world: int = 0
) -> dict[str, int]:
    """The ledger's bytes of a case."""
    totals = _totals(model, method, precision, vocab, batch, seq, micro, world)
    names = ("parameters", "buffers", "gradients", "optimizer", "saved", "trainable_parameters")
    return {
        **{name: getattr(totals, name) for name in names},
        "peak_above_resident": max(max(values) for values in totals.moments.values()),
    }


def _sharding(precision: str, world: int) -> Fsdp1 | None:
    """Fabric's ``FSDPStrategy``, whose policy has the dtype of the precision three times."""
    dtype = PRECISIONS[precision]
    return Fsdp1(name="fsdp1", world_size=world, param_dtype=dtype, reduce_dtype=dtype) if world else None


def measured(
    model: str, method: str, precision: str, vocab: int, batch: int, seq: int, micro: int, world: int = 0
) -> dict[str, int]:
    """The same bytes of a real step: litgpt's model under Lightning Fabric, the loop of its ``finetune`` scripts."""
    from estimator.witnesses.reference.sharding import as_rank

    sharding = _sharding(precision, world)
    rank = 0 if sharding is None else _totals(model, method, precision, vocab, batch, seq, micro, world).rank
    with as_rank(sharding, rank):
        return _measured(model, method, precision, vocab, batch, seq, micro, world)


def _measured(
    model: str, method: str, precision: str, vocab: int, batch: int, seq: int, micro: int, world: int
) -> dict[str, int]:
    import torch
    from litgpt.utils import chunked_cross_entropy
    from torch.distributed.fsdp import FullyShardedDataParallel

    from estimator.witnesses.measure import allocator_events, peak_of
    from estimator.witnesses.reference.model import storage_bytes
    from estimator.witnesses.reference.quantised import resident_tensors
    from estimator.witnesses.reference.sharding import gathered, shards

    torch.set_num_threads(2)
    lora = METHODS[method]
    fabric, gpt, optimizer, count = _build({**MODELS[model], "padded_vocab_size": vocab}, lora, precision, world, seq)
    old_embedding = gpt.transformer.wte
    if method == "nf4-stable":
        _stable_embedding(gpt)

    def step(micro: int = micro, keep_gradients: bool = False) -> None:
        for number in range(micro):
            for module in FullyShardedDataParallel.fsdp_modules(gpt):
                module._sync_gradients = number + 1 == micro  # as `fabric.no_backward_sync` does
            input_ids, targets = torch.randint(0, vocab, (batch, seq)), torch.randint(0, vocab, (batch, seq))
            if lora is None:
                logits = gpt(input_ids)
                loss = chunked_cross_entropy(logits[..., :-1, :], targets[..., 1:])
            else:
                logits = gpt(input_ids, lm_head_chunk_size=128)
                logits[-1] = logits[-1][..., :-1, :]
                loss = chunked_cross_entropy(logits, targets[..., 1:])
            fabric.backward(loss / 4)
            loss = loss.item()
        optimizer.step()
        if not keep_gradients:
            optimizer.zero_grad()

    step()
    step()
    parameters, buffers = resident_tensors(gpt)
    parameters += shards(gpt)
    forgotten: set[Any] = set()  # parameters whose gradients nobody clears
    if method == "nf4-stable":
        forgotten = set(gpt.transformer.wte.parameters())
        buffers += [old_embedding.weight, *(p.grad for p in forgotten)]
    trained = [p for p in gpt.parameters() if p.requires_grad and p not in forgotten]
    held = [t.untyped_storage() for t in (*parameters, *buffers, *gathered(gpt))]
    resident = {storage._cdata for storage in held}
    saved: dict[int, Any] = {}

    def note(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage._cdata not in resident:
            saved[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        step(micro=1, keep_gradients=True)
    result = {
        "parameters": storage_bytes(parameters),
        "buffers": sum(b.nbytes for b in buffers),
        "gradients": sum(p.grad.nbytes for p in trained if p.grad is not None),
        "optimizer": sum(v.nbytes for state in optimizer.state.values() for v in state.values()),
        "saved": sum(storage.nbytes() for storage in saved.values()),
        "trainable_parameters": count,
    }
    saved.clear()
    optimizer.zero_grad()
    result["peak_above_resident"], _ = peak_of(_without_scratch(allocator_events(step)))
    return result


_ONEDNN = ("mm", "bmm", "addmm", "baddbmm", "mkldnn_convolution", "convolution_backward")


def _without_scratch(events: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """As ``measure.without_matmul_scratch``, for convolutions and 16-bit attention, too."""
    kept: list[tuple[int, str]] = []
    for event in events:
        operator = event[1].removesuffix("/[memory]").rpartition("/")[2]
        scratch = operator in _ONEDNN or operator.startswith("_scaled_dot_product_flash_attention_for_cpu")
        if scratch and kept and event[0] < 0 and kept[-1] == (-event[0], event[1]):
            kept.pop()
        else:
            kept.append(event)
    return kept


def litgpt_config(row: dict[str, Any], lora: dict[str, Any] | None) -> Any:
    """litgpt's config of a row as ``plans/litgpt.yaml`` has them."""
    row = dict(row)
    every = row.pop("sliding_window_every", 1)
    keys = {
        "name": "Gemma" if row.pop("add_unit_offset", False) else "other",
        "vocab_size": row["padded_vocab_size"],
        "rotary_percentage": row.pop("rope_n_elem") / row["head_size"],
        "bias": row.pop("bias", False),
        "parallel_residual": row.pop("parallel_residual", False),
    }
    if "sliding_window_size" in row:
        keys["sliding_window_indices"] = [int(i % every == 0) for i in range(row["n_layer"])]
    if lora is None:
        from litgpt.model import Config

        return Config(**row, **keys)
    from litgpt.lora import Config

    switches = {f"lora_{part}": True for part in lora["parts"]}
    return Config(**row, **keys, **switches, lora_r=lora["r"], lora_alpha=16, lora_dropout=lora["dropout"])


def _build(
    row: dict[str, Any], lora: dict[str, Any] | None, precision: str, world: int, seq: int
) -> tuple[Any, Any, Any, int]:
    import lightning
    import torch
    from litgpt import lora as with_lora
    from litgpt import model as plain

    fabric = lightning.Fabric(accelerator="cpu", devices=1, precision=precision)
    with fabric.init_module():
        gpt = (plain if lora is None else with_lora).GPT(litgpt_config(row, lora))
    if lora is not None:
        with_lora.mark_only_lora_as_trainable(gpt)
        if "base" in lora:
            _quantise(gpt)
    whole, count = gpt, sum(p.numel() for p in gpt.parameters() if p.requires_grad)
    gpt = fabric.setup_module(_shared(gpt, precision) if world else gpt)
    whole.max_seq_length = seq
    return fabric, gpt, fabric.setup_optimizers(torch.optim.AdamW(gpt.parameters(), lr=1e-4)), count


def _shared(gpt: Any, precision: str) -> Any:
    """What Fabric's ``FSDPStrategy`` makes of the model, which it does on a GPU alone."""
    import torch
    from lightning.fabric.plugins.precision.fsdp import FSDPPrecision
    from lightning.fabric.strategies.fsdp import _activation_checkpointing_kwargs, _setup_activation_checkpointing
    from litgpt import lora, model
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.fsdp.wrap import ModuleWrapPolicy

    blocks = {lora.Block, model.Block}
    shared = FullyShardedDataParallel(
        gpt,
        auto_wrap_policy=ModuleWrapPolicy(blocks),
        mixed_precision=FSDPPrecision(precision).mixed_precision_config,
        device_id=torch.device("cpu"),
        use_orig_params=True,
    )
    _setup_activation_checkpointing(shared, _activation_checkpointing_kwargs(None, blocks))
    return shared


def _quantise(gpt: Any) -> None:
    """What Lightning's BitsandbytesPrecision("nf4", torch.bfloat16) does on a GPU, and only there."""
    import torch
    from bitsandbytes.nn import Linear4bit, Params4bit

    for name, linear in list(gpt.named_modules()):
        if type(linear) is torch.nn.Linear:
            packed = Linear4bit(
                linear.in_features, linear.out_features, linear.bias is not None, torch.bfloat16, False, "nf4"
            )
            weight = linear.weight.data.to(torch.half)
            packed.weight = Params4bit(
                weight, requires_grad=False, compress_statistics=False, quant_type="nf4", module=packed
            ).to("cpu")
            packed.bias = linear.bias
            gpt.set_submodule(name, packed)


def _stable_embedding(gpt: Any) -> None:
    """What ``finetune/lora.py: main`` does beside a quantised base, once there is an optimizer."""
    import torch
    from bitsandbytes.nn import StableEmbedding

    old = gpt.transformer.wte
    gpt.transformer.wte = StableEmbedding(old.num_embeddings, old.embedding_dim).to(torch.bfloat16)


def write_record() -> None:
    """Measure every case."""
    packages = ("litgpt", "lightning", "torch", "bitsandbytes")
    rows = [{"case": case, "measured": measured(*case)} for case in [*cases(), *SHARED]]
    record = {"versions": {name: version(name) for name in packages}, "threads": 2, "rows": rows}
    lines = ",\n".join(json.dumps(row) for row in rows)
    head = json.dumps({key: value for key, value in record.items() if key != "rows"})
    RECORD.write_text(f'{head[:-1]}, "rows": [\n{lines}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    write_record()
