"""Loading: the resident set of a process that calls ``from_pretrained``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from estimator.errors import InputError
from estimator.moments.loading import MERGED, loading, unknown
from estimator.moments.options import RunOptions
from estimator.moments.weights import weights_of
from estimator.plans.plan import parse_plan
from estimator.plans.resolve import resolve
from estimator.witnesses.loading import measured
from tests.cases.small_models import write_config

RECORD = Path(__file__).parents[2] / "docs" / "measured" / "moments.json"
CONFIG = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_key_value_heads": 4}
SMALL, LARGE = {"num_hidden_layers": 2, "vocab_size": 4000}, {"num_hidden_layers": 14, "vocab_size": 32000}
LORA = {"method": "lora"}
CASES: dict[str, dict[str, Any]] = {
    "float32": {"dtype": "float32"},
    "bfloat16": {"dtype": "bfloat16"},
    "nf4": {"dtype": "nf4", **LORA},
    "nf4 of float32": {"dtype": "nf4", "rest_dtype": "float32", **LORA},
    "int8": {"dtype": "int8", **LORA},
}


def write_checkpoint(folder: Path, sizes: dict[str, int], dtype: str, shard: str) -> None:
    """A Llama with random weights, in safetensors files."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**CONFIG, **sizes)).to(getattr(torch, dtype))
    model.save_pretrained(folder, max_shard_size=shard)


def write_mixture(folder: Path) -> None:
    """A Qwen3 MoE with random weights, in float32. Its file has the experts one by one."""
    import torch
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 512, "intermediate_size": 512, "moe_intermediate_size": 512, "num_experts": 32}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 64}
    config = Qwen3MoeConfig(**sizes, **heads, num_hidden_layers=11, vocab_size=8000)
    Qwen3MoeForCausalLM(config).save_pretrained(folder)


def compared(folder: Path, keys: dict[str, Any], **block: Any) -> tuple[dict[str, int], dict[str, int], int]:
    """Bytes that are predicted and measured, and those of the files."""
    resolved, options = resolve(parse_plan({"model": str(folder), **keys})), RunOptions(**block)
    (moment,) = loading(resolved, options, weights_of(resolved))
    base = resolved.step.base
    wanted = resolved.plan.dtype if base is None else base.dtype
    seen = measured(folder, wanted, "" if base is None else base.format, options.disable_mmap)
    predicted = {"peak": moment.bytes, "peak_anonymous": moment.held}
    return predicted, seen, sum(file.stat().st_size for file in folder.glob("*.safetensors"))


@pytest.mark.share(24)
@pytest.mark.extra("quantised")
@pytest.mark.parametrize("case", CASES)
def test_resident_set(case: str, tmp_path: Path) -> None:
    """Witness: measurement, within 12 MiB: what the process takes besides, of a checkpoint of 150 MB."""
    write_checkpoint(tmp_path, SMALL, "float32", "50GB")
    predicted, seen, _ = compared(tmp_path, CASES[case])
    for name, nbytes in predicted.items():
        assert abs(nbytes - seen[name]) < 12 * 2**20, (name, nbytes, seen[name])


@pytest.mark.witness
@pytest.mark.extra("quantised")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shard", ["50GB", "300MB"])
def test_checkpoints_of_a_gib(dtype: str, shard: str, tmp_path: Path) -> None:
    """Witness: measurement, within 3 % of the files' bytes; ``docs/measured/moments.json`` has the last run's."""
    layers = LARGE["num_hidden_layers"] if dtype == "float32" else 32
    write_checkpoint(tmp_path, {**LARGE, "num_hidden_layers": layers}, dtype, shard)
    rows = []
    for case, keys in CASES.items():
        predicted, seen, files = compared(tmp_path, keys)
        rows.append({"case": case, "files": files, "predicted": predicted, "seen": seen})
        for name, nbytes in predicted.items():
            assert abs(nbytes - seen[name]) < 0.03 * files, (case, name, nbytes, seen[name])
    note(f"loading {dtype} {shard}", rows)


@pytest.mark.witness
@pytest.mark.extra("trace")
@pytest.mark.parametrize("shard", ["50GB", "300MB"])
def test_files_of_a_gib_that_are_read(shard: str, tmp_path: Path) -> None:
    """Witness: measurement, within 3 % of the files' bytes."""
    write_checkpoint(tmp_path, LARGE, "float32", shard)
    rows = []
    for case in ("float32", "bfloat16"):
        predicted, seen, files = compared(tmp_path, {"dtype": case}, disable_mmap=True, max_shard_size=shard)
        peaks = {"predicted": {"peak": predicted["peak"]}, "seen": {"peak": seen["peak"]}}
        rows.append({"case": case, "files": files, **peaks})  # no thread runs, and reads, while a file is read
        assert abs(predicted["peak"] - seen["peak"]) < 0.03 * files, (case, predicted, seen)
    note(f"reading float32 {shard}", rows)


