"""What ``validate`` prints of a comparison. The comparison is written by hand."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from estimator.answers import validation
from estimator.answers.validation import Coefficient, Count, Difference, RegimeResult, Validation
from estimator.plans.plan import parse_plan
from tests.helpers.commands import output

Shown = Callable[..., list[str]]
EQUAL = (Coefficient("B S", Fraction(7), Fraction(7)), Coefficient("B", Fraction(1, 2), Fraction(1, 2)))


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Shown:
    """The lines that are printed of a comparison, without spaces."""

    def of(*regimes: RegimeResult, counts: tuple[Count, ...] = (), status: int = 0) -> list[str]:
        plan = parse_plan({"model": "smollm2-135m"})
        monkeypatch.setattr(validation, "validate", lambda *_: Validation(plan, regimes, counts))
        return [" ".join(line.split()) for line in output("validate", "smollm2-135m", status=status).splitlines()]

    return of


def test_equal(shown: Shown) -> None:
    """Bytes are said to be bytes, numbers of parameters are not; a regime is named once."""
    regime = RegimeResult("B >= 1, S >= 2", ((2, 2), (3, 21)), EQUAL, (Fraction(9), 9))
    counts = (Count("trainable_parameters", 1234, 1234), Count("buffers", 5678, 5678))
    lines = shown(regime, counts=counts)
    assert "trainable parameters 1,234 1,234 yes" in lines
    assert "buffers, bytes 5,678 5,678 yes" in lines
    assert "B >= 1, S >= 2 B S 7 7 yes" in lines
    assert "B 1/2 1/2 yes" in lines
    assert lines[0].startswith("equal for every B")
    assert not [line for line in lines if line.startswith(("equal for every B >=", "not equal"))]


def test_not_equal(shown: Shown) -> None:
    """What differs is named with its place, the layers like it, and the point; a regime that agrees is said to."""
    agrees = RegimeResult("S = 1", ((2, 1),), EQUAL, None)
    differs = RegimeResult(
        "S >= 2",
        ((2, 2), (5, 40)),
        (Coefficient("B S", Fraction(7), Fraction(8)),),
        (Fraction(90), 91),
        (
            Difference("trace", "mlp", "SiluBackward0", (2, 3), "float32", 2400, 3),
            Difference("formula", "", "add", (1,), "int64", 8, 1),
        ),
        (2, 21),
    )
    lines = shown(agrees, differs, status=1)
    assert "S >= 2 B S 7 8 no" in lines
    at = lines.index("equal for every S = 1")
    assert lines[at + 1] == "not equal for every S >= 2:"
    said = " ".join(lines[at + 2 :])
    assert "no polynomial of this degree: at B = 5, S = 40 it has 91 bytes, its other points say 90" in said
    assert "only in the trace: SiluBackward0 in mlp: [2, 3] float32, 2,400 bytes, and in 2 more places like it" in said
    assert "only in the formula: add: [1] int64, 8 bytes only" not in said
    assert "only in the formula: add: [1] int64, 8 bytes (at B = 2, S = 21;" in said
    assert lines[0] == "not equal: a rule is wrong"


def test_a_polynomial_that_only_differs_in_coefficients(shown: Shown) -> None:
    """The trace is a polynomial, so nothing is said of its degree; nor of a point where no tensor differs."""
    differs = RegimeResult("S >= 2", ((2, 2), (5, 40)), (Coefficient("B", Fraction(7), Fraction(8)),), (Fraction(9), 9))
    said = " ".join(shown(differs, status=1))
    assert "polynomial" not in said
    assert "(at B" not in said
