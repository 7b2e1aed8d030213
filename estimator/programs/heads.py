"""What a model gives, and what a loop hands to it: inputs by their names and sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import accumulate
from math import prod
from typing import Any, Literal, NamedTuple, TypeVar

from ..ledger import Size

HeadName = Literal[
    "causal-lm",
    "masked-lm",
    "seq2seq-lm",
    "sequence-classification",
    "token-classification",
    "question-answering",
    "speech-seq2seq",
    "ctc",
    "audio-classification",
    "image-classification",
    "image-text",
    "feature-extraction",
]
CAUSAL = "causal-lm"
Part = Literal["vision", "projector", "language", "embeddings", "encoder", "feature_encoder", "base_model"]
"""A part of a model: what looks at images, what hands them to the decoder, the decoder with its head, the input
embedding of tokens, the encoder beside a decoder, the convolutions over samples of audio, all but the head."""


Placeholders = tuple[int, tuple[int, ...]]
"""The number that stands for a piece of an image, and how many of it each image of a row has."""


def places_of(placeholders: Placeholders, length: int) -> list[slice]:
    """Where in a row each image's placeholders are. There is a token of text between two images if the row has room."""
    _, counts = placeholders
    apart = int(sum(counts) + len(counts) <= length)
    starts = accumulate((n + apart for n in counts), initial=0)
    return [slice(start, start + n) for start, n in zip(starts, counts, strict=False)]


class Input(NamedTuple):
    """An input of a forward pass."""

    name: str
    """The argument of the model's ``forward``."""
    shape: tuple[str | int, ...]
    """Names of sizes, numbers, or products of both, ``2*B``: B rows, S tokens of each, T tokens of a decoder beside an
    encoder."""
    dtype: str = "int64"
    same_as: str = ""
    """The input whose very tensor it is."""
    values: tuple[tuple[int, ...], ...] = ()
    """The rows that it has for each row of the batch, where they follow from the plan."""
    placeholders: Placeholders = (0, ())
    """What each row begins with."""
    special: int | None = None
    """An id that no place has: the blank of CTC; with ``ends`` none but the last one: the end of a text."""
    ends: bool = False

    def sized(self, sizes: Mapping[str, Size]) -> tuple[Size, ...]:
        """The shape with sizes in place of their names."""

        def size(text: str) -> Size:
            factors = [int(n) if n.isdigit() else sizes[n] for n in text.split("*")]
            return prod(factors[1:], start=factors[0])

        return tuple([size(n) if isinstance(n, str) else n for n in self.shape])


T = TypeVar("T")


def batch_of(inputs: Iterable[Input], make: Callable[[Input], T]) -> dict[str, T]:
    """A batch by the names of its inputs, each of which ``make`` makes, unless it is another one."""
    batch: dict[str, T] = {}
    for one in inputs:
        batch[one.name] = batch[one.same_as] if one.same_as else make(one)
    return batch


class Head(NamedTuple):
    """What a model of transformers ends with, and the labels that it is trained with."""

    auto_class: str
    """The class whose ``from_pretrained`` people call for it."""
    ending: str
    """How the names of such classes end; empty where a name alone does not say it."""
    labels: tuple[Input, ...]
    """Without any the model makes no loss, and a trainer makes it of what the model gives."""
    prompts: tuple[Input, ...] = ()
    """What a forward pass without labels is given beside the tokens."""
    masked: bool = True
    """The batch has a padding mask, of ones where nothing is padded, as tokenizers make it."""
    text: bool = True
    """The batch has tokens."""
    media: bool = False
    """The batch has images or audio."""
    decodes: bool = False
    """The model's loss is that of a decoder's tokens, so it takes ``use_cache``, and has ``generate``."""

    @property
    def has_target(self) -> bool:
        """Whether the labels have a length of their own."""
        return any("T" in one.shape for one in self.labels)


