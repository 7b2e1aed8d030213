"""Exported formulas. The witness asked everywhere is the ledger run with plain integers
(``estimate``), which shares the rules but not the symbols, the regimes or the exporters."""

from __future__ import annotations

import ast
import json
import random
import re
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from estimator import estimate
from estimator.answers.formulas import COMPONENTS, Compiled, compile_plan, regimes
from estimator.engines.devices import context_bytes, find
from estimator.export.algebra import sympy_source, to_sympy
from estimator.export.code_python import quoted, to_functions
from estimator.export.components import EXPORTED, exported, plan_line
from estimator.export.formula import formula
from estimator.export.json_trees import to_record
from estimator.export.latex import about, to_latex
from estimator.export.plain_text import to_text
from estimator.ledger.sizes import registered, value_of
from estimator.plans.plan import Plan, parse_plan
from estimator.show.cli import main
from tests.cases.exported_formulas import PLANS
from tests.cases.small_models import write_config

SYMBOLIC = ("tied lora", "untied full eager", "ia3 bias", "gpu")
"""Plans also asked with symbolic sizes, which take longer."""
each_kind = pytest.mark.parametrize(
    ("name", "symbolic"), [*((name, False) for name in PLANS), *((name, True) for name in SYMBOLIC)]
)


@cache
def named(name: str) -> Plan:
    return parse_plan(PLANS[name])


@cache
def compiled(name: str, symbolic: bool, index: int = 0) -> Compiled:
    """The formulas of one regime, by default those for batch and sequence from 2 on (past the window)."""
    return compile_plan(named(name), regimes(named(name))[index], symbolic)


def python(name: str, symbolic: bool, components: Sequence[str]) -> str:
    every = [compiled(name, symbolic, i) for i in range(len(regimes(named(name))))]
    return to_functions([formula(every[0], component, *every[1:]) for component in components])


def points(plan: Plan) -> list[tuple[int, int]]:
    """Batches and sequences in every regime, and beside each of their borders."""
    rng = random.Random(plan.model)
    window = regimes(plan)[0].window or 192
    seqs = [1, 2, window - 1, window, window + 1, rng.randrange(3, 64), rng.randrange(192, 9000)]
    return [(1, s) for s in seqs] + [(rng.randrange(2, 9), s) for s in seqs]


def ledger(plan: Plan, batch: int, seq: int) -> dict[str, int]:
    sizes = dict(estimate(plan.model_copy(update={"batch": batch, "seq": seq})).bytes)
    if plan.runtime == "torch-cuda":  # a T4's two cuBLAS workspaces and its context
        sizes["allocated_at_least"] = sizes["peak"] + 2 * 8_519_680
        sizes["process_at_least"] = sizes["allocated_at_least"] + context_bytes(find("t4"))[0]
    return sizes


def functions(source: str) -> dict[str, Any]:
    namespace: dict[str, Any] = {}
    exec(compile(source, "formula.py", "exec"), namespace)
    return namespace


@pytest.mark.share(24)
@pytest.mark.consistency
@each_kind
def test_python_functions_equal_the_ledger(name: str, symbolic: bool) -> None:
    """Witness: the ledger run with integers, at every regime and its borders."""
    components = ["saved", "peak"] if symbolic else exported(named(name))
    found = functions(python(name, symbolic, components))
    for batch, seq in points(named(name)):
        expected = ledger(named(name), batch, seq)
        for component in components:
            assert found[f"{component}_bytes"](batch, seq) == expected[component], (component, batch, seq)


