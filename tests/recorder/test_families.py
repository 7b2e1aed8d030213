"""A family's program, recorded at random sizes, is what the real module gives at others."""

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import random
from types import SimpleNamespace
from typing import Any

from estimator.errors import InputError
from estimator.programs.config_values import default_list, letters_of
from estimator.programs.family import Family
from estimator.programs.program import SPAN, Body, Call, Exit, Program, Ref, Stack
from estimator.programs.program_files import read, written
from estimator.programs.setting import Setting
from estimator.programs.shared_tensors import placed, shared_slots
from estimator.programs.shipped import Shipped, shipped_config
from estimator.programs.step import Step
from estimator.programs.substitution import LAYER, sizes_symbol
from estimator.recorder import families
from estimator.recorder.families import Case, classes, record_families
from estimator.recorder.families.classes import structure_of
from estimator.recorder.families.configs import foreign_keys, list_makers, resolved_keys
from estimator.recorder.families.draws import drawn_config
from estimator.recorder.families.fitting import difference
from estimator.recorder.hugging_face import HuggingFaceModel, recorded_config
from estimator.recorder.lifting import _with_number, lifted

SMALL = {"vocab_size": 211, "hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 6}
CONFIGS: list[dict[str, Any]] = [
    {**SMALL, "model_type": "llama", "num_key_value_heads": 2, "intermediate_size": 160},
    {**SMALL, "model_type": "gpt_neox", "intermediate_size": 160, "rotary_pct": 0.5},
    {"model_type": "gpt2", "vocab_size": 211, "n_embd": 96, "n_layer": 3, "n_head": 6},
]


def record_family(raw: dict[str, Any], case: Case | None = None) -> Family:
    """The program of a structure in one case."""
    (found,) = record_families(raw, [case or Case()]).values()
    assert isinstance(found, Family)
    return found


@pytest.fixture(scope="module", params=CONFIGS, ids=lambda raw: raw["model_type"])
def recorded(request: pytest.FixtureRequest) -> tuple[Family, dict[str, Any]]:
    raw = request.param
    family = record_family(raw)
    return read(written(family), "family.json"), raw


@pytest.mark.share(16)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_program_from_a_file_is_the_module_s(recorded: tuple[Family, dict[str, Any]], dtype: str) -> None:
    family, raw = recorded
    live, shipped = HuggingFaceModel(raw, "config"), Shipped([family], raw, "config")
    assert shipped.attention == live.attention
    step = Step(family=raw["model_type"], dtype=dtype)
    assert shipped.at(step, 3, 17) == live.at(step, 3, 17)
    assert shipped.modules() == live.modules()


@pytest.mark.share(18)
def test_switches_and_rates_are_those_of_the_module(recorded: tuple[Family, dict[str, Any]]) -> None:
    """Witness: a recording of each config. Every switch and every rate has the other value once, and all have."""
    family, raw = recorded
    assert family.switches
    assert family.rates
    config = family.config(raw)
    other: dict[str, Any] = {key: not config.get(key) for key in family.switches}
    other |= {key: 0.0 if config.get(key) else 0.1 for key in family.rates}
    step = Step(family=raw["model_type"], dtype="float32")
    for changed in (*({key: value} for key, value in other.items()), other):
        own = {**raw, **changed}
        assert Shipped([family], own, "config").at(step, 3, 17) == HuggingFaceModel(own, "config").at(step, 3, 17), (
            changed
        )


SHARED = {
    **SMALL,
    "model_type": "gemma3n_text",
    "num_hidden_layers": 8,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 64,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": 211,
    "num_kv_shared_layers": 4,
    "layer_types": ["sliding_attention", "full_attention"] * 4,
    "activation_sparsity_pattern": [0.0] * 8,
}


def test_what_layers_share_is_lifted_out_of_them_and_placed_again() -> None:
    """Witness: a recording. Its last four layers take keys and values of the third and the fourth."""
    recorded = HuggingFaceModel(SHARED, "config").at(Step(family="gemma3n_text", dtype="bfloat16"), 2, 9)
    assert recorded.looks_back
    outside = lifted(recorded)
    assert len(shared_slots(outside)) == 4
    assert not outside.looks_back
    assert len(outside.bodies) == 6  # two that keep theirs, two that leave them, two that share them
    assert placed(outside) == recorded


INDEXERS = ["full", "full", *["full", "shared", "shared"] * 4, "full", "shared"]
CHOOSING: dict[str, Any] = {
    **SMALL,
    "model_type": "glm_moe_dsa",
    "num_hidden_layers": 16,
    "num_key_value_heads": 6,
    "intermediate_size": 160,
    "moe_intermediate_size": 64,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "q_lora_rank": 32,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "index_topk": 4,
    "index_head_dim": 16,
    "index_n_heads": 2,
    "mlp_layer_types": ["dense"] * 2 + ["sparse"] * 14,
    "indexer_types": INDEXERS,
}


def test_what_layers_of_a_run_share_stays_in_the_run() -> None:
    """Witness: a recording. A layer that chooses tokens hands them to the two layers after it."""
    recorded = HuggingFaceModel(CHOOSING, "config").at(Step(family="glm_moe_dsa", dtype="bfloat16"), 2, 9)
    assert recorded.looks_back
    runs = lifted(recorded, far=False)
    assert runs.looks_back
    assert len(shared_slots(runs)) == 1
    assert runs.layers == (0, 1, 2, 3, 4, 5, *[3, 4, 5] * 2, 3, 4, 6, 7)
    assert placed(runs) == placed(lifted(recorded)) == recorded


def test_whole_runs_of_layers_that_share_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classes, "probe", lambda *_: None)
    raw = {**CHOOSING, "index_topk_freq": 3}
    found, lists, _ = structure_of(raw, Case(), random.Random(0), power=False)
    assert lists["indexer_types"] == {"period": ["full"]}  # what the class makes of a config without both
    assert found.chosen == [0, 1, 2, 3, 4, 5, 6, 7, 14, 15]
    assert (found.depth, found.chosen_by) == (10, 3)
    for depth, more in ((0, 0), (10, 0), (11, 1), (13, 1), (14, 2)):
        raw = drawn_config(found, random.Random(1), depth).raw
        layers = sorted([*found.chosen, *range(8, 8 + 3 * more)])
        assert raw["num_hidden_layers"] == len(layers)
        assert raw["indexer_types"] == [INDEXERS[i] for i in layers]
        assert raw["mlp_layer_types"] == ["dense"] * 2 + ["sparse"] * (len(layers) - 2)
        assert raw["first_k_dense_replace"] == 3  # the class's, of layers that are all recorded


