"""Questions about exported functions whose whole answers are recorded (``tests/helpers/whole_answers.py``): functions
made up of every kind of expression in every language, and those of small models.
"""

from __future__ import annotations

import io
import itertools
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from sympy import And, Eq, Ge, Gt, Integer, Le, Lt, Max, Min, Mul, Or, Piecewise, Symbol

from estimator.answers.formulas import MANY_TOKENS, Regime, compile_plan, regimes
from estimator.errors import InputError
from estimator.export import contexts, json_trees, short, sweep, workbook
from estimator.export.algebra import sympy_source, to_sympy
from estimator.export.build import default_names, function_of, variable_names
from estimator.export.code_c import to_c
from estimator.export.code_javascript import to_javascript
from estimator.export.code_python import _array_statement, _Floats, _NumPy, evaluate, steps_at, to_numpy, to_python
from estimator.export.components import exported, plan_line, plan_summary
from estimator.export.expression import Expression
from estimator.export.formula import _range, formula
from estimator.export.function import Assignment, Function, Variable, least, most
from estimator.export.heading import filled, fixed_keys, heading, in_comment
from estimator.export.json_trees import to_json, to_record
from estimator.export.latex import about, to_latex
from estimator.export.limits import limits_of
from estimator.export.page import Choice, _devices, _need, choices_of
from estimator.export.plain_text import terms_of, to_text
from estimator.export.polynomials import Quotient, changed, definition, exact, expression_of, largest_of
from estimator.export.regimes import Steps, _tests
from estimator.export.sql import to_sql
from estimator.export.statements import wrapped
from estimator.ledger.sizes import registered, symbol
from estimator.plans.plan import Plan, parse_plan
from tests.cases.small_models import TINY, write_config
from tests.helpers.whole_answers import Each, Parts, here

Question = tuple[str, Callable[[], Parts]]
SMOL = {"model": "smollm2-135m", "batch": 2, "seq": 64}