@pytest.mark.share(3)
@pytest.mark.consistency
@pytest.mark.parametrize(("name", "head_dim"), [("tied lora", 16), ("gpu", 64)])
def test_python_function_takes_other_architectures(name: str, head_dim: int, tmp_path: Path) -> None:
    """Witness: the ledger run with the integers of a model that the formula was not made from."""
    plan = named(name)
    found = functions(python(name, True, ["saved", "peak"]))
    config = {
        "model_type": "llama",
        "vocab_size": 997,
        "hidden_size": 96,
        "intermediate_size": 136,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": head_dim,
        "tie_word_embeddings": True,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    sizes = {"V": 997, "H": 96, "I": 136, "K": 2, "G": 3, "D": head_dim, "L": 4, "r": 5}
    if plan.runtime == "torch-cuda":  # which has the head's size filled in
        del sizes["D"]
    keys = {"dtype": plan.dtype, "device": plan.device, "method": {"name": "lora", "r": 5}}
    other = parse_plan({"model": str(tmp_path), **keys})
    for batch, seq in [(1, 1), (1, 40), (3, 1), (2, 333)]:
        expected = ledger(other, batch, seq)
        assert found["saved_bytes"](batch, seq, **sizes) == expected["saved"]
        assert found["peak_bytes"](batch, seq, **sizes) == expected["peak"]


def test_python_function_stands_alone() -> None:
    """The source needs no import, and refuses sizes it does not hold for."""
    source = python("tied lora", True, ["saved"])
    assert "import" not in source
    saved = functions(source)["saved_bytes"]
    for wrong in ({"B": 0, "S": 1}, {"B": 1, "S": 0}, {"B": 1, "S": 1, "L": 3}, {"B": 1, "S": 1, "K": 1}):
        with pytest.raises(ValueError, match="must be a whole number from"):
            saved(**wrong)


def test_a_model_name_cannot_end_a_comment() -> None:
    """Sources stay valid, and run nothing, whatever the path of the model is."""
    hostile = named("tied lora").model_copy(update={"model": '"""\nraise SystemExit\n\\'})
    one = replace(compiled("tied lora", False), plan=hostile)
    functions(sympy_source([formula(one, "saved")]))
    f = formula(one, "saved")
    assert "\nraise" not in to_latex([f], about(f))
    line = plan_line(hostile)
    assert ast.literal_eval(f'"""{quoted(line)}"""') == line


def test_a_folder_s_name_runs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / '"""; raise SystemExit; \\'
    folder.mkdir()
    write_config(folder, {})
    for kind in ("python", "sympy"):
        assert main(["formula", str(folder), "--component", "saved", "--format", kind]) == 0
        assert "saved_bytes" in functions(capsys.readouterr().out)


@pytest.mark.consistency
@pytest.mark.parametrize("symbolic", [False, True], ids=["numbers", "symbolic"])
def test_sympy_equals_the_ledger(symbolic: bool) -> None:
    """Witness: the ledger run with integers."""
    import sympy

    for component in ("saved", "peak"):
        f = formula(compiled("tied lora", symbolic), component)
        expression = to_sympy(f)
        assert all(s.is_positive and s.is_integer for s in expression.free_symbols)
        assert {s.name for s in expression.free_symbols} == {"B", "S", *f.values}
        for batch, seq in [(2, 2), (3, 150), (4, 700), (2, 4096)]:
            values = {"B": batch, "S": seq, **f.values}
            value = expression.xreplace({s: sympy.Integer(values[s.name]) for s in expression.free_symbols})
            assert value.doit() == ledger(named("tied lora"), batch, seq)[component]


def summed(rows: list[dict[str, Any]], values: dict[str, int]) -> Fraction:
    total = Fraction(0)
    for row in rows:
        term = Fraction(row["coefficient"])
        for name, exponent in row["powers"].items():
            term *= value_of(registered(name), values) ** exponent
        total += term
    return total


@pytest.mark.share(6)
@pytest.mark.consistency
@each_kind
def test_records_add_up_to_the_ledger(name: str, symbolic: bool) -> None:
    """Witness: the ledger run with integers; the records are read back as a program would read them."""
    batch, seq = 3, 5000
    expected = ledger(named(name), batch, seq)
    for component in exported(named(name)):
        record = json.loads(json.dumps(to_record(formula(compiled(name, symbolic), component))))
        values = {"B": batch, "S": seq, **record["values"]}
        total = summed(record["terms"], values)
        total += max((summed(m["terms"], values) for m in record.get("moments", [])), default=0)
        assert total == expected[component], component
        assert set(record["symbols"]) >= {name for row in record["terms"] for name in row["powers"]}


def test_depth_is_filled_in_where_layers_differ() -> None:
    """A formula with the depth filled in says so; one with the depth open says from where on it holds."""
    differing = formula(compiled("some layers", True), "saved")
    assert differing.fixed == {"L": 16}
    assert "L = 16 (layers)" in to_text([differing])
    alike = formula(compiled("tied lora", True), "saved")
    assert not alike.fixed
    assert alike.condition == "B >= 2 and S >= 2 and K >= 2 and G >= 2 and L >= 4"


@pytest.mark.consistency
def test_text_lists_terms_moments_and_symbols() -> None:
    """Witness: the ledger run with integers, for the formulas that the text shows."""
    plan = named("tied lora")
    text = to_text([formula(compiled("tied lora", False), name) for name in ("peak", "saved")])
    assert "where B >= 2 and S >= 2:" in text
    assert "S            sequence length in tokens" in text
    assert "per token" in text
    line = next(line for line in text.splitlines() if line.strip().startswith("loss backward"))
    shown = line.split("loss backward")[1].split("#")[0].strip()
    expected = estimate(plan.model_copy(update={"batch": 4, "seq": 2048}))
    assert expected.peak_at == "loss backward"
    assert eval(shown, {"B": 4, "S": 2048}) == expected.bytes["peak_above_resident"]


def test_latex_pieces() -> None:
    """The fragment balances, names the moments and explains its symbols."""
    formulas = [formula(compiled("window", True), name) for name in exported(named("window"))]
    text = to_latex(formulas, about(formulas[0]))
    for piece in (r"M_{\text{saved}} &=", r"n_{kv}", r"\max \left\{", r"\text{loss backward}", r"S \ge 4096", "b_{q}"):
        assert piece in text, piece
    assert r"$L$ & 32 & 4 & 10000000 & layers \\" in text
    assert text.count(r"\begin{") == text.count(r"\end{")
    assert text.count(r"\left") == text.count(r"\right")
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")


def read(latex: str) -> str:
    """An expression of LaTeX as Python's."""
    names = {
        "b_{q}": "query_block",
        "b_{k}": "key_block",
        "d_{ff}": "I",
        "n_{kv}": "K",
        "d_{h}": "D",
        "d": "H",
        "g": "G",
    }
    text = re.sub(r"M_\{\\text\{([a-z ]+)\}\}", lambda m: m[1].replace(" ", "_"), latex)
    text = re.sub(r"b_\{[qk]\}|d_\{ff\}|n_\{kv\}|d_\{h\}|\b[dg]\b", lambda m: names[m[0]], text)
    text = re.sub(r"\^\{(\d+)\}", r"**\1", re.sub(r"\\(left|right|(?=min))", "", text))
    return re.sub(r"(?<=[\w)]) +(?=[\w(])", "*", text)


@pytest.mark.consistency
@pytest.mark.parametrize("symbolic", [False, True], ids=["numbers", "symbolic"])
def test_latex_read_back_equals_the_ledger(symbolic: bool) -> None:
    """Witness: the ledger run with integers; each equation is read and computed, in order."""
    batch, seq = 3, 5000
    formulas = [formula(compiled("tied lora", symbolic), name) for name in ("saved", "peak")]
    values: dict[str, int] = {"B": batch, "S": seq, **formulas[1].values}
    for equation in re.findall(r"\\begin\{align\*\}\n(.*?)\n\\end\{align\*\}", to_latex(formulas, []), re.DOTALL):
        name, _, text = equation.split(r" \\" + "\n" + r"& \text{for }")[0].partition(" &= ")
        rows = re.findall(r"^& (.*?) && \\text\{.*\} \\\\$", text, re.MULTILINE)
        if "cases" in text:  # the definition of a function
            values[read(name)] = value_of(registered(read(name)), values)
        else:
            values[read(name)] = max(eval(read(row), {}, values) for row in rows or [text])
    expected = ledger(named("tied lora"), batch, seq)
    assert {name: values[name] for name in ("saved", "resident", "peak")} == {
        name: expected[name] for name in ("saved", "resident", "peak")
    }


@pytest.mark.consistency
def test_command_prints_each_format(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Witness: the ledger run with integers, through the command line."""
    command = ["formula", "llama-3.2-1b", "--method", "lora", "--r", "16"]
    expected = ledger(named("tied lora"), 2, 777)

    assert main([*command, "--component", "all", "--format", "json"]) == 0
    records = json.loads(capsys.readouterr().out)
    assert [r["component"] for r in records] == exported(named("tied lora"))

    path = tmp_path / "formula.py"
    saved = [*command, "--symbolic", "--component", "saved", "--format", "python", "--output", str(path)]
    assert main(saved) == 0
    assert capsys.readouterr().out == ""
    assert functions(path.read_text())["saved_bytes"](2, 777) == expected["saved"]

    assert main([*command, "--format", "sympy", "--component", "peak"]) == 0
    built = functions(capsys.readouterr().out)
    assert built["peak_bytes"].subs({built["B"]: 2, built["S"]: 777}) == expected["peak"]

    assert main([*command, "--format", "latex"]) == 0
    assert r"\begin{align*}" in capsys.readouterr().out

    assert main([*command, "--batch", "1", "--component", "saved"]) == 0
    assert "where B == 1 and S >= 2:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--output", "{tmp}/missing/f.txt"], "cannot write"),
        (["--output", "{tmp}"], "cannot write"),
        (["--component", "saves"], "invalid choice: 'saves'"),
        (["--format", "c"], "invalid choice: 'c'"),
        (["--r", "0", "--method", "lora"], "method.r"),
    ],
)
def test_wrong_input_is_one_line(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Wrong input gives exit status 2 and one line that names what is wrong."""
    assert main(["formula", "llama-3.2-1b", *(o.format(tmp=tmp_path) for o in options)]) == 2
    captured = capsys.readouterr()
    assert not captured.out
    assert captured.err.count("\n") == 1
    assert message in captured.err


def test_components_are_all_exported() -> None:
    """Every component with a formula can be exported."""
    assert set(EXPORTED) == {*COMPONENTS, "peak_above_resident", "peak", "allocated_at_least", "process_at_least"}
