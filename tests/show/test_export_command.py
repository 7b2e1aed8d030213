"""What ``export`` is asked for on the command line."""

from __future__ import annotations

import pytest

from estimator.show.cli import main
from tests.helpers.commands import output


@pytest.mark.parametrize(("words", "names"), [([], "batch, seq"), (["--vars", "seq"], "seq"), (["--vars", "r"], "r")])
def test_a_function_has_the_variables_that_are_named(words: list[str], names: str) -> None:
    text = output("export", "smollm2-135m", "--method", "lora", "--to", "python", *words)
    assert f"({names})" in text


def test_a_page_has_the_dtypes_that_are_named_or_none(capsys: pytest.CaptureFixture[str]) -> None:
    """One that is not named is left out where no method has it."""
    asked = ["export", "smollm2-135m", "--to", "html", "--methods", "full", "--dtypes", "bfloat16,nf4"]
    assert main(asked) == 2
    assert "dtype: nf4 does not go with method: full" in capsys.readouterr().err
