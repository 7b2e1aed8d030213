"""Models with other heads than a causal language model's, and with an encoder beside the decoder."""

from __future__ import annotations

import json
import logging
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import estimator  # noqa: E402
from estimator.answers.formulas import compile_plan  # noqa: E402
from estimator.answers.inverse import QUESTIONS, solve  # noqa: E402
from estimator.errors import InputError  # noqa: E402
from estimator.plans.margins import NO_MARGIN  # noqa: E402
from estimator.plans.plan import parse_plan  # noqa: E402
from estimator.plans.resolve import resolve  # noqa: E402
from estimator.programs.heads import SPEECH, TEXT_TO_TEXT, head_of  # noqa: E402
from estimator.programs.program import SPAN, Call, Drop, Enter, Exit, Made, Ref, fold  # noqa: E402
from estimator.show.commands import INVERSE  # noqa: E402
from tests.cases.images_and_audio import ALONE, GEMMA, MIXED, VIDEOS, WITH_IMAGES, steps  # noqa: E402
from tests.cases.small_models import write_config  # noqa: E402
from tests.helpers.measured_steps import assert_step  # noqa: E402

BERT = {
    "model_type": "bert", "vocab_size": 500, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 6,
    "num_attention_heads": 4, "max_position_embeddings": 128,
}  # fmt: skip
ROBERTA = {**BERT, "model_type": "roberta", "architectures": ["RobertaForSequenceClassification"], "num_labels": 1}
DEBERTA = {
    **BERT, "model_type": "deberta-v2", "architectures": ["DebertaV2ForSequenceClassification"], "num_hidden_layers": 3,
    "relative_attention": True, "position_buckets": 32, "pos_att_type": ["p2c", "c2p"], "share_att_key": True,
}  # fmt: skip
DEBERTA_1 = {**DEBERTA, "model_type": "deberta", "architectures": ["DebertaForSequenceClassification"]}
MODERNBERT = {
    **BERT, "model_type": "modernbert", "num_hidden_layers": 4, "local_attention": 16, "pad_token_id": 0,
    "cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
LLAMA = {
    "model_type": "llama", "architectures": ["LlamaForSequenceClassification"], "vocab_size": 500, "hidden_size": 64,
    "intermediate_size": 96, "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 2,
    "num_labels": 3, "pad_token_id": 0,
}  # fmt: skip
T5 = {
    "model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True, "vocab_size": 500,
    "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 5, "num_decoder_layers": 6, "num_heads": 4,
    "decoder_start_token_id": 0, "pad_token_id": 0,
}  # fmt: skip
BART = {
    "model_type": "bart", "architectures": ["BartForConditionalGeneration"], "is_encoder_decoder": True,
    "vocab_size": 500, "d_model": 64, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "encoder_layers": 5,
    "decoder_layers": 6, "encoder_attention_heads": 4, "decoder_attention_heads": 4, "max_position_embeddings": 128,
}  # fmt: skip
NLLB = {**BART, "model_type": "m2m_100", "architectures": ["M2M100ForConditionalGeneration"], "encoder_layers": 3}
SHORT = {**NLLB, "model_type": "bigbird_pegasus", "architectures": ["BigBirdPegasusForConditionalGeneration"]}
LONGFORMER = {
    **BERT, "model_type": "longformer", "architectures": ["LongformerForMaskedLM"], "attention_window": 8,
    "num_hidden_layers": 3, "pad_token_id": 1,
}  # fmt: skip
ALL_LINEAR = {"name": "lora", "r": 4, "target_modules": "all-linear"}
STEPS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (BERT, {"head": "sequence-classification"}),
    (BERT, {"head": "masked-lm", "attention": "eager"}),
    (BERT, {"head": "question-answering", "method": "lora"}),
    (BERT, {"head": "token-classification", "checkpointing": "layer", "method": "lora"}),
    (BERT, {"head": "token-classification", "attention_mask": True}),
    (ROBERTA, {}),
    (DEBERTA, {"attention": "eager"}),
    (DEBERTA_1, {"attention": "eager", "method": "lora"}),
    (MODERNBERT, {"head": "masked-lm"}),
    (ROBERTA, {"dtype": "bfloat16"}),
    (LLAMA, {}),
    (LLAMA, {"checkpointing": "layer"}),
    (T5, {"target_seq": 9}),
    (T5, {"target_seq": 9, "attention": "eager", "attention_mask": True}),
    (T5, {"target_seq": 9, "task": "infer"}),
    (T5, {"target_seq": 9, "checkpointing": "layer"}),
    (T5, {"target_seq": 9, "checkpointing": "layer", "method": "lora"}),
    (T5 | {"num_labels": 3, "eos_token_id": 1}, {"head": "sequence-classification"}),
    ({**NLLB, "encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0}, {"target_seq": 9, "method": "lora"}),
    (SHORT, {"target_seq": 9}),
    (LONGFORMER, {}),
    (BART, {"target_seq": 9, "autocast": "bfloat16"}),
    ({**BART, "vocab_size": 3000, "decoder_layers": 8}, {"target_seq": 60, "task": "infer"}),
    (BART, {"target_seq": 9, "checkpointing": "layer", "method": "lora"}),
    (BERT, {"head": "sequence-classification", "freeze": "base_model"}),
    (MODERNBERT, {"head": "token-classification", "dtype": "int8", "method": ALL_LINEAR}),
    (T5, {"target_seq": 9, "dtype": "nf4", "method": ALL_LINEAR}),
    (T5, {"target_seq": 9, "dtype": "int8", "method": ALL_LINEAR}),
    (T5, {"target_seq": 9, "freeze": "encoder"}),
]


@pytest.mark.share(8)
@pytest.mark.parametrize(("config", "keys"), STEPS, ids=lambda x: x.get("model_type") or str(x))
def test_a_measured_step(config: dict[str, Any], keys: dict[str, Any], tmp_path: Path) -> None:
    assert_step(config, {"batch": 2, "seq": 24, "dtype": "float32", **keys}, tmp_path)


@pytest.mark.share(32)
@pytest.mark.parametrize(("config", "plan"), [case[1:] for case in steps()], ids=[case[0] for case in steps()])
def test_a_measured_step_with_images_or_audio(config: dict[str, Any], plan: dict[str, Any], tmp_path: Path) -> None:
    assert_step(config, plan, tmp_path)


def test_a_thousand_images_of_a_batch_are_the_most(tmp_path: Path) -> None:
    """Qwen's modules go through them one by one, in Python."""
    model = tmp_path / "config.json"
    model.write_text(json.dumps(WITH_IMAGES["qwen2_vl"][0]))
    plan = {"model": str(model), "seq": 120, "image_size": "64x56", "images": 2, "batch": 501}
    with pytest.raises(InputError, match="a batch of 1,002 images, which the model goes through one by one; 1,000 are"):
        estimator.estimate(plan)


@pytest.mark.share(9)
@pytest.mark.parametrize("name", MIXED)
def test_a_measured_step_with_images_of_several_sizes(name: str, tmp_path: Path) -> None:
    """Sizes follow from the file beside the model, whose processor cuts and resizes images."""
    config, _ = WITH_IMAGES[name]
    sizes, processor = MIXED[name]
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "preprocessor_config.json").write_text(json.dumps(processor))
    keys = {"batch": 2, "seq": 400, "dtype": "float32", "image_size": sizes, "method": "lora"}
    result = assert_step(config, keys, tmp_path)
    images = result.to_dict()["images"]
    assert len(images["tokens"]) == sizes.count(",") + 1
    assert images["text_tokens"] == 400 - sum(images["tokens"]) - sum(images["around"])


@pytest.mark.share(8)
def test_a_measured_step_with_large_images_that_are_compared_with_padding(tmp_path: Path) -> None:
    """SmolVLM reads which images are zeros, padding, and leaves them out. No real image is small."""
    config, keys = WITH_IMAGES["smolvlm"]
    vision = {**config["vision_config"], "image_size": 608, "patch_size": 16}
    assert_step(
        {**config, "vision_config": vision}, {**keys, "seq": 400, "batch": 1, "dtype": "float32", "images": 1}, tmp_path
    )


@pytest.mark.share(6)
@pytest.mark.parametrize("name", VIDEOS)
def test_a_measured_step_with_a_video(name: str, tmp_path: Path) -> None:
    """Two frames are one patch in time; a frame that is left alone is there twice."""
    config = {**WITH_IMAGES[name][0], "video_token_id": 8}
    (tmp_path / "model").mkdir()
    limits = {"size": {"shortest_edge": 64, "longest_edge": 16000}, "patch_size": 4}
    (tmp_path / "model" / "video_preprocessor_config.json").write_text(json.dumps(limits))
    result = assert_step(config, {"batch": 2, "dtype": "float32", **VIDEOS[name]}, tmp_path)
    assert {one.key for one in result.assumptions} >= {"video_frames"}


@pytest.mark.share(9)
@pytest.mark.parametrize(
    ("question", "name", "keys", "value"),
    [
        ("max-images", "llava", {}, 3), ("max-image-size", "qwen2_vl", {"images": 2}, 76),
        ("max-target-seq", "", {"seq": 24}, 19),
    ],
)  # fmt: skip
def test_the_largest_value_that_fits(
    question: str, name: str, keys: dict[str, Any], value: int, tmp_path: Path
) -> None:
    """Its estimate fits the budget, and that of the next value does not."""
    config, _ = WITH_IMAGES[name] if name else (BART, {})
    asked = {"model": write_config(tmp_path / "model", config), "seq": 300, "dtype": "float32", **keys}
    key = QUESTIONS[question]

    def process(n: int) -> int:
        return estimator.estimate(**asked, **{key: (n, n) if key == "image_size" else n}).bytes["process"]

    solution = solve(question, {**asked, "budget": f"{process(value)}B"}, margin=NO_MARGIN)
    assert solution.key == key
    assert process(solution.answer) <= solution.budget_bytes < process(solution.answer + 1)
    assert process(solution.answer) == process(value)
    assert set(INVERSE) == set(QUESTIONS)


def test_images_without_room_in_a_row_are_no_answer(tmp_path: Path) -> None:
    """What binds is then that the plan is refused."""
    keys = {"model": write_config(tmp_path / "model", WITH_IMAGES["llava"][0]), "seq": 40, "budget": "900GiB"}
    solution = solve("max-images", keys)
    assert (solution.answer, solution.result.images["text_tokens"]) == (2, 8)
    assert "seq: 40 is less than the 48 tokens of a row's images" in str(solution.refusal)


@pytest.mark.share(3)
def test_the_tokens_of_the_decoder_are_a_symbol(tmp_path: Path) -> None:
    """The formula at other lengths is the estimate at these."""
    plan = {"model": write_config(tmp_path / "model", BART), "batch": 2, "seq": 24, "target_seq": 9}
    compiled = compile_plan(parse_plan(plan))
    assert {"B", "S", "T"} <= set(dict(compiled.moments)["lm_head backward"].symbols())
    for target in (31, 120):  # beyond 32 tokens the attention kernel's blocks are others
        values = compiled.function([m for _, m in compiled.moments])({"B": 3, "S": 17, "T": target})
        other = estimator.estimate(**{**plan, "batch": 3, "seq": 17, "target_seq": target})
        assert max(values[1]) == other.bytes["peak_above_resident"]


def test_layers_of_both_stacks_are_counted(tmp_path: Path) -> None:
    resolved = resolve(parse_plan({"model": write_config(tmp_path / "model", BART), "batch": 2, "seq": 24}))
    sizes = resolved.sizes()
    assert [(stack.path, stack.depth) for stack in sizes.program.stacks] == [
        ("model.encoder.layers.{}", 3), ("model.decoder.layers.{}", 6)
    ]  # fmt: skip
    assert [(run.start, run.count, run.stack) for run in sizes.runs] == [(0, 2, 0), (2, 1, 0), (3, 6, 1)]


@pytest.mark.parametrize(
    ("architectures", "encoder", "head"),
    [
        (["BertForMaskedLM"], False, "masked-lm"), (["T5ForConditionalGeneration"], True, "seq2seq-lm"),
        (["MarianMTModel"], True, "seq2seq-lm"), (["T5WithLMHeadModel"], True, "seq2seq-lm"),
        (["GPTWithLMHeadModel"], False, "causal-lm"),
        (["LlavaForConditionalGeneration"], False, "causal-lm"), (["LlamaForCausalLM"], False, "causal-lm"),
        (None, False, "causal-lm"), ([7], False, "causal-lm"), ("BertForMaskedLM", False, "causal-lm"),
    ],
)  # fmt: skip
def test_the_head_is_what_the_architectures_say(architectures: Any, encoder: bool, head: str) -> None:
    assert head_of({"architectures": architectures, "is_encoder_decoder": encoder}) == head


@pytest.mark.parametrize(
    ("config", "head"),
    [
        ({"model_type": "t5"}, "seq2seq-lm"), ({"model_type": "whisper"}, "speech-seq2seq"),
        ({"model_type": "t5", "is_encoder_decoder": False}, "causal-lm"), ({"model_type": "moshi"}, "causal-lm"),
        ({"model_type": "llava", "text_config": {}}, "causal-lm"),
    ],
)  # fmt: skip
def test_an_encoder_decoder_need_not_say_what_its_class_does(config: dict[str, Any], head: str) -> None:
    """T5's class is an encoder-decoder where its config.json does not say so; Moshi's and LLaVA's are none."""
    assert head_of({"architectures": ["T5ForConditionalGeneration"], **config}) == head


@pytest.mark.parametrize(
    ("config", "keys", "words"),
    [
        (BERT, {"head": "masked-lm", "loss": "chunked"}, "loss has no rule with head: masked-lm; leave it out"),
        (BERT, {"head": "masked-lm", "target_seq": 4}, "target_seq does not go with head: masked-lm"),
        (BERT, {"head": "masked-lm", "dtype": "awq", "method": "lora"}, "dtype: awq has no rule with head: masked-lm"),
        (T5, {"checkpointing": "attention"}, "whose attention makes other tensors within checkpoints of layers"),
        (T5, {"method": "freeze", "top_layers": 1}, "method: freeze has no rule with head: seq2seq-lm"),
        (
            {**WITH_IMAGES["paligemma"][0], "text_config": {"model_type": "gemma2", **GEMMA}},
            {"images": 1, "attention": "sdpa"}, "refuses attention: sdpa .Gemma2Model does not support an attention im",
        ),
        (T5, {"head": "causal-lm"}, "has an encoder beside its decoder; set head: seq2seq-lm"),
        (
            LLAMA, {"head": "masked-lm"},
            "llama with head: masked-lm; it has causal-lm, sequence-classification, token-classification, question-",
        ),
        (
            {"model_type": "pp_lcnet", "architectures": ["PPLCNetForImageClassification"]},
            {"image_size": "64x64", "seq": 2048},
            "PPLCNetForImageClassification makes no loss; set task: infer",
        ),
        (
            {"model_type": "speecht5", "architectures": ["SpeechT5ForSpeechToText"], "is_encoder_decoder": True}, {},
            "speecht5 has an encoder beside its decoder; set head: speech-seq2seq, which counts both",
        ),
        (ALONE["vit"][0], {"head": "ctc"}, "of model_type vit with head: ctc; it has image-classification$"),
        (T5, {"freeze": "feature_encoder"}, "does not go with the model, which has embeddings, encoder; name"),
        (ALONE["wav2vec2"][0], {"freeze": "embeddings"}, "which has feature_encoder, base_model; name these"),
        (BERT, {"head": "masked-lm", "freeze": "encoder"}, "which has embeddings, base_model; name these"),
        (
            {"model_type": "whisper", "architectures": ["WhisperForConditionalGeneration"], "is_encoder_decoder": True},
            {"head": "seq2seq-lm"}, "has no model of model_type whisper with head: seq2seq-lm",
        ),
        (
            {"model_type": "qwen2_audio", "text_config": {**LLAMA, "model_type": "qwen2"}},
            {"head": "seq2seq-lm"}, "head: seq2seq-lm does not go with qwen2_audio, whose language model takes",
        ),
        (
            {**WITH_IMAGES["llava"][0], "vision_config": {"model_type": "clip", "num_hidden_layers": 1025}},
            {"image_size": "28x28"}, "1,025 layers; 1,024 are the most that a model is built with",
        ),
        (
            {key: T5[key] for key in T5 if key != "decoder_start_token_id"}, {},
            "decoder_start_token_id is missing; add it to the config",
        ),
        ({"model_type": "swin", "depths": [1000, 25]}, {}, "1,025 layers; 1,024 are the most"),
        ({"model_type": "swin", "num_labels": 10**9}, {}, "1,000,000,000 labels; 100,000 are the most"),
        ({**BERT, "num_hidden_layers": 1, "max_window_layers": 9999, "n_layers": 1025}, {}, "1,025 layers"),
    ],
)  # fmt: skip
def test_refusals(config: dict[str, Any], keys: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words.replace("?", ".")):
        estimator.estimate(**{"model": write_config(tmp_path / "model", config), "seq": 24, **keys})


@pytest.mark.parametrize(
    ("config", "refused"),
    [({"model_type": "gptj", "n_layer": 2, "sub_configs": {"text_config": 5}}, True), (ALONE["clip"][0], False)],
    ids=["a property", "a token outside the vocabulary"],
)
def test_transformers_logs_nothing(config: dict[str, Any], refused: bool, tmp_path: Path) -> None:
    """Asks what its logger would print beside the answer, or beside the one line of a refusal."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    logger = logging.getLogger("transformers")
    logger.addHandler(handler)
    try:
        with pytest.raises(InputError) if refused else nullcontext():
            estimator.estimate(write_config(tmp_path / "model", config))
    finally:
        logger.removeHandler(handler)
    assert records == []


def test_a_refusal_does_not_depend_on_what_was_asked_before(tmp_path: Path) -> None:
    keys: dict[str, Any] = {"model": write_config(tmp_path / "model", T5), "seq": 24}
    estimator.estimate(**keys)
    with pytest.raises(InputError, match="whose attention makes other tensors within checkpoints"):
        estimator.estimate(**keys, checkpointing="attention")


def _layer(path: str, given: int, *more: int, result: int) -> list[Any]:
    made = Made(result, (2,), "float32")
    refs = tuple(map(Ref, (given, *more)))
    return [Enter(path, refs, ()), Call("add", refs, (), (made,)), Exit(path, (Ref(result),)), Drop(given)]


def test_fold_of_two_stacks() -> None:
    """What the decoder's layers take of the encoder's last one has a slot outside; each stack has places of its own."""
    events = [
        Call("embedding", (), (), (Made(10, (2,), "float32"),)),
        *_layer("e.0", 10, result=11), *_layer("e.1", 11, result=12)[:-1],
        Call("embedding", (), (), (Made(20, (2,), "float32"),)),
        *_layer("d.0", 20, 12, result=21), *_layer("d.1", 21, 12, result=22), *_layer("d.2", 22, 12, result=23),
        Call("norm", (Ref(23),), (), (Made(30, (2,), "float32"),)),
        Drop(12),
    ]  # fmt: skip
    parts, new = fold(events, [["e.0", "e.1"], ["d.0", "d.1", "d.2"]])
    assert [(s.path, s.depth) for s in parts["stacks"]] == [("e.{}", 2), ("d.{}", 3)]
    assert parts["layers"] == (0, 1, 2, 2, 2)
    assert (new(10), new(11), new(20), new(21), new(23)) == (0, SPAN, 3 * SPAN, 4 * SPAN, 6 * SPAN)
    assert 0 < new(12) < SPAN
    assert len(parts["between"]) == 1
    assert [e.slot for e in parts["after"] if isinstance(e, Drop)] == [new(12)]


def test_config_classes_that_are_encoder_decoders() -> None:
    """Witness: the defaults of the config classes."""
    for model_type in (*TEXT_TO_TEXT, *SPEECH):
        assert transformers.AutoConfig.for_model(model_type).is_encoder_decoder is True, model_type
