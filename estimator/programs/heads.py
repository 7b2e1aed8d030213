"""What a model gives, and what a loop hands to it: inputs by their names and sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple, TypeVar

from ..ledger import Size

HeadName = Literal[
    "causal-lm",
    "masked-lm",
    "seq2seq-lm",
    "sequence-classification",
    "token-classification",
    "question-answering",
]


class Input(NamedTuple):
    """An input of a forward pass."""

    name: str
    """The argument of the model's ``forward``."""
    shape: tuple[str | int, ...]
    """Names of sizes, or numbers: B rows, S tokens of each, T tokens of a decoder beside an encoder."""
    dtype: str = "int64"
    same_as: str = ""
    """The input whose very tensor it is."""

    def sized(self, sizes: Mapping[str, Size]) -> tuple[Size, ...]:
        """The shape with sizes in place of their names."""
        return tuple([sizes[n] if isinstance(n, str) else n for n in self.shape])


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
    """How the names of such classes end."""
    labels: tuple[Input, ...]
    prompts: tuple[Input, ...] = ()
    """What a forward pass without labels is given beside the tokens."""
    masked: bool = True
    """The batch has a padding mask, of ones where nothing is padded, as tokenizers make it."""
    decodes: bool = False
    """The model's loss is that of a decoder's tokens, so it takes ``use_cache``."""


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
    "sequence-classification": Head(
        "AutoModelForSequenceClassification", "ForSequenceClassification", (Input("labels", ("B",)),)
    ),
    "token-classification": Head(
        "AutoModelForTokenClassification", "ForTokenClassification", (Input("labels", ("B", "S")),)
    ),
    "question-answering": Head(
        "AutoModelForQuestionAnswering",
        "ForQuestionAnswering",
        (Input("start_positions", ("B",)), Input("end_positions", ("B",))),
    ),
}


def head_of(raw: Mapping[str, Any]) -> str:
    """The head that a config's ``architectures`` name; that of a causal language model where they name none of these.

    ``ForConditionalGeneration`` ends the names of larger models, too, of which the decoder is answered alone.
    """
    names = raw.get("architectures")
    first = names[0] if isinstance(names, list) and names else ""
    for name, head in HEADS.items():
        if isinstance(first, str) and first.endswith(head.ending):
            return name if name != "seq2seq-lm" or raw.get("is_encoder_decoder") is True else "causal-lm"
    return "causal-lm"