@pytest.mark.witness
@pytest.mark.extra("trace")
def test_a_mixture_of_experts(tmp_path: Path) -> None:
    """Witness: measurement, within 3 % of the file's bytes. Experts are joined, which makes copies."""
    write_mixture(tmp_path)
    rows = []
    for case in ("float32", "bfloat16"):
        predicted, seen, files = compared(tmp_path, {"dtype": case, "runtime": "torch-cpu"})
        rows.append({"case": case, "files": files, "predicted": predicted, "seen": seen})
        for name, nbytes in predicted.items():
            assert abs(nbytes - seen[name]) < 0.03 * files, (case, name, nbytes, seen[name])
    note("loading experts", rows)


@pytest.mark.extra("trace")
def test_model_types_whose_experts_are_joined() -> None:
    """Witness: transformers' own table of conversions."""
    from transformers import conversion_mapping
    from transformers.core_model_loading import MergeModulelist
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    joined = [
        name
        for name, entries in conversion_mapping._build_checkpoint_conversion_mapping().items()
        if name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        and any(isinstance(step, MergeModulelist) for entry in entries for step in getattr(entry, "operations", ()))
    ]
    assert sorted(joined) == sorted(MERGED)


def note(name: str, rows: list[dict[str, Any]]) -> None:
    """Write what was measured into the record."""
    from datetime import date

    import torch
    import transformers

    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    record["versions"] = {"torch": torch.__version__, "transformers": transformers.__version__}
    record["date"] = date.today().isoformat()
    record[name] = rows
    RECORD.write_text(json.dumps(record, indent=1) + "\n")


@pytest.mark.share(8)
@pytest.mark.extra("trace")
@pytest.mark.parametrize(("dtype", "shard"), [("float32", "50GB"), ("float32", "40MB"), ("bfloat16", "40MB")])
def test_files_that_are_read(dtype: str, shard: str, tmp_path: Path) -> None:
    """Witness: measurement, within 12 MiB. Nothing is mapped."""
    write_checkpoint(tmp_path, SMALL, "float32", shard)
    predicted, seen, files = compared(tmp_path, {"dtype": dtype}, disable_mmap=True, max_shard_size=shard)
    assert predicted["peak"] == predicted["peak_anonymous"] > files
    assert abs(predicted["peak"] - seen["peak"]) < 12 * 2**20, (predicted, seen)


@pytest.mark.share(12)
def test_a_folder_without_weights(tmp_path: Path) -> None:
    """It is no traceback."""
    with pytest.raises(InputError, match="the model was not loaded"):
        measured(tmp_path, "float32")


def test_experts_that_files_may_have_one_by_one(tmp_path: Path) -> None:
    """Witness: transformers' module, which has one parameter for the gates and ups of all experts of a layer, and one
    for their downs. A model without experts has none."""
    small = {"model_type": "qwen3_moe", "num_hidden_layers": 2, "num_experts": 4, "num_experts_per_tok": 2}
    found = {}
    for name, config in (("experts", small), ("dense", {"model_type": "qwen3", "num_hidden_layers": 2})):
        model = write_config(tmp_path / name, config)
        found[name] = [one.name for one in weights_of(resolve(parse_plan({"model": model}))).experts]
    layers = [f"model.layers.{i}.mlp.experts.{part}" for i in range(2) for part in ("gate_up_proj", "down_proj")]
    assert sorted(found["experts"]) == sorted(layers)
    assert found["dense"] == []


LARGEST, HEAD = 2 * 2048 * 8192, 2 * 128256 * 2048
"""Bytes in bfloat16 of Llama 3.2 1B's largest linear layer, and of its embedding, which is the head, too."""
ON_A_GPU: dict[str, tuple[dict[str, Any], dict[str, Any], int, int]] = {
    "as in the file": ({}, {}, 0, 0),
    "cast": ({}, {"checkpoint_dtype": "float32"}, 2 * 1_235_814_400, 0),
    "cast one by one": ({}, {"device_map": "auto", "checkpoint_dtype": "float32"}, HEAD + 3 * LARGEST, 0),
    "nf4": ({"dtype": "nf4", **LORA}, {}, 0, LARGEST),
    "nf4 and a cast": ({"dtype": "nf4", **LORA}, {"checkpoint_dtype": "float32"}, HEAD, LARGEST),
    "int8": ({"dtype": "int8", **LORA}, {}, LARGEST, 2 * LARGEST),
}


@pytest.mark.parametrize(("keys", "block", "held", "work"), ON_A_GPU.values(), ids=ON_A_GPU)
def test_what_a_gpu_gets_weight_by_weight(keys: dict[str, Any], block: dict[str, Any], held: int, work: int) -> None:
    """By hand, from what the module's docstring cites: what the host holds beside the mapped files, of which four
    threads read, and what the GPU holds beside the model while the largest weight is quantised."""
    resolved = resolve(parse_plan({"model": "llama-3.2-1b", "device": "rtx-4090", **keys}))
    weights = weights_of(resolved)
    host, device = loading(resolved, RunOptions(**block), weights)
    assert (host.where, device.where) == ("host", "device")
    assert host.held == held
    assert host.droppable == (4 if "checkpoint_dtype" in block else 2) * 1_235_814_400
    assert device.bytes - weights.nbytes == work