def test_one_head_of_keys_and_values_and_a_part_of_each_head_rotated_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classes, "probe", lambda *_: None)
    part = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
    raw = {
        **SMALL,
        "num_key_value_heads": 2,
        "num_global_key_value_heads": 1,
        "head_dim": 16,
        "global_head_dim": 32,
        "model_type": "gemma4_text",
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        "rope_parameters": {"full_attention": part, "sliding_attention": part},
    }
    found, _, _ = structure_of(raw, Case(), random.Random(0), power=False)
    assert found.structure["num_global_key_value_heads = 1"] is True
    draw = drawn_config(found, random.Random(1), 3)
    assert draw.raw["num_global_key_value_heads"] == draw.values["num_global_key_value_heads"] == 1
    assert draw.values["groups_of_num_global_key_value_heads"] == draw.values["K"] * draw.values["G"]
    assert draw.raw["rope_parameters"].keys() == {"full_attention", "sliding_attention"}
    for rope in draw.raw["rope_parameters"].values():
        assert int(draw.values["D"] * rope["partial_rotary_factor"]) == draw.values["R"]


def test_null_that_a_class_reads_as_a_number_is_that_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """``MiMoV2FlashConfig`` writes 1.0 for ``routed_scaling_factor: null``."""
    monkeypatch.setattr(classes, "probe", lambda found, *_: found.structure.update(routed_scaling_factor=1.0))
    raw = {**SMALL, "model_type": "mimo_v2_flash", "routed_scaling_factor": None}
    for given, nulls in ((raw, {"routed_scaling_factor": "1"}), ({**raw, "routed_scaling_factor": 1.0}, {})):
        found, _, _ = structure_of(given, Case((Setting(attention="eager"),)), random.Random(0), power=False)
        assert found.nulls == nulls