_LABEL = (Input("labels", ("B",)),)
_SAME_IDS = Input("labels", ("B", "S"), same_as="input_ids")
HEADS: dict[str, Head] = {
    "causal-lm": Head("AutoModelForCausalLM", "ForCausalLM", (_SAME_IDS,), masked=False, decodes=True),
    "masked-lm": Head("AutoModelForMaskedLM", "ForMaskedLM", (_SAME_IDS,)),
    "seq2seq-lm": Head(
        "AutoModelForSeq2SeqLM",
        "ForConditionalGeneration",
        (Input("labels", ("B", "T")),),
        (Input("decoder_input_ids", ("B", "T")),),
        decodes=True,
    ),
    "sequence-classification": Head("AutoModelForSequenceClassification", "ForSequenceClassification", _LABEL),
    "token-classification": Head(
        "AutoModelForTokenClassification", "ForTokenClassification", (Input("labels", ("B", "S")),)
    ),
    "question-answering": Head(
        "AutoModelForQuestionAnswering",
        "ForQuestionAnswering",
        (Input("start_positions", ("B",)), Input("end_positions", ("B",))),
    ),
    "speech-seq2seq": Head(
        "AutoModelForSpeechSeq2Seq",
        "ForConditionalGeneration",
        (Input("labels", ("B", "T")),),
        (Input("decoder_input_ids", ("B", "T")),),
        masked=False,
        text=False,
        media=True,
        decodes=True,
    ),
    "ctc": Head("AutoModelForCTC", "ForCTC", (Input("labels", ("B", "T")),), masked=False, text=False, media=True),
    "audio-classification": Head(
        "AutoModelForAudioClassification", "ForAudioClassification", _LABEL, masked=False, text=False, media=True
    ),
    "image-classification": Head(
        "AutoModelForImageClassification", "ForImageClassification", _LABEL, masked=False, text=False, media=True
    ),
    "image-text": Head(
        "AutoModelForImageTextToText", "ForConditionalGeneration", (_SAME_IDS,), media=True, decodes=True
    ),
    "feature-extraction": Head("AutoModel", "", ()),
}
TEXT_TO_TEXT = (
    "bart", "bigbird_pegasus", "blenderbot", "blenderbot-small", "fsmt", "led", "longt5", "m2m_100", "marian", "mbart",
    "mt5", "mvp", "nllb-moe", "pegasus", "pegasus_x", "plbart", "prophetnet", "switch_transformers", "t5", "umt5",
)  # fmt: skip
"""Encoder-decoders of text, whose config may leave ``is_encoder_decoder`` out, since it is their class's default."""
SPEECH = ("whisper", "speech_to_text", "moonshine", "pop2piano", "speecht5")
"""Encoder-decoders whose encoder takes audio (transformers' registry ``MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES``)."""

_AUDIO = (
    "wav2vec2", "wav2vec2-bert", "wav2vec2-conformer", "hubert", "wavlm", "sew", "sew-d", "unispeech", "unispeech-sat",
    "data2vec-audio",
)  # fmt: skip
"""Model types whose ``ForSequenceClassification`` hears audio (``MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES``)."""


def head_of(raw: Mapping[str, Any]) -> str:
    """The head that a config's ``architectures`` name; that of a causal language model where they name none of these.

    ``ForConditionalGeneration`` ends the names of larger models, too, of which the decoder is answered alone.
    """
    names = raw.get("architectures")
    encodes = raw.get("is_encoder_decoder", raw.get("model_type") in (*TEXT_TO_TEXT, *SPEECH)) is True
    first = names[0] if isinstance(names, list) and names else ""
    for name, head in HEADS.items():
        if head.ending and isinstance(first, str) and first.endswith(head.ending):
            if name == "sequence-classification" and raw.get("model_type") in _AUDIO:
                return "audio-classification"
            if name != "seq2seq-lm":
                return name
            if not encodes:
                return "causal-lm"
            return "speech-seq2seq" if raw.get("model_type") in SPEECH else name
    older = isinstance(first, str) and first.endswith(("MTModel", "WithLMHeadModel"))  # Marian's, and T5's first name
    return "seq2seq-lm" if older and raw.get("is_encoder_decoder") is True else "causal-lm"
