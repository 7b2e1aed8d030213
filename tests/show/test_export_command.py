"""What ``export`` is asked for on the command line."""

from __future__ import annotations

import pytest

from tests.helpers.commands import output


@pytest.mark.parametrize(("words", "names"), [([], "batch, seq"), (["--vars", "seq"], "seq"), (["--vars", "r"], "r")])
def test_a_function_has_the_variables_that_are_named(words: list[str], names: str) -> None:
    text = output("export", "smollm2-135m", "--method", "lora", "--to", "python", *words)
    assert f"({names})" in text