def test_what_differs_first_in_words() -> None:
    def program(*ops: str, layers: tuple[int, ...] = (0,), **more: Any) -> Program:
        events = (*(Call(op, (), (), ()) for op in ops), Exit("{}", (Ref(SPAN),)))
        return Program((), (), (), (), {}, {}, (), (Body(events, len(ops)),), layers, (), **more)

    one = program("exp", "neg")
    assert difference(one, program("exp", "sin")).startswith("Call(op='neg'")
    assert difference(one, program("exp", "sin")).endswith(f"for {Call('sin', (), (), ())}")
    assert difference(one, program("exp", "neg", layers=(1,))) == "layers: 0 for 1"
    assert difference(one, program("exp", "neg", dtype="float16")) == "dtype"
    assert difference(one, program("exp", "neg")) == "its parts"


def test_a_layers_number_is_a_symbol() -> None:
    layer = sizes_symbol(LAYER)
    assert _with_number([(0, (7, "a")), (1, (7, "a")), (2, (7, "a"))]) == [(layer, (7, "a"))] * 3
    assert _with_number([(0, 5), (2, 5)]) == [(0, 5), (2, 5)]
    assert _with_number([(0,)]) == [(0,)]


def test_layers_of_several_stacks_are_not_lifted() -> None:
    with pytest.raises(InputError, match="a program of several stacks"):
        lifted(SimpleNamespace(stacks=(Stack("encoder.{}", 2), Stack("decoder.{}", 2))))  # type: ignore[arg-type]


def test_programs_alone_are_those_that_none_for_all_settings_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cases that are not named are those that programs are shipped for."""
    alone: list[Case] = []

    def record_alone(_: Any, cases: list[Case]) -> dict[Case, Any]:
        alone[:] = cases
        return dict.fromkeys(cases, InputError("no program"))

    monkeypatch.setattr(families, "record_for_all_settings", lambda raw: {})
    monkeypatch.setattr(families, "record_families", record_alone)
    named = [Case(), Case(fixed=("B",))]
    assert list(families.record(SHARED, named)) == alone == named
    assert list(families.record(SHARED)) == alone == families.cases_of(SHARED)


def test_a_text_has_a_letter_for_each_layer() -> None:
    assert letters_of("MM*", ["linear", "linear", "full"]) == {"M": "linear", "*": "full"}
    assert letters_of("MMM", ["linear", "linear", "full"]) is None
    assert letters_of("MM", ["linear", "linear", "full"]) is None
    rule = {"text": "pattern", "letters": {"M": "linear", "*": "full"}}
    assert default_list(rule, {"pattern": "M*M"}, 0, "kinds") == ["linear", "full", "linear"]
    with pytest.raises(InputError, match=r"pattern is 'M-', which has other letters than 'M\*'"):
        default_list(rule, {"pattern": "M-"}, 0, "kinds")


@pytest.mark.share(3)
def test_its_numbers_are_those_of_the_class(recorded: tuple[Family, dict[str, Any]]) -> None:
    family, raw = recorded
    ours, theirs = shipped_config([family], raw, "config"), recorded_config(raw, "config")
    for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert ours.windowed_layers == theirs.windowed_layers


@pytest.mark.share(3)
def test_another_structure_and_another_step_are_refused(recorded: tuple[Family, dict[str, Any]]) -> None:
    family, raw = recorded
    activation = "activation_function" if raw["model_type"] == "gpt2" else "hidden_act"
    with pytest.raises(InputError, match=f"{activation}: 'relu', and the program was recorded for"):
        Shipped([family], {**raw, activation: "relu"}, "config")
    shipped = Shipped([family], raw, "config")
    step = Step(family=raw["model_type"], dtype="bfloat16")
    with pytest.raises(InputError, match="B is 1, for which this program was not recorded"):
        shipped.at(step, 1, 17)
    with pytest.raises(InputError, match="no program was recorded for training with attention: eager"):
        shipped.at(Step(family=raw["model_type"], dtype="bfloat16", attention="eager"), 3, 17)


@pytest.mark.share(12)
def test_a_window_makes_two_programs() -> None:
    raw = {**SMALL, "model_type": "mistral", "num_key_value_heads": 2, "intermediate_size": 160, "sliding_window": 16}
    families = [record_family(raw, Case(beyond_window=beyond)) for beyond in (False, True)]
    live, shipped = HuggingFaceModel(raw, "config"), Shipped(families, raw, "config")
    step = Step(family="mistral", dtype="float32")
    for seq in (9, 15, 16, 17, 40):
        assert shipped.at(step, 2, seq) == live.at(step, 2, seq)


@pytest.mark.share(6)
def test_a_window_that_no_draw_leaves_is_not_harmless() -> None:
    """Qwen2-VL's calls are the same until a sequence is longer than the window; its layers are others."""
    rope = {"rope_type": "default", "mrope_section": [4, 6, 6]}
    raw = {**SMALL, "model_type": "qwen2_vl_text", "hidden_size": 192, "rope_parameters": rope}
    found, _, _ = structure_of(raw, Case(), random.Random(0), power=False)
    assert found.structure["use_sliding_window"] is False
    assert found.structure["hidden_size / num_attention_heads = 32"] is True


