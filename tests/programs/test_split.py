"""Programs of one of the processes that split a model's weights, by transformers' plans."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from estimator.errors import InputError
from estimator.plans import recorded_programs
from estimator.plans.plan import parse_plan
from estimator.plans.resolve import resolve
from estimator.programs.program_files import load_together
from estimator.programs.shipped import shipped_config
from estimator.programs.split import Split
from estimator.steps.sharding.tensor_parallel import TensorParallel
from estimator.steps.step import run
from tests.cases.release_steps import config_of

FILES = sorted(recorded_programs.shipped_folder().glob("*.json"))
SPLIT = [path for path in FILES if load_together(path)[0].tp_plan]
REFUSED = {"cohere.qk-norm", "gemma3_text.gemma-3-1b"}
"""Where transformers' module stops: at norms of all heads, and at half a head."""
HEADS_ARE_HIDDEN = {"gpt_neox.default", "gpt_neox.sequential", "gptj.gpt-j-6b", "phi.qk-norm", "qwen2_vl_text.default"}
"""Heads have the hidden size together, so one symbol stands for both."""
SHARED_EXPERTS_ARE_WHOLE = {"glm4_moe_lite.default"}
"""Transformers' plan splits the routed experts alone, and one symbol stands for the width of both."""
TOTALS = (
    *("parameters", "buffers", "gradients", "optimizer", "saved", "trainable_parameters", "total_parameters"),
    *("communicated", "moments"),
)


@pytest.mark.share(24)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_plan_is_that_of_the_class(path: Path) -> None:
    """Witness: the installed transformers."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from estimator.recorder.hugging_face import HuggingFaceModel

    assert load_together(path)[0].tp_plan == HuggingFaceModel(config_of(path), "the config").tp_plan


@pytest.mark.share(40)
@pytest.mark.parametrize("path", SPLIT, ids=lambda path: path.stem)
def test_totals_are_those_of_the_module_with_parts_of_its_weights(path: Path, tmp_path: Path) -> None:
    """Witness: the real module, which runs on the meta device with parts of its weights. What modules of the plan
    exchange is the same rule on both sides; measured steps are the witness of that (``cases/tensor_parallel.py``).
    """
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from estimator.recorder.hugging_face import recorded_config

    raw = config_of(path)
    (tmp_path / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    ours = resolve(parse_plan({"model": str(tmp_path), "batch": 2, "seq": 19, "dtype": "float32"}))
    step = ours.step._replace(sharding=TensorParallel(world_size=2, tp=2))
    found = []
    for one in (shipped_config(load_together(path), raw, "the config"), recorded_config(raw, "the config")):
        try:
            sizes = one.sizes(lambda _: 0, step, 2, 19)
            totals = run(step, sizes, ours.plan.method.build(one, "float32"), 2, 19)
            found.append({name: getattr(totals, name) for name in TOTALS})
        except InputError as error:
            found.append(str(error))
    if path.stem in REFUSED:
        assert "has no rule for this model" in found[0] or "does not divide" in found[0]
        assert "the model does not run" in found[1]
    elif path.stem in HEADS_ARE_HIDDEN | SHARED_EXPERTS_ARE_WHOLE:
        assert "has no rule for this model" in found[0]
        assert not isinstance(found[1], str)
    else:
        assert found[0] == found[1]


def test_parts_of_parameters() -> None:
    """What ``distribute_tensor`` gives the first of four processes, of sizes that do not divide too."""
    plan = {
        "layers.*.q": "colwise",
        "layers.*.o": "rowwise",
        "layers.*.e.gate_up": "packed_colwise",
        "layers.*.e.packed": "packed_rowwise",
        "embed": "embedding_rowwise",
        "layers.*.norm": "replicated_with_grad_allreduce",
    }
    split = Split.of(plan, 4, "llama")
    assert split is not None
    assert split.part("layers.11.q.weight", (10, 6)) == (3, 6)
    assert split.part("layers.11.q.bias", (10,)) == (3,)
    assert split.part("layers.0.o.weight", (6, 10)) == (6, 3)
    assert split.part("layers.0.o.bias", (6,)) == (6,)
    assert split.part("layers.0.e.gate_up", (8, 20, 6)) == (8, 6, 6)
    assert split.part("layers.0.e.packed", (8, 6, 20)) == (8, 6, 6)
    assert split.part("embed.weight", (101, 6)) == (26, 6)
    assert split.part("layers.0.norm.weight", (16,)) == (16,)
    assert split.part("norm.weight", (6,)) == (6,)
    assert [split.is_whole(name) for name in ("embed.weight", "layers.0.q.weight", "norm.weight")] == [
        True,
        False,
        False,
    ]
    assert Split.of(plan, 1, "llama") is None


def test_a_built_in_model_is_split_without_torch() -> None:
    from tests.helpers.processes import LIBRARIES, run_without

    script = (
        "import estimator\n"
        "result = estimator.estimate(model='llama-3.1-8b', seq=256, sharding={'tp': 8})\n"
        "assert result.total_parameters == 8030261248\n"
        "try:\n    estimator.estimate(model='llama-3.1-8b', seq=256, sharding={'tp': 3})\n"
        "except estimator.InputError as error:\n    print(error)\n"
    )
    done = run_without(LIBRARIES, script)
    assert done.stderr == ""
    assert "does not divide the model's 8 heads of keys and values" in done.stdout
