"""What heads are called and given. Witness: the classes of the installed transformers."""

from __future__ import annotations

from inspect import signature

import pytest

from estimator.programs.heads import HEADS

transformers = pytest.importorskip("transformers")
FAMILIES = {
    "causal-lm": "llama", "seq2seq-lm": "t5", "speech-seq2seq": "whisper", "ctc": "wav2vec2", "image-text": "gemma3",
    "image-classification": "vit", "audio-classification": "whisper",
}  # fmt: skip


@pytest.mark.parametrize("name", HEADS)
def test_a_head_is_that_of_a_class(name: str) -> None:
    """The auto class makes one of that name, which takes what the loop hands to it; decoders alone have caches."""
    head, config = HEADS[name], transformers.AutoConfig.for_model(FAMILIES.get(name, "bert"))
    made = getattr(transformers, head.auto_class)._model_mapping[type(config)]
    assert made.__name__.endswith(head.ending)
    taken = signature(made.forward).parameters
    assert {one.name for one in (*head.labels, *head.prompts)} <= set(taken)
    assert not head.labels or head.decodes == ("use_cache" in taken)  # without labels there is no loss of a decoder's
    assert head.masked == (head.text and name != "causal-lm")  # the reference step of a causal model has no mask