def test_a_case_in_words() -> None:
    assert str(Case(interfaces=True)) == "training in all settings"
    assert str(Case()) == "training with attention: sdpa, device: cpu, dtype: float32"


FOREIGN: dict[str, dict[str, Any]] = {
    "qwen3_5_text": {
        "reads": ["full_attention_interval", "partial_rotary_factor"],
        "fills": {"full_attention_interval": ["layer_types"], "partial_rotary_factor": ["rope_parameters"]},
    },
    "mimo_v2_flash": {"reads": ["sliding_window_size"], "sets": {"sliding_window": "sliding_window_size + 1"}},
    "glm4_moe_lite": {"reads": []},
}


@pytest.mark.parametrize("model_type", FOREIGN)
def test_what_a_class_does_with_keys_that_it_does_not_keep(model_type: str) -> None:
    """Read off the classes' own code (``__post_init__`` of each ``configuration_*.py`` of transformers 5.24)."""
    assert foreign_keys((), {"model_type": model_type}, ()) == FOREIGN[model_type]


def test_keys_of_which_a_class_makes_lists_that_a_config_gives() -> None:
    """``GlmMoeDsaConfig``: without ``indexer_types`` the pattern stands for them, and else the frequency and offset."""
    own = resolved_keys({"model_type": "glm_moe_dsa"})
    makers = {"index_topk_freq": 3, "index_skip_topk_offset": 4, "index_topk_pattern": None}
    assert list_makers({**CHOOSING, **makers, "moe_layer_freq": 1}, own) == {*makers}
    listless = {key: value for key, value in CHOOSING.items() if not isinstance(value, list)}
    assert list_makers({**listless, **makers}, own) == set()
    assert list_makers({**CHOOSING, "index_topk_freq": 1}, own) == set()  # as without it
    interval = {"model_type": "qwen3_next", "num_hidden_layers": 4, "layer_types": ["full_attention"] * 4}
    for every, found in ((4, set()), (2, {"full_attention_interval"})):
        assert list_makers({**interval, "full_attention_interval": every}, {}) == found


def test_a_key_without_a_value_that_is_tried_fills_in_lists() -> None:
    """The class of GLM-5 makes a list of a text of two letters; read off its code."""
    found = foreign_keys((), {"model_type": "glm_moe_dsa"}, ())
    assert found["fills"]["index_topk_freq"] == ["indexer_types"]
    assert "indexer_types" in found["fills"]["index_topk_pattern"]
    assert found["sets"] == {"n_routed_experts": "num_experts"}
