"""A step in PyTorch as a function: the formulas of each of its regimes, put together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from math import lcm
from typing import Any

from sympy import Add, And, Eq, Ge, Integer, Lt, Mul, Or, Piecewise, Pow, Symbol

from ..answers.estimate import Progress
from ..answers.formulas import MANY_TOKENS, Compiled, Regime, compile_plan, regime_of, regimes
from ..engines.torch_cpu import LIBRARIES_BYTES
from ..errors import InputError
from ..ledger import Size
from ..ledger.sizes import Poly, registered, simplify
from ..plans.plan import Plan
from ..plans.refusals import check_question
from ..plans.resolve import resolve
from .algebra import definition
from .ceiling import ceiling_of
from .code_python import program
from .formula import floors, terms, undominated
from .function import RESULTS, Assignment, Function, Quotient, Variable, largest_of

SYMBOLS: Mapping[str, str] = {
    "batch": "B",
    "seq": "S",
    "max_new_tokens": "N",
    "r": "r",
    "num_hidden_layers": "L",
    "hidden_size": "H",
    "intermediate_size": "I",
    "num_key_value_heads": "K",
    "num_attention_heads": "G",
    "head_dim": "D",
    "vocab_size": "V",
}
"""The keys that can be variables of a step in PyTorch, and the symbols of the ledger that they decide."""
PLAN_KEYS = ("batch", "seq", "max_new_tokens", "r")
"""Those that are keys of the plan or of its blocks; the others are the model's sizes."""
_LEAST = {"num_hidden_layers": 4, "num_key_value_heads": 2, "head_dim": 2}
"""Least values. The layers between the first and the last two are counted as equal; one head makes views of copies."""
_MOST = {"batch": 10**6, "seq": 10**8, "max_new_tokens": 10**6, "r": 10**6}
_MOST_SIZE = 10**7
_LONGEST_NAME = 40
"""PostgreSQL cuts names at 63 characters."""
_MEANING = {
    "batch": "sequences in one micro-batch",
    "seq": "sequence length in tokens",
    "max_new_tokens": "tokens that generate adds to each prompt",
    "r": "rank of the adapter",
}


def function_of_step(plan: Plan, names: Sequence[str], ceiling: bool, progress: Progress) -> Function:
    """The bytes of a plan of PyTorch's runtimes as a function of the keys ``names``. Raises ``InputError``.

    ``ceiling``: on a GPU, ``process_at_most`` is among them, for which the plan is replayed.
    """
    f = _Steps(plan, names).function()
    if not ceiling or plan.runtime != "torch-cuda" or not set(names) <= set(PLAN_KEYS):
        return f
    sizes_at = program(f)
    found = ceiling_of(plan, names, lambda point: sizes_at(**point)["process_at_least"], progress)
    above = Symbol("peak_above_resident")
    gap = Quotient(found.share.numerator * above, Integer(found.share.denominator))
    step = Assignment(
        "process_at_most", Symbol("process_at_least") + gap + found.constant, "the most that replays of the plan show"
    )
    return replace(
        f,
        totals=(*f.totals, step),
        components=(*f.components, step.name),
        largest=f.largest * (1 + found.share.numerator) + found.constant,
        notes=(*f.notes, found.note),
    )


