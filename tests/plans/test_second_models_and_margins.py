"""Second models and margins: what is read, and where a plan with them ends. By hand."""

from __future__ import annotations

from typing import Any

import pytest

from estimator.engines.engine import Limit
from estimator.errors import InputError
from estimator.plans.margins import Margin
from estimator.plans.plan import parse_plan
from estimator.plans.resolve import resolve
from estimator.plans.second_model import SecondModel, check_vocabulary, plain, scoring_models

SMALL = "smollm2-135m"


def test_one_model_scores_or_several() -> None:
    one: Any = scoring_models(SMALL)
    assert one == SecondModel(model=SMALL) == scoring_models([SMALL])
    several = scoring_models([SMALL, {"model": "a", "dtype": "nf4"}])
    assert plain(several) == [{"model": SMALL}, {"model": "a", "dtype": "nf4"}]
    assert (plain(one), plain("copy"), plain(())) == ({"model": SMALL}, "copy", ())
    assert len(scoring_models([SMALL] * 8)) == 8  # type: ignore[arg-type]
    for count in (0, 9):
        with pytest.raises(InputError, match=f"reward_model is a list of {count}; give 1 to 8 models"):
            scoring_models([SMALL] * count)


def test_a_vocabulary_may_lack_what_pads_it() -> None:
    """128 embeddings for each of 8 processes of a host."""
    check_vocabulary("reference", 1001, 1001 + 1023)
    with pytest.raises(InputError, match="reference has a vocabulary of 1,000 and is given the token ids"):
        check_vocabulary("reference", 1000, 1000 + 1024)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"trainer": "trl-dpo", "prompt_seq": 64}, "prompt_seq: 64 leaves no completion of seq: 64"),
        ({"trainer": "sentence-transformers", "anchor_seq": 65}, "anchor_seq: 65 does not go with seq: 64"),
        (
            {"trainer": "sentence-transformers", "matryoshka_dims": [577, 8]},
            "matryoshka_dims: 577 does not go with emb",
        ),
        ({"trainer": "trl-dpo", "reference": {"model": SMALL, "device": "cuda"}}, "reference.device: cuda does not go"),
        (
            {"trainer": "trl-gkd", "teacher": "qwen2.5-0.5b"},
            "teacher: qwen2.5-0.5b has a vocabulary of 151,936",
        ),
        ({"trainer": "trl-dpo", "reference": "smol"}, "reference: "),
    ],
    ids=str,
)
def test_what_does_not_go_together(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as refused:
        resolve(parse_plan({"model": SMALL, "seq": 64, **keys}))
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize(
    ("text", "margin"),
    [
        (None, Margin()),
        ("0", Margin(nbytes=0)),
        (" 0.0 % ", Margin(nbytes=0)),
        ("0MiB", Margin(nbytes=0)),
        ("5%", Margin(share=0.05)),
        ("99.5 %", Margin(share=0.995)),
        ("500MiB", Margin(nbytes=500 << 20)),
    ],
)
def test_margins(text: str | None, margin: Margin) -> None:
    assert Margin.parse(text) == margin


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("100%", "is more than the prediction"),
        (5, "is no text; write it like '5%'"),
        ("much", "is no share and no size"),
    ],
)
def test_what_is_no_margin(text: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Margin.parse(text)


def test_what_a_margin_keeps() -> None:
    """Of bytes, a share of what is uncertain, or the answer's own; the tightest limit has least left."""
    wide, narrow = Limit("process", 600, 1000, 400), Limit("dirty", 100, 450, 100)
    assert [margin.left(wide, 0.5) for margin in (Margin(), Margin(share=0.25), Margin(nbytes=70))] == [200, 300, 330]
    assert Margin().tightest((wide, narrow), 0.5) == wide
    assert Margin(nbytes=0).tightest((wide, narrow), 0.5) == narrow
    unlimited = Limit("process", 600, None, 400)
    assert Margin().tightest((unlimited, narrow), 0.5) == unlimited