@pytest.mark.parametrize(("shard", "parameter"), [("50GB", 4 + 4), ("1GB", 4 + 2)])
def test_what_a_host_holds_of_files_that_are_read(shard: str, parameter: int) -> None:
    """By hand: one file's bytes and its tensors; of several files all tensors, and what they are cast to."""
    resolved = resolve(parse_plan({"model": "llama-3.2-1b", "device": "rtx-4090"}))
    options = RunOptions(disable_mmap=True, checkpoint_dtype="float32", max_shard_size=shard)
    host = loading(resolved, options, weights_of(resolved))[0]
    assert (host.bytes, host.droppable) == (parameter * 1_235_814_400, 0)
    assert ("its tensors" in host.why) is (shard == "50GB")


def test_whose_loading_has_no_rule() -> None:
    def why(**keys: Any) -> str:
        resolved = resolve(parse_plan(keys))
        return unknown(resolved, weights_of(resolved))

    assert why(model="llama-3.2-1b", dtype="nf4", **LORA) == why(model="mixtral-8x7b") == ""
    assert why(model="mixtral-8x7b", dtype="nf4", **LORA) == "the experts of mixtral and dtype: nf4"
    assert why(model="llama-4-scout") == "the experts of llama4_text"


def test_experts_are_cast_one_by_one_and_joined_on_the_gpu() -> None:
    """By hand: of Mixtral's weights, embedding and head are the largest, then an expert's gate and up."""
    resolved = resolve(parse_plan({"model": "mixtral-8x7b", "device": "h100-80gb"}))
    weights, options = weights_of(resolved), RunOptions(device_map="auto", checkpoint_dtype="float32")
    host, device = loading(resolved, options, weights)
    assert host.held == 2 * (2 * 32000 * 4096 + 2 * 28672 * 4096)
    assert device.bytes - weights.nbytes == 8 * 2 * 28672 * 4096
    assert "experts joined" in host.why
    plain = resolve(parse_plan({"model": "llama-3.2-1b"}))
    assert "experts joined" not in loading(plain, RunOptions(), weights_of(plain))[0].why


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"dtype": "float32"}, "weights are cast from the files' bfloat16 to float32"),
        ({"dtype": "bfloat16", "device": "rtx-4090"}, "weights are copied from the mapped files"),
        (
            {"dtype": "nf4", "method": "lora", "rest_dtype": "float32"},
            "weights are read in bfloat16, cast to float32 and quantised to nf4 one after the other",
        ),
        (
            {"dtype": "nf4", "method": "lora", "rest_dtype": "bfloat16"},
            "weights are read in bfloat16, quantised to nf4 one after the other",
        ),
    ],
)
def test_it_says_what_happens_to_weights(keys: dict[str, Any], words: str) -> None:
    resolved = resolve(parse_plan({"model": "llama-3.2-1b", **keys}))
    host = loading(resolved, RunOptions(checkpoint_dtype="bfloat16"), weights_of(resolved))[0]
    assert words in host.why


@pytest.mark.parametrize(
    ("block", "keys", "readers"),
    [
        ({"name": "fsdp2", "world_size": 4}, {}, 4),
        ({"name": "fsdp2", "world_size": 16}, {}, 8),
        ({"name": "fsdp1", "world_size": 16}, {"processes_per_host": 2}, 2),
        ({"name": "fsdp2", "world_size": 4}, {"cpu_ram_efficient_loading": True}, 1),
        ({"name": "ddp", "world_size": 2}, {}, 2),
    ],
    ids=str,
)
def test_every_process_of_a_host_loads(
    block: dict[str, Any], keys: dict[str, Any], readers: int, tmp_path: Path
) -> None:
    """Witness: the source: pages of files are the same for all, what ``from_pretrained`` casts is each one's own."""
    plan = {"model": write_config(tmp_path, {}), "dtype": "float32", "sharding": block}
    options = RunOptions(checkpoint_dtype="bfloat16", **keys)
    resolved = resolve(parse_plan({**plan, "run": {**keys, "checkpoint_dtype": "bfloat16"}}))
    one, all_of_them = loading(resolved, options, weights_of(resolved))
    assert (one.where, one.beside, all_of_them.where, all_of_them.beside) == ("host", False, "host", True)
    assert one.held == 2 * one.droppable > 0
    assert (all_of_them.droppable, all_of_them.held) == (one.droppable, readers * one.held)
    assert all_of_them.why.endswith(f"of which {'one reads' if readers == 1 else 'each reads'} the weights")


def test_saving_of_a_sharded_model_has_no_rule(tmp_path: Path) -> None:
    from estimator import estimate

    plan = {"model": write_config(tmp_path, {}), "dtype": "float32", "seq": 8, "run": {}}
    alone = {one.moment for one in estimate(plan).run_moments}
    for name, gathered in (("fsdp2", True), ("ddp", False)):
        result = estimate({**plan, "sharding": {"name": name, "world_size": 2}})
        assert ({one.moment for one in result.run_moments} == alone) is not gathered
        assert any("saving has no rule with sharding" in one for one in result.warnings) is gathered