class _Steps:
    """Collects the steps of a PyTorch plan's function."""

    def __init__(self, plan: Plan, names: Sequence[str]) -> None:
        check_question("a formula", plan)
        self.plan, self.names = plan, names
        self.resolved = resolve(plan)
        self.own = regime_of(plan)
        self.sizes = [name for name in names if name not in PLAN_KEYS]
        self.pieces = [(regime, self._compiled(regime)) for regime in regimes(plan) if self._occurs(regime)]
        self.made: list[Assignment] = []
        self.totals: list[Assignment] = []
        self.names_of: dict[str, Any] = {}
        """For each symbol of the ledger, a variable, a number or the name of a step."""

    def _occurs(self, regime: Regime) -> bool:
        """Whether the regime has plans in it, with the values of what is no variable."""
        own = self.own
        return (
            ("batch" in self.names or regime.batch_one == own.batch_one)
            and ("max_new_tokens" in self.names or regime.new_tokens == own.new_tokens)
            and ("seq" in self.names or (regime.seq_one, regime.window_reached) == (own.seq_one, own.window_reached))
        )

    def _compiled(self, regime: Regime) -> Compiled:
        numbers = [name for name in ("batch", "seq") if name not in self.names]
        rank = "r" in self.names
        return compile_plan(self.plan, regime, symbolic=bool(self.sizes), open_rank=rank, numbers=numbers)

    def function(self) -> Function:
        compiled = self.pieces[0][1]
        config = {"batch": self.plan.batch, "seq": self.plan.seq, **self.plan.method.open_values()}
        if self.plan.generate is not None:
            config["max_new_tokens"] = self.plan.generate.max_new_tokens
        if self.sizes:
            raw = self.resolved.spec.config
            config |= {name: getattr(raw, name) for name in SYMBOLS if hasattr(raw, name)}
        parameters = compiled.totals.parameters
        free = parameters.symbols() if isinstance(parameters, Poly) else set()
        for name in self.sizes:
            if SYMBOLS[name] in compiled.values and SYMBOLS[name] not in free:
                raise InputError(f"'{name}' cannot be a variable of this plan: formulas differ elsewhere; leave it out")
        groups = compiled.values.get("K", 1) if "num_attention_heads" in self.names else 1
        variables = [self._variable(name, config[name], groups) for name in self.names]
        numbers = {**compiled.values, **compiled.given}
        open_ = {SYMBOLS[name]: Symbol(name) for name in self.names if name != "num_attention_heads"}
        self.names_of = {**{name: Integer(value) for name, value in numbers.items()}, **open_}
        if groups > 1:
            expression = Quotient(Symbol("num_attention_heads"), Integer(groups))
            self.made.append(Assignment("groups", expression, registered("G").meaning))
            self.names_of["G"] = Symbol("groups")
        return self._function(tuple(variables), numbers)

    def _variable(self, name: str, value: int, groups: int) -> Variable:
        """A variable. Each key/value head has at least two query heads, or copies become views."""
        meaning = _MEANING.get(name, f"the config's {name}")
        if name == "num_attention_heads":
            return Variable(name, value, 2 * groups, _MOST_SIZE, f"{meaning}, a multiple of {groups}", groups)
        if name == "num_key_value_heads":
            meaning += ", with as many query heads for each as the model has"
        multiple = 2 if name == "head_dim" else 1  # rotary embeddings need an even one
        return Variable(name, value, _LEAST.get(name, 1), _MOST.get(name, _MOST_SIZE), meaning, multiple)

    def _function(self, variables: tuple[Variable, ...], numbers: Mapping[str, int]) -> Function:
        open_ = {SYMBOLS[name] for name in self.names} | {x for x in ("G",) if self.made}
        fixed = {name: value for name, value in numbers.items() if name not in open_}

        def closed(size: Size) -> Size:
            return size.substitute(fixed) if isinstance(size, Poly) else size

        sizes: dict[str, list[tuple[Regime, Size]]] = {}
        moments: list[tuple[Regime, list[Size]]] = []
        cuda = self.plan.runtime == "torch-cuda"
        names = ["parameters", "adapters", "buffers", "gradients", "optimizer", "saved"]
        names += ["kv_cache"] if self.plan.task == "infer" else []
        for regime, compiled in self.pieces:
            for name in names:
                sizes.setdefault(name, []).append((regime, closed(compiled.component(name))))
            above = [("", closed(value)) for _, value in compiled.moments]
            moments.append((regime, [value for _, value in undominated(above, regime)]))
        bound = _Bound()
        for name in names:
            for _, size in sizes[name]:
                bound.add(size)
            self._define(size for _, size in sizes[name])
        for _, values in moments:
            self._define(values)
            for value in values:
                bound.add(value)
        largest = self._expression(bound.size())
        for name in names:
            self._add(name, self._pieces([(regime, self._expression(size)) for regime, size in sizes[name]]))
        self._add("resident", Symbol("parameters") + Symbol("buffers") + Symbol("optimizer"))
        self._add(
            "peak_above_resident",
            self._pieces([(regime, largest_of([self._expression(v) for v in values])) for regime, values in moments]),
        )
        self._add("peak", Symbol("resident") + Symbol("peak_above_resident"))
        if cuda:
            below = floors(self.plan)
            self._add("allocated_at_least", Symbol("peak") + below["allocated_at_least"])
            self._add("process_at_least", Symbol("peak") + below["process_at_least"])
        else:
            self._add("process", Symbol("peak") + LIBRARIES_BYTES)
        # Resident is three of the bounded sizes at most, and the peak one more.
        beside = max(floors(self.plan).values()) if cuda else LIBRARIES_BYTES
        names = [step.name for step in self.totals]
        return Function(self.plan, variables, tuple(self.made), tuple(self.totals), tuple(names), 4 * largest + beside)

    def _add(self, name: str, expression: Any) -> None:
        self.totals.append(Assignment(name, expression, RESULTS[name]))

    def _define(self, sizes: Iterable[Size]) -> None:
        """Steps for the functions of variables that sizes use."""
        for size in sizes:
            for name in sorted(size.symbols() if isinstance(size, Poly) else ()):
                sym = registered(name)
                if sym.function is not None and name not in self.names_of:
                    expression = definition(sym, self.names_of.__getitem__, Quotient)
                    called = self._called(name)
                    self.made.append(Assignment(called, expression, sym.meaning.partition(":")[0]))
                    self.names_of[name] = Symbol(called)

    def _called(self, name: str) -> str:
        """What a symbol's step is called: with the names of variables in place of symbols, and not long."""
        letters = {letter: key for key, letter in SYMBOLS.items()}
        words = [letters.get(word, word) for word in name.split("_")]
        called = "_".join(words)
        return called if len(called) <= _LONGEST_NAME else f"{'_'.join(words[:2])}_{len(self.made) + 1}"

    def _expression(self, size: Size) -> Any:
        return expression_of(size, self.names_of)

    def _pieces(self, rows: Sequence[tuple[Regime, Any]]) -> Any:
        """One expression for all regimes, with conditions where they differ."""
        groups: dict[Any, list[Regime]] = {}
        for regime, expression in rows:
            groups.setdefault(expression, []).append(regime)
        if len(groups) == 1:
            return next(iter(groups))
        everything = [regime for regime, _ in rows]

        def tests(regime: Regime, which: Sequence[str]) -> Any:
            found = []
            for attribute in which:
                if attribute == "window_reached":
                    relation = Ge if regime.window_reached else Lt
                    found.append(relation(Symbol("seq"), regime.window))
                elif attribute == "new_tokens":
                    relation = Ge if regime.new_tokens == MANY_TOKENS else Eq
                    found.append(relation(Symbol("max_new_tokens"), regime.new_tokens))
                else:
                    variable = Symbol("batch" if attribute == "batch_one" else "seq")
                    found.append(Eq(variable, 1) if getattr(regime, attribute) else Ge(variable, 2))
            return And(*found)

        names = ("batch_one", "seq_one", "window_reached", "new_tokens")
        attributes = [name for name in names if len({getattr(regime, name) for regime in everything}) > 1]
        subsets = [subset for count in range(1, len(attributes)) for subset in combinations(attributes, count)]

        def condition(own: Sequence[Regime]) -> Any:
            for subset in subsets:
                values = [getattr(own[0], a) for a in subset]
                if [r for r in everything if [getattr(r, a) for a in subset] == values] == list(own):
                    return tests(own[0], subset)
            return Or(*(tests(regime, attributes) for regime in own))

        ordered = sorted(groups.items(), key=lambda row: len(row[1]))
        rows_of = [(expression, condition(own)) for expression, own in ordered[:-1]]
        return Piecewise(*rows_of, (ordered[-1][0], True), evaluate=False)


class _Bound:
    """A polynomial that is at least as large as each of several, where all symbols are positive."""

    def __init__(self) -> None:
        self.terms: dict[int, int] = {}

    def add(self, size: Size) -> None:
        """Take in a size, times the divisor that makes its coefficients whole."""
        rows = size.terms if isinstance(size, Poly) else {0: size}
        scale = lcm(*(c.denominator for c in rows.values())) if rows else 1
        for key, coefficient in rows.items():
            self.terms[key] = max(self.terms.get(key, 0), abs(int(coefficient * scale)))

    def size(self) -> Size:
        """The bound."""
        return simplify(Poly({key: value for key, value in self.terms.items() if value}))


def expression_of(size: Size, names: Mapping[str, Any]) -> Any:
    """A size as an expression; ``names`` gives what each of its symbols is called."""
    rows = terms(size)
    divisor = lcm(*(c.denominator for c, _ in rows)) if rows else 1
    total = Add(*(Mul(Integer(int(c * divisor)), *(Pow(names[s.name], e) for s, e in powers)) for c, powers in rows))
    return total if divisor == 1 else Quotient(total, Integer(divisor))