def _or_why(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except InputError as error:
        return error


# ---- functions made up -------------------------------------------------------------------------

B, S, R = Symbol("batch"), Symbol("seq"), Symbol("r")
BLOCK, RESIDENT, ABOVE = Symbol("query_block"), Symbol("resident"), Symbol("peak_above_resident")
_SIZES = (
    Assignment("query_block", Piecewise((Integer(128), Ge(S, 768)), (Integer(64), Ge(S, 192)), (Integer(32), True)),
               "rows of a block"),
    Assignment("blocks", Quotient(S + BLOCK - 1, BLOCK), "blocks of a row"),
    Assignment("least_of", Min(512, S), "the least"),
    Assignment("idle", 3 * R, "what nothing needs"),
)  # fmt: skip
_LOSS, _FORWARD, _STEP = 12 * B * S + 70000, 4 * B * S**2 + 9 * S * (R + 3) - 5 * B, 40 * R**3 * B - S
_TOTALS = (
    Assignment("parameters", 2 * R * (R + 5) + 134515008, "all parameters"),
    Assignment("saved", Piecewise((7 * B * S, And(Eq(B, 1), Lt(S, 9))), (Quotient(5 * B * S * R, Integer(2)), Or(Eq(B,
        1),
               And(Gt(S, 40), Le(R, 4)))), (-B * S + 9 * S**2 * B**3, True), evaluate=False), "activations"),
    Assignment("optimizer", 8 * Symbol("blocks") * Symbol("least_of") * R, "states"),
    Assignment("resident", Symbol("parameters") + Symbol("optimizer") + 16, "before the step"),
    Assignment("peak_above_resident", Max(_LOSS, _FORWARD, _STEP, evaluate=False), "the most above", (
               ("loss", _LOSS), ("forward", _FORWARD), ("forward", _STEP))),
    Assignment("peak", RESIDENT + ABOVE, "the most"),
    Assignment("gradients", Piecewise((Max(B * S, R * 3, evaluate=False), Lt(S, 100)), (S, True)), "all gradients"),
)  # fmt: skip
_BOUND = 40 * B**3 * S**2 * R + 5 * S * BLOCK
_VARIABLES = (
    Variable("batch", 3, 1, 10**6, "rows"), Variable("seq", 200, 2, 10**8, "tokens"),
    Variable("r", 8, 4, 10**4, "rank, a multiple", 4),
)  # fmt: skip
COMPONENTS = ("parameters", "saved", "resident", "peak_above_resident", "peak", "gradients")
LANGUAGES: dict[str, Callable[[Function], Any]] = {
    "python": to_python, "numpy": to_numpy, "javascript": to_javascript, "c": to_c, "json": to_json,
    "latex": lambda f: to_latex([f], ["a head", *heading(f)]),
    **{name: partial(to_sql, dialect=name) for name in ("duckdb", "postgres", "bigquery", "spark")},
    "workbook": lambda f: workbook.formulas(f, lambda name: f"<{name}>"),
}  # fmt: skip


def _made_up(plan: Plan) -> Function:
    return Function(plan, _VARIABLES, _SIZES, _TOTALS, COMPONENTS, _BOUND, ("a note",), "", {"L": 3})


POINTS = [{"batch": b, "seq": s, "r": r} for b, s, r in ((1, 2, 4), (1, 50, 4), (2, 8, 8), (3, 200, 8), (1, 900, 400),
          (64, 768, 16), (2, 192, 4), (0, 5, 4), (1, 1, 4), (1, 5, 6), (10**6, 10**8, 4))]  # fmt: skip


def _languages(f: Function) -> Parts:
    return {name: _or_why(lambda write=write: write(f)) for name, write in LANGUAGES.items()}


def _values(f: Function) -> Parts:
    return {
        "values": Each([_or_why(partial(evaluate, f, one)) for one in POINTS]),
        "steps": Each([_or_why(partial(steps_at, f, one)) for one in POINTS]),
        "needed": [[step.name for step in steps] for steps in (*f.needed, f.all_needed)],
        "only": [
            _or_why(lambda names=names: f.only(names).components)
            for names in (["peak"], ["saved", "peak"], ["peek"], [])
        ],
        "about": [heading(f), fixed_keys(f), f.values],
        "bounds": [[name, least(name), most(name)] for name in "BSTMNrKGLHV"],
    }


def _parts(f: Function) -> Parts:
    """The function itself, in words."""
    return {
        "variables": f.variables,
        "sizes": [[one.name, str(one.expression), one.meaning] for one in f.sizes],
        "totals": Each([[one.name, str(one.expression), one.meaning, [[m, str(x)] for m, x in one.moments]]
                        for one in f.totals]),
        "components": f.components, "largest": str(f.largest), "notes": f.notes, "condition": f.condition,
        "fixed": f.fixed,
    }  # fmt: skip


def _sheets(f: Function) -> Parts:
    """A workbook's files, but for that which has the time."""
    book = io.BytesIO()
    with patch.object(Path, "write_bytes", lambda path, content: book.write(content)):
        workbook.write_workbook(f, Path("book.xlsx"))
    file = zipfile.ZipFile(book)
    return {
        name: file.read(name).decode()
        for name in file.namelist()
        if name.startswith(
            ("xl/worksheets/sheet", "xl/charts", "xl/drawings/", "xl/workbook", "xl/shared", "xl/styles")
        )
    }


def _long(f: Function, count: int, cases: int = 0) -> Function:
    """A function with a formula of many parts."""
    parts = [7**i * B * S + 11**i * R**2 for i in range(1, count + 1)]
    whole = sum(parts) if cases < 0 else Max(*parts, evaluate=False)
    if cases > 0:
        whole = Piecewise(*((whole + 0 if i else Integer(5), Lt(S, 10 * i + 9)) for i in range(cases)), (S, True),
                          evaluate=False)  # fmt: skip
    totals = (Assignment("peak_2", R, "its name is one of a part"), Assignment("peak", whole, "long"))
    return Function(f.plan, f.variables, (), totals, ("peak_2", "peak"), B * S)


def _books(f: Function) -> Parts:
    found: dict[str, Any] = {
        f"{count} parts, {cases} cases": _or_why(partial(LANGUAGES["workbook"], _long(f, count, cases)))
        for count, cases in ((3, 0), (90, 0), (140, 0), (90, 4), (80, -1), (160, -1), (12, -1))
    }
    variables = [Variable("seq", value, low, high, "", of) for value, low, high, of in (
        (64, 1, 10**6, 1), (1, 1, 10, 1), (2, 2, 9, 1), (256, 256, 10**6, 256), (20, 16, 33, 2), (5000, 300, 6000, 7),
        (33, 32, 10**8, 32), (15, 4, 80, 3))]  # fmt: skip
    found["points"] = Each([workbook._points(one) for one in variables])
    found["cached"] = [workbook._cached(name, {"peak": 3}) for name in ("known", "peak", "peak_1")]
    return found


def _expressions(f: Function) -> Parts:
    """Each kind of expression by itself, as it is printed in each language."""
    x, y = Symbol("x"), Symbol("y")
    kinds = [
        Integer(0), Integer(-3), Integer(2**53), Integer(2**53 - 1), Integer(2**15), Integer(1 - 2**15), x, -x, x - y,
        -3 * x * y, x**2 * y**3, 5 * (x + y) ** 2, Mul(x + 1, y - 2, evaluate=False), Quotient(x + 7, Integer(8)),
        Quotient(x, y + 1), Quotient(Integer(9), Integer(4)), 3 * Quotient(x, Integer(2)) ** 2, Max(x, 3), Min(x, y, 9),
        Max(x, y, 2 * x, 3 * y, x * y, evaluate=False), Max(x, Min(y, 4)), Piecewise((x, Ge(x, 3)), (y, True)),
        Piecewise((x, And(Ge(x, 3), Eq(y, 1))), (y, Or(Lt(x, 2), Gt(y, 5))), (x * y, True)),
        -x + Quotient(y, Integer(3)), 2 * Max(x, y) - 1, x * Piecewise((2, Le(y, 3)), (4, True)),
    ]  # fmt: skip
    found: dict[str, Any] = {"text": Each(list(map(str, kinds)))}
    found["trees"] = Each([_or_why(partial(json_trees.tree, one)) for one in kinds])
    for name in ("python", "numpy", "javascript", "c", "latex", "duckdb", "postgres", "workbook"):
        write = LANGUAGES[name]
        with patch("estimator.export.heading.origin", lambda f, command, *where: where):  # the same for all
            found[name] = Each([write(_alone(f, one)) for one in kinds])
    found["arrays"] = Each([_array_statement(Assignment("z", one, ""), kind()) for one in kinds for kind in (_NumPy,
                            _Floats)])  # fmt: skip
    found["exact"] = Each([str(exact(one)) for one in kinds])
    found["terms"] = Each([list(map(str, terms_of(one))) for one in kinds])
    found["changed"] = Each([str(changed(one, lambda part: part + 1)) for one in kinds])
    found["largest"] = [str(largest_of(kinds[6 : 6 + n])) for n in (1, 2, 3)] + [str(largest_of([x, y, x]))]
    texts = ["a" * 9, "a " * 60, "f(" + "x, " * 50 + "y)", "a-b " * 70]
    starts = ("", "    ", "    x = ", "def f(", " " * 12)
    found["wrapped"] = Each([wrapped(*given, *more) for given in itertools.product(starts, texts)
                             for more in ((), (";",), (",", "(", ")"))])  # fmt: skip
    return found


def _alone(f: Function, expression: Any) -> Function:
    variables = (Variable("x", 3, 1, 50, "ex"), Variable("y", 4, 2, 50, "why"))
    moments = (
        tuple((f"moment {i}", part) for i, part in enumerate(expression.args)) if isinstance(expression, Max) else ()
    )
    totals = (Assignment("peak", expression, "alone", moments),)
    return Function(f.plan, variables, (), totals, ("peak",), Symbol("x") * 5)


def _comments() -> Parts:
    return {
        "in_comment": [in_comment(text) for text in ("a */ b", "/* c", "plain", "*/*")],
        "filled": [filled(["x " * 80, "y" * 130, "", "a-b " * 40], indent) for indent in ("", "  ", " * ")],
        "latex": to_latex([], ["a & b"]),
    }


# ---- polynomials and regimes -------------------------------------------------------------------


def _polynomials() -> Parts:
    b, s, h, i, r = (symbol(name) for name in "BSHIr")
    sizes: list[Any] = [
        0, 7, b, 3 * b * s, b * s * (4 * h + 2 * i) + 9, (b * s + s * s) // 2, h * h + i * r * 3 + b, (b * s * h) // 6
        + (s * h) // 4, b * (s - 1) * h - i, 2 * b * b * s,
    ]  # fmt: skip
    names = {name: Symbol(name) for name in "BSHIr"}
    numbers = {**names, "H": Integer(576), "I": Integer(1536), "B": Integer(1)}
    found: dict[str, Any] = {
        "expressions": [str(expression_of(one, to)) for one in sizes for to in (names, numbers)],
        "registered": [[registered(name).name, registered(name).meaning] for name in "BSHIrKGDVLTMNC"],
    }
    sources = ("S", "5", "max(S, 3)", "min(S, 64, B)", "S + 3 - B", "S * B ** 2", "(S + 15) // 16", "S // B",
               "128 if S >= 768 else 64 if S >= 192 else 32", "3 if S >= B else B", "S / 2", "abs(S)", "3.5", "-S",
               "8 if S > 3 else 4")  # fmt: skip
    found["definitions"] = [_or_none(lambda text=text: str(definition(SimpleNamespace(source=text), Symbol)))
                            for text in sources]  # fmt: skip
    return found


def _or_none(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except NotImplementedError as error:
        return str(error)


def _regimes(plan: Plan) -> Parts:
    """Conditions of regimes, and expressions that are told apart by them."""
    names = {name: Symbol(name) for name in "BSMNT"}
    every = [
        Regime(*one, window, new, images)
        for one in itertools.product((False, True), (False, True), (None, True, False))
        for window, new, images in ((24, None, None), (24, MANY_TOKENS, True), (7, 1, False))
        if one[2] is not None or window == 24
    ]
    attributes = ("batch_one", "seq_one", "window_reached", "new_tokens", "images_one")
    said = [str(_tests(one, [name for name in attributes if getattr(one, name) is not None], names)) for one in every]
    found: dict[str, Any] = {
        "tests": said,
        "conditions": [one.condition() for one in every],
        "ranges": [[_range(name, one) for name in "BSTMNH"] for one in every],
    }
    kinds = {
        "two": [Regime(one) for one in (False, True)],
        "four": [Regime(*one) for one in itertools.product((False, True), repeat=2)],
        "window": [Regime(one, two, reached, 24) for one, two, reached in itertools.product((False, True), repeat=3)],
        "new": [Regime(one, new_tokens=new) for one in (False, True) for new in (MANY_TOKENS, 1, 2)],
        "images": [Regime(one, images_one=two) for one in (False, True) for two in (False, True)],
    }
    for name, own in kinds.items():
        steps = Steps([(one, SimpleNamespace(plan=plan)) for one in own], names, lambda one: ("", ""))  # type: ignore[misc]
        rows = [[(one, S * values[i % len(values)]) for i, one in enumerate(own)] for values in (
            [3], [3, 4], [3, 3, 4], [3, 3, 4, 4], [3, 4, 4, 4], [3, 4, 5, 5], [5, 5, 5, 4, 5, 5], [1, 2, 3, 4, 5, 6,
            7, 8])]  # fmt: skip
        found[name] = [str(steps._together(one)) for one in rows]
    return found


def _contexts() -> Parts:
    """Values at contexts as expressions in pieces."""
    x = Symbol("x")
    at = [256 * n for n in range(1, 25)]
    rows = {
        "constant": [5 for _ in at], "linear": [3 * n + 7 for n in at], "square": [n * n // 4 + n for n in at],
        "halves": [n // 256 * 3 for n in at], "pieces": [5 * n if n < 2048 else 3 * n * n + 1 for n in at],
        "three": [9 if n < 1024 else 2 * n if n < 3000 else 7 * n + 1 for n in at],
        "odd": [n % 7 * n for n in at[:9]], "one": [4], "two": [4, 9], "last": [*[8] * 20, 1, 2, 3, 99],
    }  # fmt: skip
    return {
        **{name: str(contexts._fitted(x, at[: len(values)], values)) for name, values in rows.items()},
        "longest": [contexts._longest(at, values, start) for values in rows.values() if len(values) == len(at)
                    for start in (0, 5, 21, 23)],
        "through": [contexts._through(at[:n], values[:n]) for values in rows.values() for n in (1, 2, 3)
                    if n <= len(values)],
    }  # fmt: skip


def _short(f: Function) -> Parts:
    """The short form, and the moments that it keeps."""
    asked: dict[str, Mapping[str, tuple[int, int]]] = {
        "wide": {"batch": (2, 64), "seq": (128, 2048)}, "small": {"batch": (2, 4), "seq": (2, 9)},
        "one": {"batch": (2, 2), "seq": (5, 5)},
    }  # fmt: skip
    moments: dict[str, list[Any]] = {
        "one": [_LOSS], "equal": [B * S, B * S + 1], "apart": [1000 * B, S, 7 * B**2],
        "many": [B * 3000, S * 90, 400 * B**3, B * S * 30, S * S], "with a size": [Symbol("blocks") * 40, B * S],
    }  # fmt: skip
    found: dict[str, Any] = {}
    for (name, ranges), (of, parts) in itertools.product(asked.items(), moments.items()):
        if name == "wide" and of != "apart":
            continue
        kept, error = short._best(f, parts, ranges)
        found[f"{of}, {name}"] = [[str(x) for x in kept], f"{error:.6f}"]
    shortened = short.shortened(f)
    found["shortened"] = [shortened.variables, shortened.notes, [[s.name, str(s.expression)] for s in shortened.totals]]
    ways = [f.variables, tuple(v._replace(value=v.least) for v in f.variables),
            tuple(v._replace(value=v.value * 5, most=900) for v in f.variables),
            (Variable("hidden_size", 64, 1, 99, ""), Variable("seq", 8, 2, 50, ""))]  # fmt: skip
    found["ranges"] = [short._ranges(Function(f.plan, way, (), tuple(t for t in f.totals if i < 3
        and t.name != "saved"),
                       (), Integer(0))) for i, way in enumerate(ways)]  # fmt: skip
    at = [{"batch": b, "seq": s, "r": r} for b, s, r in ((1, 8, 4), (1, 50, 4), (2, 60, 9))]
    found["where"] = [str(short._where(_TOTALS[1].expression, one)) for one in at]
    return found


# ---- plans -------------------------------------------------------------------------------------

PLANS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "full": ({"model": "tiny", "batch": 2, "seq": 64}, ("batch", "seq")),
    "one batch": ({"model": "tiny", "seq": 64}, ("seq",)),
    "rank": ({"model": "tiny", "method": {"name": "lora", "r": 4}, "seq": 9, "batch": 3}, ("r", "batch")),
    "sizes": ({"model": "tiny", "method": "ia3", "batch": 2, "seq": 64},
              ("num_attention_heads", "head_dim", "num_hidden_layers")),
    "heads": ({"model": "tiny", "seq": 64, "task": "infer"}, ("num_key_value_heads", "vocab_size")),
    "one token": ({"model": "tiny", "seq": 1, "batch": 5, "task": "infer"}, ("batch",)),
    "window": ({"model": "windows", "seq": 30, "batch": 2, "method": "lora"}, ("batch", "seq")),
    "generate": ({"model": "tiny", "generate": {"max_new_tokens": 5}, "batch": 2, "seq": 8}, ("seq", "max_new_tokens")),
    "card": ({"model": "tiny", "seq": 64, "batch": 2, "runtime": "torch-cuda"}, ("seq",)),
    "ddp": ({"model": "tiny", "seq": 64, "batch": 2, "sharding": {"name": "ddp", "world_size": 4}}, ("seq",)),
    "dpo": ({"model": "smollm2-135m", "trainer": "trl-dpo", "seq": 64, "batch": 2}, ("seq",)),
    "target": ({"model": "t5-small", "seq": 40, "target_seq": 1, "batch": 2}, ("target_seq",)),
}  # fmt: skip
REFUSED: tuple[tuple[dict[str, Any], tuple[str, ...]], ...] = (
    (SMOL, ("sequence",)), (SMOL, ("seq", "seq")), (SMOL, ()), (SMOL, ("num_attention_heads", "num_key_value_heads")),
    (SMOL, ("target_seq",)), ({**SMOL, "generate": {"max_new_tokens": 3}}, ("r",)),
    ({"model": "mistral-7b-v0.1", "generate": {"max_new_tokens": 3}}, ("seq",)),
    ({"model": "llama-3.2-1b", "runtime": "llama.cpp"}, ("seq",)),
)  # fmt: skip
NAMED: tuple[dict[str, Any], ...] = (
    SMOL, {**SMOL, "method": "lora"}, {**SMOL, "generate": {"max_new_tokens": 3}}, {"model": "t5-small"},
    {"model": "whisper-tiny"}, {"model": "smolvlm-256m", "seq": 3000, "images": 2}, {"model": "bert-base"},
    {"model": "llama-3.2-1b", "runtime": "llama.cpp"}, {"model": "smollm2-135m", "runtime": "torch-cuda", "seq": 9},
    {**SMOL, "task": "infer"}, {**SMOL, "trainer": "trl-dpo"},
    {**SMOL, "sharding": {"name": "fsdp2", "world_size": 2}},
)  # fmt: skip
LIMITED: tuple[dict[str, Any], ...] = (
    {}, {"budget": "3GiB"}, {"device": "t4"}, {"device": "t4", "budget": "3GiB"}, {"device": "apple-16gb"},
    {"device": "iphone-15"}, {"device": "pixel-8"},
)  # fmt: skip


def _of_plan(keys: Mapping[str, Any], names: Sequence[str]) -> Parts:
    f = function_of(parse_plan(keys), names, ceiling=False)
    return {**_parts(f), "values": steps_at(f, {v.name: v.value for v in f.variables})}


def _summaries() -> Parts:
    plans = [parse_plan(one) for one in NAMED]
    limits = [
        _or_why(lambda keys=keys, runtime=runtime, replayed=replayed: limits_of(parse_plan({"model": "llama-3.2-1b",
                "runtime": runtime, **({"seq": 9} if runtime.startswith("torch") else {}), **keys}), replayed))
        for keys in LIMITED
        for runtime in ("torch-cpu", "torch-cuda", "llama.cpp", "executorch")
        for replayed in (False, True)
    ]  # fmt: skip
    return {
        "names": [[variable_names(one), default_names(one)] for one in plans],
        "exported": [exported(one) for one in plans],
        "lines": [plan_line(one) for one in plans],
        "summaries": Each([plan_summary(one) for one in plans]),
        "limits": Each(limits),
    }


def _refused() -> Parts:
    return {"refused": [_or_why(lambda a=a, b=b: function_of(parse_plan(a), b, ceiling=False)) for a, b in REFUSED]}


def _formulas() -> Parts:
    """Formulas of one regime and of all, with and without symbols for the model's sizes."""
    found: dict[str, Any] = {}
    for name, symbolic in (("small", True), ("windows", False)):
        keys: dict[str, Any] = {"model": name, "method": {"name": "lora", "r": 4}, "batch": 2, "seq": 30}
        plan = parse_plan(keys)
        every = [compile_plan(plan, one, symbolic) for one in regimes(plan)]
        components = ("parameters", "saved", "peak") if symbolic else ("saved",)
        of_one = [formula(every[0], component) for component in components]
        of_last = formula(every[-1], "peak_above_resident")
        of_all = formula(every[0], "peak", *every[1:])
        shown = Expression(of_one[-1], every[0].regime)
        found |= {
            f"{name} {symbolic} {what}": text
            for what, text in {
                "text": to_text(of_one),
                "last": to_text([of_last]),
                "sympy": sympy_source(of_one),
                "latex": to_latex(of_one, about(of_one[0])),
                "records": Each([to_record(one) for one in (*of_one, of_last)]),
                "of all": _parts(of_all),
                "expression": [
                    str(to_sympy(of_one[-1])), shown.condition, shown.values, repr(shown), shown._repr_html_()[:400],
                    {str(s): meaning for s, meaning in shown.symbols.items()}, shown.to_latex(),
                ],
            }.items()
        }  # fmt: skip
    return found


# ---- tables and pages --------------------------------------------------------------------------

SWEPT: tuple[dict[str, Any], ...] = (
    {"seq": [3, 5]}, {"seq": {"from": 2, "to": 9, "step": 3}}, {"seq": range(3, 9, 2)}, {"seq": (4, 5)}, {"seq": []},
    {"seq": [1, 1]}, {"seq": [0, 3]}, {"seq": [True, 2]}, {"dtype": ["bfloat16", None]}, {"seq": {"from": 3, "to": 2}},
    {"seq": {"from": 3, "to": 3}}, {"seq": {"from": 0, "to": 3}}, {"seq": {"from": 1, "to": 10**10}},
    {"seq": {"from": 1, "to": 10**10 + 1}}, {"seq": {"from": 1, "to": 4, "by": 2}}, {"method": {"name": ["lora",
    "full"]}},
    {"method": {"name": "lora", "r": [4, 8], "target_modules": ["q_proj"]}}, {"method": {"name": "lora", "r": [4, 8]},
    "r": 3},
    {"method": [{"name": "lora"}, "full"], "batch": [1, 2], "dtype": ["float32", "bfloat16"]}, {"seq": 5}, {},
    {"sharding": {"name": "ddp", "world_size": [2, 4]}}, {"layers_to_transform": [1, 2], "seq": [3, 4]},
    {"target_modules": ["a"], "x_pattern": [1], "layer_index": [3], "seq": [3, 4]}, {"seq": {"from": 1, "to": 3,
    "step": 0}},
)  # fmt: skip


def _sweeps() -> Parts:
    found: dict[str, Any] = {
        "axes": Each([_or_why(partial(sweep.axes_of, {"model": "m", **one})) for one in SWEPT]),
        "cells": [sweep._cell(one) for one in (3, 2.5, True, None, "a", 'a"b', "=x", "+1", "-1", "@a", "a=b", "")],
        "written": [sweep._written(one) for one in ({"name": "lora", "r": 4}, {"a": 1}, 3, "x", [1])],
        "said": [sweep._said(one) for one in ({}, {"dtype": "float32"}, {"a": 1, "method": {"name": "ia3"}})],
        "csv": [sweep._csv(one) for one in ([[1, 2], [3, 3]], [[1, None], ["a", True]], [["x"]], [[1.5, 2], [0, 0]])],
    }
    asked: dict[str, tuple[dict[str, Any], list[str] | None]] = {
        "sequences": ({"seq": [8, 20, 33], "budget": "1GiB"}, ["peak", "process"]),
        "methods": ({"method": [{"name": "lora", "r": 4}, "nonsense"], "batch": [2], "seq": 9}, ["resident"]),
        "estimated": ({"dtype": ["float32"], "seq": 9, "budget": "700MiB"}, None),
        "sent": ({"seq": [8, 9], "sharding": {"name": "ddp", "world_size": 2}}, ["communicated", "peak"]),
        "many": ({"seq": {"from": 2, "to": 80}}, ["saved"]),
    }
    for name, (keys, only) in asked.items():
        table = sweep.Sweep({"model": "tiny", **keys}, only)
        found[name] = [table.columns, table.components, table.rows, table._brief(), b"".join(table.lines()).decode(),
                       table._repr_html_(), table.records()[:3]]  # fmt: skip
    return found


def _pages() -> Parts:
    plans = [parse_plan(one) for one in (SMOL, {**SMOL, "runtime": "torch-cuda"}, {**SMOL, "device": "t4"}, NAMED[7],
                                         {**NAMED[7], "device": "iphone-15"})]  # fmt: skip
    made = _made_up(plans[0])
    with patch("estimator.export.page.function_of", lambda plan, names, progress: made.only(["peak"]) if plan.dtype
               == "bfloat16" or len(names) > 1 else _refuse(names)):  # fmt: skip
        asked = [
            _or_why(lambda a=a, b=b, c=c, d=d: [[one.picks, one.function.components] for one in choices_of(SMOL, a, b,
                c,
                    d, lambda: None)])
            for a in ([], [{"name": "full"}], [{"name": "lora"}, {"name": "full"}], [{"name": "nonsense"},
                {"name": "ia3"}])
            for b in (["bfloat16"], ["bfloat16", "float16"], ["nonsense", "bfloat16"], ["float32"])
            for c in (["batch"], ["seq", "batch"], ["r"])
            for d in (False, True)
        ]  # fmt: skip
    return {
        "choices": Each(asked),
        "devices": Each([_or_why(partial(_devices, one)) for one in plans]),
        "needs": [_need(made.only(names)) for names in (["peak"], [])],
        "choice": Choice(("a",), made).picks,
    }


def _refuse(names: Sequence[str]) -> Any:
    raise InputError(f"no function of {', '.join(names)}")


def exports(folder: Path) -> Iterator[Question]:
    """Everything that leaves the house."""
    folder.mkdir(exist_ok=True)
    write_config(folder / "tiny", {**TINY, "num_hidden_layers": 5})
    write_config(folder / "small", {**TINY, "vocab_size": 97})
    write_config(folder / "windows", {"model_type": "mistral", "num_hidden_layers": 2, "vocab_size": 211})
    plan = parse_plan(SMOL)
    f = _made_up(plan)
    yield "languages", partial(_languages, f)
    yield "languages of a context", partial(_languages, _made_up(parse_plan(NAMED[7])))
    yield "values", partial(_values, f)
    yield "expressions", partial(_expressions, f)
    yield "comments", _comments
    yield "sheets", partial(_sheets, f)
    yield "sheets, few", lambda: _sheets(_long(f, 3, 1))
    yield "long formulas", partial(_books, f)
    yield "polynomials", _polynomials
    yield "regimes", partial(_regimes, plan)
    yield "contexts", _contexts
    yield "short", partial(_short, f)
    yield "summaries", _summaries
    yield "refused", _refused
    for name, (keys, names) in PLANS.items():
        yield f"plan: {name}", here(folder, partial(_of_plan, keys, names))
    yield "formulas", here(folder, _formulas)
    yield "sweeps", here(folder, _sweeps)
    yield "pages", _pages


GROUPS: dict[str, Callable[[Path], Iterator[Question]]] = {"exports": exports}
"""By the name of a table, its questions; a folder is for files that are asked about."""
