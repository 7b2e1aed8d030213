"""A step in PyTorch as a function: the formulas of each of its regimes, put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from sympy import Integer, Symbol

from ..answers.estimate import Progress
from ..answers.formulas import Regime, compile_plan, is_known, regime_of, regimes
from ..errors import InputError
from ..ledger import Size
from ..ledger.sizes import Poly, registered, symbols_of
from ..ledger.sizes import Symbol as Sized
from ..plans.plan import Plan
from ..plans.refusals import check_question, positions_of
from ..plans.resolve import given_of, resolve
from .ceiling import ceiling_of
from .code_python import program
from .components import exported, floors
from .function import Assignment, Function, Variable, least, most
from .polynomials import Quotient
from .regimes import Steps

SYMBOLS: Mapping[str, str] = {
    "batch": "B",
    "seq": "S",
    "target_seq": "T",
    "images": "M",
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
PLAN_KEYS = ("batch", "seq", "target_seq", "images", "max_new_tokens", "r")
"""Those that are keys of the plan or of its blocks; the others are the model's sizes."""
_LONGEST_NAME = 40
"""PostgreSQL cuts names at 63 characters."""
_MEANING = {
    "batch": "sequences in one micro-batch",
    "seq": "sequence length in tokens",
    "target_seq": "tokens of the decoder beside an encoder",
    "images": "images of a row, all of one size",
    "max_new_tokens": "tokens that generate adds to each prompt",
    "r": "rank of the adapter",
}


def function_of_step(plan: Plan, names: Sequence[str], ceiling: bool, progress: Progress) -> Function:
    """The bytes of a plan of PyTorch's runtimes as a function of the keys ``names``. Raises ``InputError``.

    ``ceiling``: on a GPU, ``process_at_most`` is among them, for which the plan is replayed.
    """
    f = _function(plan, names)
    if not ceiling or not plan.engine.replays or not set(names) <= set(PLAN_KEYS):
        return f
    sizes_at = program(f)
    found = ceiling_of(plan, names, lambda point: sizes_at(**point), progress)
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
        notes=(*f.notes, *found.notes),
    )


def _function(plan: Plan, names: Sequence[str]) -> Function:
    check_question("a formula", plan)
    if "target_seq" in names:
        plan = plan.model_copy(update={"target_seq": max(plan.target_seq, least("T"))})
    resolved = resolve(plan)
    own = regime_of(resolved)
    sizes = [name for name in names if name not in PLAN_KEYS]
    numbers = [name for name in ("batch", "seq") if name not in names]

    def occurs(regime: Regime) -> bool:
        """Whether the regime has plans in it, with the values of what is no variable."""
        return (
            ("batch" in names or regime.batch_one == own.batch_one)
            and ("max_new_tokens" in names or regime.new_tokens == own.new_tokens)
            and ("images" in names or regime.images_one == own.images_one)
            and ("seq" in names or (regime.seq_one, regime.window_reached) == (own.seq_one, own.window_reached))
        )

    asked = [regime for regime in regimes(plan) if occurs(regime)]
    of_one = [regime for regime in asked if regime.seq_one and not own.seq_one]
    if is_known(resolved, asked[0]) and not all(is_known(resolved, regime) for regime in of_one):
        asked = [regime for regime in asked if regime not in of_one]  # one token makes calls that are not shipped
    pieces = [
        (
            regime,
            compile_plan(plan, regime, bool(sizes), open_rank="r" in names, numbers=numbers, images="images" in names),
        )
        for regime in asked
    ]
    compiled = pieces[0][1]
    free = symbols_of(compiled.totals.parameters)
    for name in sizes:
        if SYMBOLS[name] in compiled.values and SYMBOLS[name] not in free:
            raise InputError(f"'{name}' cannot be a variable of this plan: formulas differ elsewhere; leave it out")
    config = {"batch": plan.batch, "seq": plan.seq, **plan.method.open_values()}
    if "T" in compiled.lengths:
        config["target_seq"] = plan.target_seq
    if "M" in compiled.lengths:
        config["images"] = compiled.lengths["M"]
    if plan.generate is not None:
        config["max_new_tokens"] = plan.generate.max_new_tokens
    config |= {name: getattr(resolved.spec.config, name) for name in sizes}
    groups = compiled.values.get("K", 1) if "num_attention_heads" in names else 1
    open_ = {SYMBOLS[name]: Symbol(name) for name in names if name != "num_attention_heads"}
    made = []
    if groups > 1:
        expression = Quotient(Symbol("num_attention_heads"), Integer(groups))
        made.append(Assignment("groups", expression, registered("G").meaning))
        open_["G"] = Symbol("groups")
    numbers_of = {**compiled.values, **compiled.given}
    variable = {*open_, *(SYMBOLS[name] for name in names)}
    fixed = {name: value for name, value in numbers_of.items() if name not in variable}

    def closed(size: Size) -> Size:
        return size.substitute(fixed) if isinstance(size, Poly) else size

    def told(symbol: Sized) -> tuple[str, str]:
        """A symbol's step is called with the names of variables in place of symbols, and not long."""
        letters = {letter: key for key, letter in SYMBOLS.items()}
        words = [letters.get(word, word) for word in symbol.name.split("_")]
        name = "_".join(words)
        if len(name) > _LONGEST_NAME:
            name = f"{'_'.join(words[:2])}_{len(made) + len(steps.sizes) + 1}"
        return name, symbol.meaning.partition(":")[0]

    steps = Steps(pieces, {**{name: Integer(value) for name, value in numbers_of.items()}, **open_}, told, closed)
    below = floors(plan)
    for name in dict.fromkeys([*exported(plan), *below]):
        steps.add(name)
    # Resident is three of the bounded sizes at most, and the peak one more.
    largest = 4 * steps.bound() + max(below.values())
    variables = tuple(_variable(name, config[name], groups) for name in names)
    images = given_of(plan, resolved.spec).images
    room = [(one.tokens or 0) + one.around + 1 for one in images]  # and a token of text
    fewest = plan.least_seq if any(regime.seq_one for regime in asked) else 2
    shortest = max(fewest, max(room, default=0) if "images" in names else sum(room))
    variables = tuple(v._replace(least=max(v.least, shortest)) if v.name == "seq" else v for v in variables)
    positions = {name: positions_of(resolved, name) for name in ("seq", "target_seq")}
    variables = tuple(v._replace(most=int(min(v.most, positions.get(v.name, v.most)))) for v in variables)
    totals = tuple(steps.totals.values())
    notes = (f"each image takes {room[0] - 1:,} tokens of a row, which seq counts",) if "images" in names else ()
    return Function(plan, variables, (*made, *steps.sizes), totals, tuple(steps.totals), largest, notes)


def _variable(name: str, value: int, groups: int) -> Variable:
    """A variable. Each key/value head has at least two query heads, or copies become views."""
    meaning = _MEANING.get(name, f"the config's {name}")
    if name == "num_attention_heads":
        return Variable(name, value, 2 * groups, most("G"), f"{meaning}, a multiple of {groups}", groups)
    if name == "num_key_value_heads":
        meaning += ", with as many query heads for each as the model has"
    multiple = 2 if name == "head_dim" else 1  # rotary embeddings need an even one
    return Variable(name, value, max(least(SYMBOLS[name]), multiple), most(SYMBOLS[name]), meaning, multiple)
