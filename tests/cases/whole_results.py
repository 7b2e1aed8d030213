"""Questions about answers whose whole replies are recorded (``tests/helpers/whole_answers.py``): searches on processes
made up, formulas of polynomials made up, objects of every shape, and small models.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from estimator.answers import (
    advice,
    bulk,
    check,
    cluster,
    comparison,
    config_names,
    estimate,
    explanation_view,
    file_advice,
    formulas,
    inverse,
    max_context,
    offload,
    reasons,
    run_moments,
    sentences,
    serving,
    snapshot_comparison,
    tabular,
)
from estimator.answers import catalogue as catalogue_answers
from estimator.answers import result as results
from estimator.answers.explanation import Explanation, Part, Row, _ranges, exact, layers_name
from estimator.answers.measured_runs import MeasuredRun, medians
from estimator.answers.result import Result
from estimator.engines.assumptions import Assumption
from estimator.engines.devices import catalogue, find
from estimator.engines.engine import Figures, Limit
from estimator.engines.registry import engine_of
from estimator.engines.replay import Beside, Phase, Usage
from estimator.errors import InputError, OtherStructure
from estimator.ledger.sizes import symbol
from estimator.moments.moment import Moment
from estimator.plans.margins import NO_MARGIN, STATED, Margin
from estimator.plans.models import load
from estimator.plans.plan import Plan, parse_plan
from estimator.plans.resolve import resolve
from estimator.programs.images import Seen
from estimator.steps.loop import StepTotals
from tests.cases.small_models import TINY, write_config
from tests.helpers.whole_answers import Each, Parts, here

Question = tuple[str, Callable[[], Parts]]
SMOL: dict[str, Any] = {"model": "smollm2-135m", "batch": 2, "seq": 64}
LORA = {"name": "lora", "r": 4}
GIB = 1 << 30
MARGINS = (STATED, NO_MARGIN, Margin(share=0.1), Margin(nbytes=300))


def _or_why(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except InputError as error:
        return error


def _refused(keys: Mapping[str, Any], ask: Callable[[Plan], Any]) -> Any:
    return _or_why(lambda: ask(parse_plan(keys)))


def _result(process: int, **more: Any) -> Result:
    """A result of a process of so many bytes."""
    sizes = {"parameters": 60, "adapters": 9, "buffers": 3, "gradients": 20, "optimizer": 40, "saved": 17,
        "resident": 103,
             "peak_above_resident": 44, "peak": 147, "process": process, **more.pop("sizes", {})}  # fmt: skip
    own = {"model": "tiny", "asked": "a step", "task": "train", "runtime": "torch-cpu", "trainable_parameters": 8,
           "total_parameters": 33, "peak_at": "loss", "moments": {"loss": 44, "forward": 30}, "fits": None,
           "budget_bytes": None, "uncertainty": 0.05}  # fmt: skip
    return Result(bytes=sizes, **{**own, **more})


# ---- the inverse questions ---------------------------------------------------------------------


class _Made(inverse._Search):
    """A search over processes made up. ``shape`` gives live bytes, and those of the process, at a value."""

    def __init__(self, key: str, unit: int, budget: int, lowest: int, limit: int, shape: Mapping[str, Any]) -> None:
        self.plan: Any = SimpleNamespace(engine=SimpleNamespace(replays=shape.get("replays", False)), task="train")
        self.key = self.name = key
        self.multiple_of, self.budget, self.lowest, self.limit = unit, budget, lowest, limit
        self.shape, self.asked, self.estimates = shape, list[int](), 0
        self._results, self._lives, self._kept = {}, {}, {}
        self.progress = lambda: None
        self.resolved: Any = SimpleNamespace(
            spec=SimpleNamespace(raw={"max_position_embeddings": 40}, config=None),
            method=SimpleNamespace(virtual_tokens=3),
        )

    def at(self, value: int) -> Any:
        return value

    def _live(self, first: int, last: int) -> Callable[[int], float]:
        return self.shape["live"]  # type: ignore[no-any-return]

    @property
    def _chunk(self) -> int | None:
        return self.shape.get("chunk")

    def replied(self, value: int, kept: Any) -> Result:
        self.asked.append(value)
        if value in self.shape.get("refused", ()) or value >= self.shape.get("refused_from", 10**12):
            raise InputError(f"{value} is refused")
        process, lacking = self.shape["process"](value), None
        if "lacking" in self.shape and process > self.budget:
            lacking = process - self.budget if self.shape["lacking"] else 0
        return _result(process, lacking=lacking)


SHAPES: dict[str, Mapping[str, Any]] = {
    "even": {"live": lambda n: 70 * n + 500, "process": lambda n: 80 * n + 900},
    "squares": {"live": lambda n: n * n + 7 * n, "process": lambda n: n * n + 9 * n + 2000},
    "steps": {"live": lambda n: 50 * n, "process": lambda n: 50 * n + 1000 * (n // 37), "replays": True},
    "falling": {"live": lambda n: 10 * n, "process": lambda n: 90 * n - 800 * (n % 5), "replays": True},
    "lacking": {"live": lambda n: 40 * n, "process": lambda n: 45 * n + 3000, "lacking": True, "replays": True},
    "gave back": {"live": lambda n: 40 * n, "process": lambda n: 60 * n, "lacking": False, "replays": True},
    "refused": {"live": lambda n: n, "process": lambda n: 3 * n + 5, "refused_from": 700},
    "refused at all": {"live": lambda n: n, "process": lambda n: 3 * n, "refused_from": 0},
    "chunks": {"live": lambda n: 30 * n, "process": lambda n: 31 * n + 400 * (n % 16 == 0), "chunk": 16},
    "far": {"live": lambda n: 1, "process": lambda n: 2 * n, "replays": True},
    "wavy": {"live": lambda n: 20 * n, "process": lambda n: 20 * n + 5000 + 900 * (n * n % 7), "replays": True},
}


def _searches() -> Parts:
    """The values that are asked on the way to an answer."""
    found: dict[str, Any] = {}
    for name, shape in SHAPES.items():
        rows = []
        for key, unit, budget, first, limit in (("seq", 1, 50_000, 1, 10**6), ("seq", 8, 9_999, 8, 4000), ("batch", 1,
                                                 123_457, 1, 10**4), ("rank", 1, 3000, 1, 60), ("batch", 4, 700, 4,
                                                     4)):  # fmt: skip
            search = _Made(key, unit, budget, first, limit, shape)
            with (
                patch.object(inverse, "answer", search.replied),
                patch.object(inverse, "window_of", lambda config, method: 100),
            ):
                said = [_or_why(partial(search.largest, margin)) for margin in (NO_MARGIN, STATED, Margin(share=0.3))]
                rows.append([search._regimes(), said, search.asked, search.estimates,
                             [_or_why(partial(search.lacks, v, STATED)) for v in (first, 9 * first)],
                             [search.notes(n) for n in (5, 37, 38)]])  # fmt: skip
        found[name] = Each(rows)
    return found


class _Served(inverse._PlainSearch):
    at = _Made.at
    replied = _Made.replied
    shape: Mapping[str, Any]
    asked: list[int]


def _plain_searches() -> Parts:
    found: dict[str, Any] = {}
    plan: Any = SimpleNamespace(runtime="vllm")
    for name, shape in SHAPES.items():
        rows = []
        for key, unit, budget in (("seq", 1, 50_000), ("seq", 8, 9_999), ("batch", 3, 777), ("batch", 10**6, 10**12)):
            search = _Served(plan, key, unit, budget, lambda: None)
            search.shape, search.asked = shape, []
            with patch.object(inverse, "answer", search.replied):
                said = [_or_why(partial(search.largest, margin)) for margin in (NO_MARGIN, Margin(share=0.3))]
            rows.append([search.lowest, search.limit, said, search.asked, search.notes(3)])
        found[name] = Each(rows)
    found["rank"] = _or_why(lambda: _Served(plan, "rank", 1, 5, lambda: None))
    return found


BOUNDS: tuple[tuple[dict[str, Any], str], ...] = (
    *((SMOL, key) for key in ("seq", "batch", "rank")),
    *(({**SMOL, "method": method}, "rank") for method in (LORA, {"name": "adalora", "total_step": 9}, "ia3", "oft",
    "vera")),
    *(({**SMOL, "mlp_chunks": 7}, key) for key in ("seq", "batch")), ({"model": "gpt2"}, "seq"),
    *(({**SMOL, "trainer": name}, key) for name in ("trl-dpo", "trl-kto", "trl-grpo") for key in ("seq", "batch")),
    ({"model": "t5-small", "seq": 40}, "target_seq"), ({**SMOL, "loss": "chunked"}, "seq"), ({**SMOL,
    "task": "infer"}, "seq"), ({**SMOL, "loss": "liger"}, "seq"),
    ({**SMOL, "generate": {"max_new_tokens": 3000}}, "seq"), ({"model": "gpt2", "generate": {"max_new_tokens": 1024}},
    "seq"),
    ({**SMOL, "method": {"name": "mezo", "adapter": LORA}}, "rank"),
)  # fmt: skip


def _bounds() -> Parts:
    """Where a search begins and ends."""

    def of(plan: Plan, key: str, unit: int) -> Any:
        search = inverse._Search(plan, key, unit, GIB, lambda: None)
        changed = search.at(search.lowest)
        return [search.name, search.lowest, search.limit, search.multiple_of, search._regimes(), search._chunk,
                changed.method, getattr(changed, key, None), search.notes(10**5)]  # fmt: skip

    return {
        f"{key} of {keys}": [_refused(keys, lambda plan, key=key, unit=unit: of(plan, key, unit)) for unit in (1, 6)]
        for keys, key in BOUNDS
    }


def _solutions() -> Parts:
    """Solutions of every shape as objects, and small questions that are solved."""
    plan, big, small = parse_plan({**SMOL, "budget": "3GiB"}), _result(900, budget_bytes=800, fits=False), _result(700)
    fitting = replace(small, budget_bytes=800, fits=True)
    rows = []
    for answer, without, own, following, refusal, margin in itertools.product(
        (None, 7), (None, 7, 9), (None, fitting), (None, big), (None, "why not"), (STATED, Margin(nbytes=150))
    ):
        if (own is None) != (answer is None and without is None):
            continue
        one = inverse.Solution("max-seq", "seq", plan, answer, without, margin, own, None if following is None and
                               refusal is None else 8, following, refusal, 50, 1, 800, 4, ("a warning",))  # fmt: skip
        rows.append(
            [one.to_dict(), one.records(), repr(one), one.kept_free_bytes, one.missing, one.binding, one.verdict]
        )
    found: dict[str, Any] = {"objects": Each(rows)}
    asked = (
        ("max-seq", {"model": "tiny", "budget": "600MiB"}, {}), ("max-rank", {"model": "tiny", "seq": 9,
        "method": LORA, "budget": "9GiB"},
        {"multiple_of": 16}),
        ("max-seq", {"model": "tiny", "budget": "9MiB"}, {}), ("max-seq", {"model": "tiny"}, {}), ("max-sec", SMOL, {}),
        ("max-seq", {"model": "tiny", "budget": "9GiB"}, {"multiple_of": 0}),
        ("max-seq", {"model": "llama-3.2-1b", "runtime": "llama.cpp", "device": "t4"}, {}),
        ("max-rank", {"model": "smollm2-135m", "runtime": "mlx", "device": "apple-16gb"}, {}),
    )  # fmt: skip
    for number, (question, keys, more) in enumerate(asked):
        counted: list[int] = []
        one = _or_why(partial(inverse.solve, question, keys, progress=partial(counted.append, 1), **more))
        found[f"solved {number}"] = one if isinstance(one, InputError) else [one.to_dict(), one.estimates, len(counted)]
    return found


def _curves() -> Parts:
    found = []
    for value, following, lowest, limit, unit, question in itertools.product((None, 100), (None, 8), (1, 4), (10**6,
        150),
                                                                             (1, 4), ("max-seq",
                                                                             "max-rank")):  # fmt: skip
        made = _Made("seq", unit, 900, lowest, limit, SHAPES["even"])
        solution: Any = SimpleNamespace(question=question, key="seq", plan=None, multiple_of=unit, budget_bytes=900,
            value=value,
                                        next_value=following)  # fmt: skip
        called: list[Any] = []
        with (
            patch.object(inverse, "answer", made.replied),
            patch.object(
                inverse, "_Search", lambda *given, made=made, called=called: called.append(given[1:4]) or made
            ),
        ):
            found.append([called, [(at, one.bytes["process"]) for at, one in inverse.curve(solution)]])
    return {"curves": Each(found)}


NAMED = ("t4", "rtx-4090", "a100-80gb", "apple-16gb", "iphone-15", "pixel-8", "raspberry-pi-5-8gb")


def _devices() -> Parts:
    """The smallest device of those that are named, of processes made up; and which are considered."""
    plan = parse_plan(SMOL)
    rows = []
    for process, live, margin, kind, names in itertools.product((15 * GIB, 23 * GIB, 500 * GIB), (GIB, 16 * GIB),
            (STATED, NO_MARGIN), (None, "gpu, consumer"), ((), NAMED[:3])):  # fmt: skip

        def estimated(one: Plan, process: int = process) -> Result:
            if process > 400 * GIB and one.device == "t4":
                raise InputError("not on a t4")
            return _result(process, uncertainty=0.04).held_against(int(one.budget_bytes() or 0))

        with (
            patch.object(inverse, "estimate", estimated),
            patch.object(inverse, "resolve", lambda one: SimpleNamespace(step=one.device, plan=one)),
            patch.object(inverse, "live_result", lambda one, kept, live=live: _result(9, sizes={"peak": live})),
        ):
            ask = partial(inverse.smallest_device, plan, kind, margin=margin, devices=names)
            one = _or_why(ask)
        rows.append(one if isinstance(one, InputError) else [one.to_dict(), one.records(), repr(one), one.binding])
    empty = inverse.DeviceAnswer(plan, None, None, (), None)
    ways = [
        [device.name, *(inverse.why_left_out(device, a, b) for a in (False, True) for b in (False, True)),
         [inverse.on_device(parse_plan(keys), device) for keys in (SMOL, {**SMOL, "runtime": "torch-cuda"})]]
        for device in catalogue()
    ]  # fmt: skip
    return {
        "answers": Each(rows),
        "none": [empty.to_dict(), empty.records(), repr(empty)],
        "ways": Each(ways),
        "refused": [_or_why(partial(inverse.smallest_device, plan, *given, devices=names)) for given, names in (
            (("nonsense",), ()), ((), ("rx-7900-xtx",)), ((), ("no-such-device",)))],
    }  # fmt: skip


# ---- formulas ----------------------------------------------------------------------------------

PLANS: dict[str, dict[str, Any]] = {
    "plain": SMOL, "one": {"model": "smollm2-135m"}, "one token": {"model": "smollm2-135m", "seq": 1, "batch": 3},
    "window": {"model": "mistral-7b-v0.1", "seq": 9}, "past its window": {"model": "mistral-7b-v0.1", "seq": 5000,
    "batch": 2},
    "generate": {**SMOL, "generate": {"max_new_tokens": 9}}, "generate two": {**SMOL,
    "generate": {"max_new_tokens": 2}},
    "generate, window": {"model": "mistral-7b-v0.1", "generate": {"max_new_tokens": 2}},
    "seq2seq": {"model": "t5-small", "seq": 40}, "images": {"model": "smolvlm-256m", "seq": 3000, "images": 2},
    "one image": {"model": "smolvlm-256m", "seq": 3000, "images": 1},
    "an image": {"model": "smolvlm-256m", "seq": 3000},
    "dpo": {**SMOL, "trainer": "trl-dpo"},
    "infer": {**SMOL, "task": "infer"},
    "tiny": {"model": "tiny", "seq": 9}, "small window": {"model": "windows", "seq": 24, "batch": 2},
    "window of one": {"model": "narrow", "seq": 5},
    "window of two": {"model": "narrower", "seq": 5},
}  # fmt: skip


def _regimes() -> Parts:
    def of(plan: Plan) -> Any:
        resolved = resolve(plan)
        own = formulas.regime_of(resolved)
        every = _or_why(lambda: formulas.regimes(plan))
        said = [own, own.condition(), formulas.general_regime(plan), formulas.images_of(resolved)]
        if isinstance(every, list):
            said += [every, [one.condition() for one in every]]
            said += [formulas.is_known(resolved, one) for one in every] if plan.model in ("tiny", "windows") else []
        return [*said, _or_why(lambda: formulas._new_tokens(resolved))]

    return {name: _refused(keys, of) for name, keys in PLANS.items()}


def _polynomials() -> list[Any]:
    b, s, h, n, m = (symbol(name) for name in "BSHNM")
    return [0, 7, b, s, 3 * b * s, b * s + s * s, 2 * b * s + 1, s * s - 3 * b, b * s * h - 9, (b * s) // 2,
        5 * s * s + b, b + n,
            m * b - m, 4 * b * b * s, (s * s * 3) // 4 + 8]  # fmt: skip


def _totals(moments: Mapping[str, Sequence[Any]], rows: Sequence[Any] = (), **sizes: Any) -> StepTotals:
    names = StepTotals.__dataclass_fields__
    given: dict[str, Any] = dict.fromkeys(names, 0)
    given |= {
        "moments": dict(moments),
        "rows": list(rows),
        "saved_by": [],
        "work_of_batches": (),
        "ranks": (),
        "host": None,
    }
    return StepTotals(**{**given, "math_attention": "", **sizes})


def _made_formulas() -> Parts:
    """Polynomials compared, put together and evaluated."""
    every = _polynomials()
    found: dict[str, Any] = {
        "means": ["".join(str(int(formulas._mean_covers(a, b, c))) for c in every) for a in every for b in every],
        "covers": [formulas._covers(a, [1, 2], b, [k, 2]) for a in every[:6] for b in every[:6] for k in (0, 1, 2)],
        "at": [[formulas._at(one, point) for point in formulas._POINTS] for one in every],
        "points": formulas._POINTS,
    }
    rng = random.Random(5)
    several = [
        [(f"m{i}", rng.choice(every) * rng.randrange(1, 5) + rng.randrange(9)) for i in range(5)] for _ in range(12)
    ]
    regimes = [formulas.Regime(), formulas.Regime(window_reached=True, window=30), formulas.Regime(window_reached=False,
               window=30), formulas.Regime(window_reached=True, window=1)]  # fmt: skip
    found["undominated"] = [
        [name for name, _ in formulas.undominated(one, regime)] for one in several for regime in regimes
    ]
    plan = parse_plan({**SMOL, "generate": {"max_new_tokens": 6}})
    compiled = [formulas.Compiled(plan, regimes[0], _totals({"a": [x for _, x in one[:3]], "b": [x for _, x
        in one[3:]]},
                parameters=one[0][1], buffers=3, optimizer=one[1][1], communication=4, reference=2), {"H": 5}, {"M": 3})
                for one in several]  # fmt: skip
    found["moments"] = [[name for name, _ in one.moments] for one in compiled]
    found["given"] = [compiled[0].given, replace(compiled[0], plan=parse_plan(SMOL)).given]
    found["components"] = [
        [str(one.component(name)) for name in ("resident", "parameters", "saved")] for one in compiled
    ]
    found["values"] = Each([{k: int(v) for k, v in one.evaluate(b, s).items()} for one in compiled for b, s in ((1,
        1), (4, 9),
                            (2, 64))])  # fmt: skip
    return found


def _joined() -> Parts:
    """Totals at a few numbers as polynomials in these."""

    def linear(values: Mapping[str, int]) -> StepTotals:
        n, k = values["M"], values.get("B", 1)
        return _totals({"loss": [9 * n + k, 4], "forward": [3 * n * k]}, parameters=50, saved=7 * n + 2 * k)

    def square(values: Mapping[str, int]) -> StepTotals:
        n = values["M"]
        return _totals({"loss": [n * n + 4 * n]}, saved=3 * n * n - n, buffers=2)

    def cube(values: Mapping[str, int]) -> StepTotals:
        return _totals({"loss": [values["M"] ** 3]}, saved=5)

    def covered(values: Mapping[str, int]) -> StepTotals:
        n = values["M"]
        return _totals({"loss": [100 * n], "kernel": [50 + n % 2]}, saved=n)

    def other(values: Mapping[str, int]) -> StepTotals:
        n = values["M"]
        return _totals({"loss": [10 * n] * (1 + (n > 3))}, saved=n)

    def uneven(values: Mapping[str, int]) -> StepTotals:
        n = values["M"]
        return _totals({"loss": [10 * n], "odd": [9 * n + 40 * (n == 4)]}, saved=n)

    found = {}
    for name, (axes, ask) in {"linear": ("M", linear), "both": ("BM", linear), "square": ("M", square), "cube": ("M",
        cube),
                              "covered": ("M", covered), "other": ("M", other), "uneven": ("M",
                              uneven)}.items():  # fmt: skip
        asked: list[Any] = []

        def at(values: Mapping[str, int], ask: Any = ask, asked: list[Any] = asked) -> StepTotals:
            asked.append(dict(values))
            return ask(values)  # type: ignore[no-any-return]

        try:
            one = formulas._joined(list(axes), at)
            found[name] = [
                asked,
                str(one.saved),
                str(one.parameters),
                {k: list(map(str, v)) for k, v in one.moments.items()},
            ]
        except OtherStructure as error:
            found[name] = [asked, str(error)]
    return found


def _compiled() -> Parts:
    """A small model's formulas under every argument."""
    keys = {"model": "tiny", "batch": 2, "seq": 30, "method": LORA}
    ways: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "plain": (keys, {}), "rank": (keys, {"open_rank": True}),
        "rows": (keys, {"keep_rows": True}), "batch": (keys, {"numbers": ("batch",)}), "seq": (keys,
        {"numbers": ("seq",)}),
        "chunks": (keys, {"chunk": 16}),
        "one": ({"model": "tiny", "seq": 1}, {}), "regime": (keys, {"regime": formulas.Regime(batch_one=True)}),
        "new tokens": ({**keys, "generate": {"max_new_tokens": 4}}, {}),
        "refused": ({"model": "llama-3.2-1b", "runtime": "llama.cpp"}, {}),
    }  # fmt: skip

    def of(plan: Plan, more: Mapping[str, Any]) -> Any:
        one = formulas.compile_plan(plan, **more)
        sizes = [str(one.component(name)) for name in formulas.COMPONENTS]
        return [one.regime, one.values, one.lengths, one.given, sizes, [(name, str(size)) for name, size
            in one.moments],
                len(one.totals.rows), [str(row.nbytes) for row in one.totals.rows]]  # fmt: skip

    return {name: _refused(given, lambda plan, more=more: of(plan, more)) for name, (given, more) in ways.items()}


# ---- results and sentences ---------------------------------------------------------------------

_MOMENTS = (Moment("loading", "host", 90, "the file", 30), Moment("step", "device", 70, "the peak"),
            Moment("evaluation", "device", 95, "logits"), Moment("saving", "host", 20, "a copy", 0, True))  # fmt: skip
RESULTS: dict[str, Result] = {
    "plain": _result(900), "fits": _result(900, budget_bytes=1000, fits=True), "tight": _result(980,
    budget_bytes=1000, fits=True),
    "too much": _result(1300, budget_bytes=1000, fits=False), "edge": _result(1000, budget_bytes=1050, fits=True),
    "infer": _result(900, task="infer", sizes={"kv_cache": 50}), "peft": _result(900, peft="0.17", transformers="4.57",
    communicated=5 << 20), "card": _result(5 * GIB, runtime="torch-cuda", sizes={"allocated_peak": 30,
        "reserved_peak": 40,
    "host_pinned": 4}, budget_bytes=6 * GIB, fits=True, phases=(Phase("load", 1, 2), Phase("forward", 3, 4)),
    lacking=3),
    "phone": _result(900, sizes={"dirty": 300, "used": 500, "kv_cache": 40, "compute": 9}, runtime="llama.cpp",
    against="dirty",
    limits={"dirty": 400, "used": 450}, budget_bytes=400, fits=False, devices=({"name": "CPU",
        "bytes": {"kv_cache": 1}},)),
    "used": _result(900, sizes={"dirty": 300, "used": 500}, runtime="llama.cpp", against="used", limits={"dirty": 310,
    "used":
    510}, budget_bytes=510, fits=True), "served": _result(900, runtime="vllm", serving={"kv_tokens": 40,
        "max_concurrency": 2.5},
    sizes={"device": 800}, against="device", budget_bytes=850, fits=True),
    "moments": _result(900, run_moments=_MOMENTS, largest=_MOMENTS[2], against="run", sizes={"run": 990},
    budget_bytes=2000,
    fits=True), "step is largest": _result(900, run_moments=_MOMENTS, largest=_MOMENTS[1], sizes={"run": 910}),
    "run": _result(900, run={"batches": 4000, "longest_seq": 1234}), "odds": _result(900, run={"batches": 1,
    "longest_seq": 9,
    "longest_seq_that_fits": 8, "oom_probability": 0.0123456, "reserved_quantiles": {"0.5": 1 << 30, "0.99": 3 << 30}}),
    "images": _result(900, images={"tiles": [1]}, ranks=({"ranks": "0-3", "bytes": {"peak": 3}},), warnings=("w<1",
    "w2"),
    assumptions=(Assumption("device", 3 << 30, "nobody says"), Assumption("system", "x", "nobody says"),
        Assumption("images", True,
    "a rule"))),
    "zeros": _result(900, sizes={"gradients": 0, "optimizer": 0, "adapters": 0, "buffers": 0, "communication": 0}),
}  # fmt: skip


def _objects() -> Parts:
    """Each result in every way in which it is shown."""
    found: dict[str, Any] = {}
    for name, one in RESULTS.items():
        found[name] = Each([
            one.to_dict(), [one.verdict_with(margin) for margin in MARGINS], [one.kept(margin) for margin in MARGINS],
                one.binds,
            [one.verdict, one.uncertainty_bytes, one.margin_bytes], repr(one), one.records(), sentences.summary(one),
            [sentences.verdict(one, margin, how) for margin in MARGINS for how in ("", "with these changes")],
            sentences.run_summary(one), sentences.moments_summary(one), sentences.what_binds(one),
                sentences.moment_rows(one),
            sentences.breakdown(one), sentences.result_html(one), sentences.assumed(one.assumptions),
            [sentences.counted(one), sentences.counted(one, "vllm_needed"), sentences.counted(one, "vllm")],
            [[held.fits, held.budget_bytes] for held in map(one.held_against, (899, 900, 901))],
        ])  # fmt: skip
    found["values"] = [sentences.shown_value(one) for one in (True, False, 3, "x", None)]
    found["runtimes"] = [sentences.runtime_of(parse_plan({**SMOL, **more})) for more in ({}, {"device": "t4"},
        {"device":
                         "apple-16gb"}, {"runtime": "torch-cuda"})]  # fmt: skip
    return found


def _figures() -> Parts:
    """Results of figures, of several limits."""
    found = []
    for limits, keys in itertools.product(
        ((Limit("process", 900, None, 900),), (Limit("process", 900, 1000, 900),), (Limit("dirty", 300, 320, 900,
        "dirty!"),
         Limit("used", 500, 900, 900, "used!")), (Limit("dirty", 300, 900, 900, "dirty!"), Limit("used", 500, 499,
             900, "used!"))),
        (SMOL, {**SMOL, "runtime": "torch-cuda", "device": "t4"}),
    ):  # fmt: skip
        figures = Figures({"process": 900, "dirty": 300, "used": 500}, {"a": 3, "b": 9, "c": 9}, 40, limits, 7, ("w",),
                          (Assumption("x", 1, "y"),), (Phase("load", 1, 2),), (), {"kv_tokens": 3})  # fmt: skip
        found.append([results.result_of(parse_plan(keys), figures, margin) for margin in MARGINS])
    return {"figures": Each(found)}


def _made_results() -> Parts:
    """Results of steps made up: of a replay, with a server beside, and with what rests on the host."""
    parts = {name: 10 * (i + 1) for i, name in enumerate(results.COMPONENTS)}
    none = {**parts, "communication": 0, "reference": 0}
    usage = Usage(5 * GIB, 6 * GIB, (Phase("load", 1, 2),), warnings=("of a replay",), lacking=7)
    beside = usage._replace(
        beside=Beside({"vllm": 3, "vllm_needed": 9}, 11, ("vllm_needed", 9, 8, 9, "too little"), "said")
    )
    rows = []
    asked: tuple[dict[str, Any], ...] = (
        SMOL, {**SMOL, "task": "infer"}, {**SMOL, "runtime": "torch-cuda", "device": "t4"}, {**SMOL,
            "optimizer": "adamw-8bit"},
        {**SMOL, "sharding": {"name": "ddp", "world_size": 4}, "gradient_accumulation_steps": 5},
        {**SMOL, "gradient_accumulation_steps": 4}, {"model": "smollm2-135m", "seq": 9999, "task": "infer"},
        {**SMOL, "trainer": "trl-grpo", "batch": 8}, {"model": "smolvlm-256m", "seq": 3000, "images": 2},
        {"model": "qwen3-30b-a3b", "dtype": "nf4", "method": "lora"}, {"model": "qwen3-30b-a3b", "trainer": "trl-dpo"},
        {"model": "qwen3-30b-a3b", "trainer": "trl-reward", "dtype": "int8", "method": "lora"}, {"model": "gpt2",
        "seq": 1024},
    )  # fmt: skip
    for keys in asked:
        plan = parse_plan(keys)
        spec = resolve(plan).spec if "30b" not in plan.model else load(plan.model)
        for sizes, of, host in (
            (parts, None, {}),
            (none, usage, {}),
            (parts, beside, {"host_pinned": 4, "host_peak": GIB}),
        ):
            moments = {"forward": 30, "loss backward": 40, "decode": 70 if of is usage else 5}
            rows.append(_or_why(partial(results.make_result, plan, spec, sizes, moments, of, host, ("own",))))
    files = [
        SimpleNamespace(parameters=count, dtype=dtype)
        for count in (None, 50, 60)
        for dtype in (None, "float32", "bfloat16")
    ]
    plans = [
        parse_plan({**SMOL, **more}) for more in ({}, {"method": "lora"}, {"task": "infer"}, {"dtype": "bfloat16"})
    ]
    specs: list[Any] = [SimpleNamespace(checkpoint=one) for one in (None, *files)]
    beyond: list[Any] = [
        SimpleNamespace(head="causal-lm", made_for=a, positions=b) for a in (63, 64, 65) for b in (60, 64, 10**9)
    ]
    return {
        "results": Each(rows),
        "files": [results._on_disk(plan, spec, 50) for plan in plans for spec in specs],
        "beyond": [results._beyond(plan, spec) for plan in plans for spec in beyond],
        "seen": [results._seen(Seen(tiles, 30, 40, tokens, around), count) for tiles in (1, 2) for tokens in (None, 0,
        2197)
                 for around in (0, 29) for count in (1, 2)],
        "phases": [results._phase_note(parse_plan({**SMOL, "batch": 8, **more}), at) for more
        in ({"trainer": "trl-grpo"},
                   {"trainer": "trl-dpo"}, {"trainer": "trl-rloo"}, {}) for at in ("prefill", "layer decode",
                   "scoring", "loss")],
    }  # fmt: skip


def _run_moments() -> Parts:
    found = []
    shapes = (
        {"optimizer step": 20, "loss": 44},
        {"optimizer step": 200, "loss": 44},
        {"loss": 44},
        {"optimizer step": 4},
    )
    for keys, asked, more, missing, moments in itertools.product(
        (SMOL, {**SMOL, "runtime": "torch-cuda"}), (None, "step", "loading", "evaluation", "saving"), ({},
        {"host_all": 500, "host_peak":
         50, "reserved_peak": 160}), ([], ["evaluation: no samples; give some", "saving: nothing"]), shapes,
    ):  # fmt: skip
        if moments is not shapes[0] and (asked or more):
            continue
        plan = parse_plan({**keys, "run": {"eval_samples": 9, **({"moment": asked} if asked else {})}})
        resolved: Any = SimpleNamespace(plan=plan,
            step=SimpleNamespace(device=SimpleNamespace(has_own_memory=plan.runtime
                                        == "torch-cuda")))  # fmt: skip
        one = _result(900, sizes=more, moments=moments, warnings=("of the step",), budget_bytes=910)
        with patch.object(run_moments, "moments_of", lambda *given, missing=missing: (_MOMENTS, missing)):
            said = _or_why(partial(run_moments.with_moments, one, resolved))
        found.append(said if isinstance(said, InputError) else [said.run_moments, said.largest, said.fits,
            said.warnings,
                     said.bytes["run"], said.against])  # fmt: skip
    return {"moments": Each(found)}


def _tables() -> Parts:
    run = {"model": "m", "device": "d", "date": "2026", "versions": {}, "plan": {}, "error": ""}
    runs = [MeasuredRun(predicted=a, measured=b, **run) for a in ({}, {"process": 3 << 20}, {"process": 100,
        "reserved": 50})
            for b in ({}, {"process": 2 << 20}, {"process": 0, "reserved": 40})]  # fmt: skip
    limits = (Limit("device", 3, 4, 3),)
    layers = [
        offload.Layers(parse_plan(SMOL), answer, 17, (3, 4), limits, RESULTS["phone"]) for answer in (None, 0, 3, 17)
    ]
    quant = offload.Quant(parse_plan(SMOL), RESULTS["phone"], limits, "fits")
    return {
        "html": [tabular.html_table(one) for one in ([], [{"a": 1234, "b": "<x>"}, {"a": True, "b": 2.5}])],
        "frames": [_or_why(lambda name=name: tabular.frame([{"a": 1}], name)) for name in ("excel",)],
        "runs": [
            [one.line(), [one.off(name) for name in ("process", "reserved", "allocated")]]
            for one in runs
            if one.predicted
        ],
        "medians": [medians(runs), medians(runs[:1])],
        "layers": Each([[one.verdict, repr(one), one.records(), one.to_dict()] for one in layers]),
        "quants": [repr(quant), quant.to_dict()],
    }


# ---- explanations ------------------------------------------------------------------------------


def _row(
    module: str, operator: str, nbytes: int, times: int = 1, also: tuple[str, ...] = (), symbols: Any = None
) -> Row:
    formula = None if symbols is None else symbol("B") * symbol("S") * nbytes
    return Row(module, operator, 0, (2, 64, nbytes), "bfloat16", times, nbytes, Fraction(nbytes, 128), "because",
        also, symbols,
               formula)  # fmt: skip


def _explanation(layers: Sequence[tuple[tuple[int, ...], ...]], rows: Sequence[Sequence[Row]], keys: Mapping[str, Any],
                 outside: Mapping[str, Sequence[Row]]) -> Explanation:  # fmt: skip
    parts = [Part(name, (), tuple(own)) for name, own in outside.items() if name == "embedding"]
    parts += [Part(layers_name(units), units, tuple(own), "B >= 2") for units, own in zip(layers, rows, strict=True)]
    parts += [Part(name, (), tuple(own)) for name, own in outside.items() if name != "embedding"]
    return Explanation(parse_plan({**SMOL, **keys}), tuple(parts), 999, (("B", 2), ("S", 64)), (), 128, "token")


def _views() -> Parts:
    b, s, h = symbol("B"), symbol("S"), symbol("H")
    plain, other = _row("mlp", "SiluBackward0", 96, symbols=(b, s, h)), _row("attn", "MulBackward0", 33, 2)
    inner, lora = (
        _row("mlp.base_layer", "SiluBackward0", 96),
        _row("mlp.lora_A", "MmBackward0", 7, also=("x (Mm)", "y (Mm)")),
    )
    norm, head = _row("norm", "RmsBackward0", 5), _row("lm_head", "MmBackward0", 300)
    first = _explanation(
        [((0,), (1,), (2,)), ((3,),)], [[plain, other, norm], [other]], {}, {"embedding": [norm], "loss": [head]}
    )
    second = _explanation([((0,), (2,)), ((1,), (3,))], [[lora, inner, other], [norm, lora]], {"method": LORA},
                          {"embedding": [norm, lora], "head": [lora], "loss": []})  # fmt: skip
    third = _explanation([((0, 1), (2, 3))], [[plain]], {"checkpointing": "every-2"}, {"loss": [head]})
    views = {"one": explanation_view.view_of(first), "two": explanation_view.side_by_side(first, second),
             "back": explanation_view.side_by_side(second, first), "checkpoints": explanation_view.view_of(third),
             "with itself": explanation_view.side_by_side(first, first),
             "unlike": explanation_view.side_by_side(first, third),
             "none": explanation_view.view_of(_explanation([], [], {}, {"loss": [head]}))}  # fmt: skip
    found: dict[str, Any] = {}
    for name, view in views.items():
        sections = [[one.heading, one.count, one.per_token, one.nbytes, one.layers, [(line.row.module, line.kept)
            for line in
                     one.lines]] for one in view.sections]  # fmt: skip
        found[name] = Each([view.to_dict(), view.labels, view.saved, view.values, view.total_per_token, view.per,
            view.plan.method,
                            sections])  # fmt: skip
        found[f"layers, {name}"] = [_or_why(lambda text=text, view=view: [one.name for one
            in view.of_layer(text).sections])
                                    for text in ("0", "1", "3", "4", "5", "-1", "x", "٣", "")]  # fmt: skip
    gap = explanation_view.view_of(_explanation([((0,), (3,))], [[plain]], {}, {}))
    found["gap"] = [_or_why(lambda text=text: gap.of_layer(text).sections[0].name) for text in ("0", "1", "3", "4")]
    found["rows"] = [[explanation_view.shape_of(one), explanation_view.numbers_of(one), explanation_view.why_of(one),
        one.to_dict()]
                     for one in (plain, other, inner, lora, norm, head)]  # fmt: skip
    numbers = [Fraction(n, d) for n in (0, 1, 4, 9, 92360, -3) for d in (1, 2, 8)]
    found["numbers"] = [[explanation_view.mixed(one), exact(one)] for one in numbers]
    found["merged"] = [
        explanation_view._merged(a, b) for a, b in (("abc", "axc"), ("abc", "xabc"), ("", "ab"), ("abc", "cxb"))
    ]
    found["within"] = [explanation_view._is_within(_row(a, "M", 3), _row(b, "M", 3)) for a, b in (("a", "a.b"),
        ("a.b", "a"),
                       ("a", "ab"), ("a", "a"), ("a.b", "a.c"))]  # fmt: skip
    found["names"] = [
        layers_name(one) for one in (((0,),), ((0,), (1,)), ((0,), (1,), (2,), (5,)), ((0, 1), (2, 3)), ((7, 8),))
    ]
    found["ranges"] = [_ranges(one) for one in ([], [3], [1, 2], [1, 2, 3], [0, 2, 3, 4, 5, 7], [1, 3, 5])]
    return found


# ---- snapshots ---------------------------------------------------------------------------------


def _trace(sizes: Sequence[int], frees: Mapping[int, int] | None = None, device: int = 0) -> snapshot_comparison.Trace:
    """A trace in which each allocation is one entry, and some are freed so many entries later."""
    frees = frees or {}
    frames = [{"filename": "mlp", "line": 1, "name": "silu"}, {"filename": "x.py", "line": 2, "name": "forward"}]
    found = [snapshot_comparison.Allocation(2 * i, n, 2 * (i + frees[i]) - 1 if i in frees else None, frames)
             for i, n in enumerate(sizes)]  # fmt: skip
    live = [sum(sizes[: (i + 1) // 2]) for i in range(2 * len(sizes) + 1)]
    return snapshot_comparison.Trace(found, live, [2 * n for n in live], device)


def _snapshots() -> Parts:
    """Sequences of sizes aligned, and traces compared."""
    rng = random.Random(11)
    step = [rng.randrange(1, 40) for _ in range(60)]
    rows: dict[str, list[int]] = {
        "same": step, "cut": step[5:], "begun": step[:40], "twice": step * 2, "before": [9, 9, 9, *step],
        "without": step[:20] +
        step[23:], "with": [*step[:30], 77, 78, *step[30:]], "other": [*step[:10], 99, 98, *step[12:]],
            "after": [*step, 5, 6, 7],
        "mixed": [*step[:9], 88, *step[11:30], 81, 82, 83, *step[29:]], "unlike": [500 + n for n in range(40)],
        "few": step[:3],
        "empty": [], "repeated": [4] * 30, "end": [*step[:-3], 71, 72], "thrice": [3, *step[30:], *step, *step[:10]],
    }  # fmt: skip
    found: dict[str, Any] = {}
    for name, recorded in rows.items():
        one = snapshot_comparison.aligned(recorded, step)
        best = snapshot_comparison.best_alignment(recorded, step) if recorded else None
        found[name] = [one, one.score, best, sorted(snapshot_comparison._offsets(recorded, step).items()),
                       snapshot_comparison.aligned(recorded, step, 2, 3)]  # fmt: skip
        if recorded and best is not None:
            frees = {i: 1 + i % 5 for i in range(0, len(recorded), 2)}
            own = {i: 1 + i % 5 + (i == 14) - (i == 26) for i in range(0, len(step), 2)}
            theirs = _trace(recorded, frees, 1)
            found[f"{name}, compared"] = Each([
                snapshot_comparison._compared(theirs, ours, *best, number, (start, start + len(step))).to_dict()
                for ours, start, number in ((_trace(step, own), 0, 1), (_trace(step, frees), 0, 2),
                                            (_trace([1, 1, *step], {i + 2: n for i, n in own.items()}), 2, 2))
            ])  # fmt: skip
    small = [[rng.randrange(3) for _ in range(rng.randrange(12))] for _ in range(60)]
    found["small"] = Each([snapshot_comparison.aligned(a, b) for a, b in zip(small[::2], small[1::2], strict=True)])
    found["steps"] = [snapshot_comparison._step(one, more) for one in ({}, {0: 3}, {0: 3, 1: 4}, {-1: 2, 1: 2}, {0: 1,
        2: 2}, {1: 3})
                      for more in (-1, 0, 1, 2)]  # fmt: skip
    trace = _trace([5, 0, 9, 2])
    found["trace"] = [trace.sizes, trace.at_least(3).sizes, trace.at_least(2).sizes, [trace.entry_of(n) for n
        in range(5)],
                      trace.totals(0, 2), trace.totals(1, 4)]  # fmt: skip
    asked = [(step, step, 60), ([], step, 60), (step, step, 0)]
    for number, (recorded, predicted, stop) in enumerate(asked):
        with (
            patch.object(snapshot_comparison, "read_pickle"),
            patch.object(snapshot_comparison, "read_trace", lambda given, sizes=recorded: _trace(sizes)),
            patch.object(
                snapshot_comparison,
                "_predicted",
                lambda plan, n, sizes=predicted, stop=stop: (_trace(sizes), [(0, stop)]),
            ),
        ):
            ask = partial(snapshot_comparison.compare_snapshot, Path("x.pickle"), parse_plan(SMOL), 2)
            found[f"asked {number}"] = _or_why(lambda ask=ask: ask().to_dict())
    found["limits"] = [getattr(snapshot_comparison, name) for name in ("MOST_ENTRIES", "WINDOW", "FURTHEST",
        "MOST_EDITS", "RARE",
                       "JUST_BEHIND", "_CANDIDATES", "_NEARBY", "_DEEPEST", "_MOST_FRAMES",
                       "_LONGEST_NAME")]  # fmt: skip
    return found


def _read_snapshots() -> Parts:
    def entry(action: str, addr: Any = 1, size: Any = 10) -> dict[str, Any]:
        return {"action": action, "addr": addr, "size": size, "frames": []}

    trace = [entry("segment_alloc", 0, 100), entry("alloc", 1, 10), entry("alloc", 2, 20), entry("free_requested", 1,
        10),
             entry("free_completed", 1, 10), entry("segment_map", 0, 50), entry("alloc", 1, 7), entry("segment_unmap",
                 0, 30),
             entry("free_requested", 9, 4), entry("segment_free", 0, 20), entry("snapshot")]  # fmt: skip
    segments = [{"device": 0, "total_size": 300, "blocks": [{"state": "active_allocated", "requested_size": 30,
        "size": 64}, {"state":
                 "inactive", "size": 9}]}, {"device": 1, "total_size": 70, "blocks": []}, {"total_size": 5,
                 "blocks": [{"state":
                 "active_allocated", "size": 8}]}]  # fmt: skip
    plain = [one for one in trace if one["action"] != "free_requested"]
    asked: list[Any] = [
        {"device_traces": [trace], "segments": segments}, {"device_traces": [[], plain], "segments": segments},
        {"device_traces": [trace[:3], plain], "segments": []}, [], 3, {}, {"device_traces": []},
        {"device_traces": [[]]},
        {"device_traces": [3]}, {"device_traces": [[entry("segment_alloc")]], "segments": []},
        {"device_traces": [trace]},
        {"device_traces": [[entry("alloc", "x")]], "segments": []}, {"device_traces": [[entry("alloc", 1, -1)]],
        "segments": []},
        {"device_traces": [[entry("alloc", 1, 0), 3]], "segments": []}, {"device_traces": [[entry("alloc", 1 << 64)]],
        "segments": []},
        {"device_traces": [[entry("alloc", True)]], "segments": []}, {"device_traces": [trace],
        "segments": [{"total_size": 3}]},
        {"device_traces": [trace], "segments": [3]}, {"device_traces": [[entry("alloc", (1 << 64) - 1, 0)]],
        "segments": []},
        {"device_traces": [trace], "segments": [{"total_size": 3, "blocks": [4]}]},
    ]  # fmt: skip

    def said(given: Any) -> Any:
        one = snapshot_comparison.read_trace(given)
        return [one.allocations, one.live, one.reserved, one.device]

    return {"snapshots": Each([_or_why(partial(said, one)) for one in asked])}


# ---- servers, clusters, comparisons, advice ----------------------------------------------------


def _servers() -> Parts:
    found: dict[str, Any] = {
        "largest": [
            serving.largest(lambda n, most=most: n <= most, limit)
            for most in (0, 1, 2, 7, 8, 100)
            for limit in (1, 2, 8, 50)
        ]
    }
    options = engine_of("vllm").options(max_num_seqs=200, max_model_len=99, max_num_batched_tokens=999)
    made = serving.Serving(
        "m", "l4", options, {"total": 9}, 4, (serving.Context(9, 2, 2.0),), 64, 2.5, 99, ("log",), None, True
    )
    mends = []
    for one, working in itertools.product(
        (made, replace(made, longest=50, least_share=0.333), replace(made, longest=0)), (0, 1, 2)
    ):
        asked: list[Any] = []

        def starts(asked: list[Any] = asked, working: int = working, **update: Any) -> bool:
            asked.append(update)
            return len(asked) % 3 < working

        mends.append([serving._mends(one, starts), asked])
    found["mends"] = mends
    found["objects"] = [
        [one.to_dict(), one.most_requests] for one in (made, replace(made, max_concurrency=10**6, refusal="no"))
    ]
    layouts = []
    for most, refused in itertools.product((1, 2, 3, 8, 16, 64, 99), ((), ((4, 1),), ((1, 1),))):

        def serve(
            model: str, device: str, contexts: Any, options: Any, says: bool, most: int = most, refused: Any = refused
        ) -> Any:
            sizes = options.tensor_parallel_size, options.pipeline_parallel_size
            if sizes in refused:
                raise InputError("refused")
            return SimpleNamespace(
                fits=sizes[0] * sizes[1] * (2 if device == "a100-80gb" else 1) >= most, max_concurrency=1.5
            )

        with patch.object(serving, "serving", serve):
            layouts.append(_or_why(lambda: serving.smallest_cluster("m", ["l4", "a100-80gb"], options)))
    found["layouts"] = Each(layouts)
    return found


def _clusters() -> Parts:
    plan = parse_plan(SMOL)
    blocks: list[Any] = [None, *cluster.WAYS, *cluster.OFFLOADED, {"tp": 4}, {"name": "fsdp2", "tp": 2,
        "world_size": 8},
                         {"name": "zero2", "offload_optimizer": "none"}, {"name": "fsdp2",
                         "reshard_after_forward": 3}]  # fmt: skip
    found: dict[str, Any] = {
        "ways": [cluster.way_of(one) for one in blocks],
        "layouts": [list(cluster._layouts(most, own, ways)) for most in (1, 2, 5, 8) for own in ({},
        {"overlap_comm": True})
                    for ways in (cluster.WAYS, cluster.OFFLOADED)],
        "parts": [sorted(cluster._parts(one)) for one in blocks if one],
        "reasons": [cluster._reason(one) for one in ("sharding: fsdp2 does not go with dtype: nf4; take another",
        "loss has no rule",
                    "lars has no rule with sharding; leave it", "x (`estimator y`) z; w", "muon has no rule here yet")],
        "refused": [cluster._ways(one) for one in ({}, {"a": {frozenset({"fsdp2"}), frozenset({"fsdp2", "tp"})}},
        {"a": {frozenset({
                    "fsdp2", "tp"})}, "b": {frozenset({"tp"}), frozenset({"zero3"})}, "c": {frozenset({"zero3"})}})],
        "given": [_or_why(lambda one=one: cluster._without_sharding({**SMOL, "sharding": one}, [])[1]) for one in (None,
        {}, "ddp", {"name":
                  "ddp"}, {"tp": 2}, {"overlap_comm": True}, {"world_size": 2}, {"reshard_after_forward": True},
                  {"nonsense": 1})],
        "wrong": [_or_why(partial(cluster.smallest_cluster, SMOL, names, most)) for names, most in ((["t4"], 0),
        (["t4"], 4097),
                  (["t4"], True), ([], 2), (["rx-7900-xtx"], 2), (["iphone-15", "apple-16gb"], 1))],
    }  # fmt: skip
    objects = []
    for left in ((), (5,), (-5, 60), (-9, -3), (60, 5, -3), (5, -1, 60)):
        tried = tuple(
            cluster.Layout(find("t4"), 2**i, None if not i else {"name": "ddp", "world_size": 2**i}, plan,
                           _result(900 - i, communicated=i, budget_bytes=900 - i + rest, fits=rest >= 0), STATED, True)
            for i, rest in enumerate(left)
        )  # fmt: skip
        if tried:
            one = cluster.Cluster(plan, 8, tried, {"why": ("x",)})
            objects.append(
                [one.to_dict(), one.records(), repr(one), one.most, one.nearest.label, [x.label for x in one.layouts]]
            )
    found["objects"] = Each(objects)
    return found


def _comparisons() -> Parts:
    blocks: list[dict[str, Any]] = [
        {"name": "full"}, LORA, {"name": "lora"}, {**LORA, "target_modules": "all-linear"}, {"name": "lora",
        "target_modules": ["a", "b"],
        "use_dora": True}, {"name": "adalora", "init_r": 5}, {"name": "ia3"}, {"name": "mezo", "adapter": LORA},
        {"name": "own", "x": 3},
        {"name": "freeze", "top_layers": 2},
    ]  # fmt: skip
    found: dict[str, Any] = {
        "labels": [comparison.label(one) for one in blocks],
        "of plans": [comparison.label_of(parse_plan({**SMOL, **more})) for more in ({}, {"task": "infer"},
        {"method": LORA}, {"task":
                     "infer", "method": LORA})],
        "unquantised": [comparison._unquantised({"dtype": dtype, "rest_dtype": "float16", "double_quant": True,
        "seq": 3}) for dtype in (
                        "nf4", "int8", "bfloat16")] + [comparison._unquantised({"dtype": "nf4"}),
                        comparison._unquantised({})],
        "lengths": [_or_why(partial(comparison.usual_lengths, keys)) for keys in (SMOL, {"model": "gpt2"},
        {"model": "bert-base"},
                    {"model": "smolvlm-256m", "images": 1}, {"model": "smolvlm-256m", "images": 9},
                    {"model": "t5-small"},
                    {"model": "llama-3.2-1b", "runtime": "llama.cpp"})],
        "few lengths": comparison.usual_lengths({"model": "gpt2"}, (2048, 4096)),
    }  # fmt: skip
    rows = []
    for sizes in ((10, 20, 30), (10, 98, 200), (98, 99, 200), (200, 300, 400), (97, 10, 300), (95, 96, 97)):
        on = {
            seq: _result(size, budget_bytes=100, fits=size <= 100)
            for seq, size in zip((16, 32, 64), sizes, strict=True)
        }
        rows.append(comparison.Row("x", {"name": "full"}, on, {"a": on, "b": {k: _result(3) for k in on}}, {}))
    one = comparison.Comparison(parse_plan(SMOL), (16, 32, 64), 32, tuple(rows), {"a": 100, "b": 100, "c": 9}, ())
    found["reach"] = [one.reach(row, "a") for row in rows]
    one = replace(one, limits={"b": 3, "a": 100})
    found["groups"] = [one.groups(), one.records(), one.to_dict(), repr(one)]
    plans = [parse_plan({**SMOL, **more}) for more in ({}, {"device": "apple-16gb"}, {"device": "t4"},
        {"device": "rtx-4090"}, {"device":
             "rtx-3090"}, {"device": "h100-80gb"}, {"device": "a100-40gb"}, {"device": "a100-80gb"})]  # fmt: skip
    found["alike"] = [comparison._answers_for(a, b) for a in plans for b in plans]
    found["shares"] = comparison._share(
        RESULTS["plain"], _result(450, trainable_parameters=16, sizes={"saved": 34, "peak": 300})
    )
    return found


class _Try(advice.Candidate):
    """A candidate whose bytes and work are made up of its changes."""

    @property
    def result(self) -> Result:  # type: ignore[override]
        return _result(self.bytes)

    @property
    def bytes(self) -> int:
        saved = {"checkpointing": 300, "loss": 90, "mlp_chunks": 40, "optimizer": 200, "saved_activations": 150,
            "dtype": 170,
                 "keep_logits": 30, "attention": 60, "use_cache": 20, "method": 10, "sharding": 500,
                 "batch": 35}  # fmt: skip
        return 2000 - sum(saved.get(next(iter(one.keys)), 0) + 7 * one.weight for one in self.changes)

    @property
    def floor(self) -> int:  # type: ignore[override]
        return self.bytes - 50


def _advised() -> Parts:
    """The changes of each kind of plan, and the way to the cheapest of them, of bytes made up."""
    asked: dict[str, dict[str, Any]] = {
        "plain": SMOL, "lora": {**SMOL, "method": LORA, "batch": 8}, "infer": {**SMOL, "task": "infer",
        "attention": "eager"},
        "card": {**SMOL, "runtime": "torch-cuda", "dtype": "float32", "method": LORA, "use_cache": True},
        "grpo": {**SMOL, "trainer": "trl-grpo", "batch": 8, "method": LORA, "gradient_accumulation_steps": 4},
        "dpo": {**SMOL, "trainer": "trl-dpo", "method": LORA, "reference": "copy"}, "checkpointing": {**SMOL,
        "checkpointing": "layer",
        "loss": "chunked", "keep_logits": False}, "ddp": {**SMOL, "sharding": {"name": "ddp", "world_size": 4}},
        "fsdp2": {**SMOL, "runtime": "torch-cuda", "sharding": {"name": "fsdp2", "world_size": 4,
        "reshard_after_forward": False}},
        "zero2": {**SMOL, "runtime": "torch-cuda", "sharding": {"name": "zero2", "world_size": 4}}, "8 bits": {**SMOL,
        "optimizer":
        "adamw-8bit", "saved_activations": "int8"}, "sgd": {**SMOL, "optimizer": "sgd", "mlp_chunks": 3},
    }  # fmt: skip
    found: dict[str, Any] = {}
    for name, keys in asked.items():
        plan = parse_plan(keys)
        axes = [advice._working_axes(plan), advice._free_axes(plan), advice._lossy_axes(plan), [advice._on_host(plan)],
                [advice._on_cards(plan)]]  # fmt: skip
        found[name] = Each([[[(c.text, c.keys, c.fidelity, c.weight) for c in axis] for axis in kind] for kind in axes])
        made = [None if plan.sharding is None else advice._sharing_axis(plan.sharding, lambda change: None)]
        found[f"{name}, shared"] = [[(c.text, c.keys, c.weight) for c in axis] for axis in made if axis]
    for name in ("plain", "lora", "card", "infer", "ddp"):
        plan = parse_plan(asked[name])
        totals = _totals({}, saved=40, gradients=90 if name == "lora" else 10)
        calls: list[int] = []

        def candidate(plan: Plan, changes: Any, progress: Any, long: Any = None, *, totals: Any = totals,
                      calls: list[int] = calls) -> Any:  # fmt: skip
            calls.append(len(changes))
            keys = {key: value for one in changes for key, value in one.keys.items() if key == "batch"}
            if any(one.keys.get("checkpointing") == "matmul" for one in changes):
                return None
            work = 1000 + sum(100 * one.weight for one in changes if one.fidelity == 0 and "checkpointing" in one.keys)
            return _Try(changes, plan.model_copy(update=keys), None, totals, work)  # type: ignore[arg-type]

        with (
            patch.object(advice, "_candidate", candidate),
            patch.object(advice, "live_of", lambda resolved, totals: _result(3, sizes={"host_all": 5})),
        ):
            rows = []
            for budget, margin in itertools.product((2500, 1900, 1500, 1100, 300), (STATED, NO_MARGIN)):
                calls.clear()
                one = advice._advise(plan, advice.Limit(budget, margin), lambda: None, dict)
                rows.append([[step.to_dict() for step in one.steps], one.best.bytes, one.verdict, len(one.candidates),
                    len(calls),
                             [(c.bytes, c.work) for c in one.front], repr(one), one.best.cost,
                             one.best.fidelity])  # fmt: skip
        found[f"way, {name}"] = Each(rows)
    tried = [advice._change("x", fidelity, 1 + weight, **keys) for fidelity, weight, keys in ((0, 0,
        {"loss": "chunked"}), (3, 1,
             {"keep_logits": False}), (7, 0, {"checkpointing": "every-2"}), (2, 0, {"mlp_chunks": 8}))]  # fmt: skip
    sets = [one for n in range(4) for one in itertools.combinations(tried, n)]
    found["lost"] = [[advice._lost(one), advice._worth_trying(one)] for one in sets]
    found["words"] = [one.text for one in tried]
    found["work"] = [advice._work(_totals({}, work=100, work_of_batches=batches), parse_plan({**SMOL,
        "gradient_accumulation_steps": n}),
                     SimpleNamespace(procedure=SimpleNamespace(every=every)))  # type: ignore[arg-type]
                     for batches in ((), (40,), (40, 10)) for n in (1, 4) for every in (0, 1, 2, 3)]  # fmt: skip
    return found


def _contexts() -> Parts:
    plan = parse_plan({"model": "llama-3.2-1b", "runtime": "llama.cpp", "device": "iphone-15"})
    found: dict[str, Any] = {}
    rows = []
    small = _result(
        900, sizes={"kv_cache": 40, "compute": 9, "resident": 100, "dirty": 300}, budget_bytes=950, fits=True
    )
    large = replace(small, bytes={**small.bytes, "kv_cache": 5 << 20}, warnings=("dirty!", "another"))
    for answer, without, own, following in itertools.product(
        (None, 512), (None, 512, 768), (small, large), (None, large)
    ):
        limits = (Limit("dirty", 3, 4, 3, "dirty!"), Limit("used", 3, 9, 3))
        row = max_context.Row(plan, None, answer, without, STATED, 4096, limits, own, following)
        rows.append([row.to_dict(), row.records(), repr(row), row.binds, row.verdict, row.warnings])
    found["rows"] = Each(rows)
    fit = max_context.Fit(plan, 7, small, (Limit("dirty", 3, 4, 3),), Margin(nbytes=60))
    found["fits"] = [fit.to_dict(), fit.verdict, fit.warnings]
    found["known"] = [max_context.contexts_of(), *(_or_why(partial(max_context.check_runtime, name, asked)) for name
        in ("llama.cpp",
                      "executorch", "torch-cpu", "x") for asked in ("max-context", "max-gpu-layers"))]  # fmt: skip
    searches = []
    for trained, budget, grows, margin in itertools.product(
        (300, 4096, 100_000), (0, 2000, 90_000), (1, 40), (STATED, NO_MARGIN)
    ):
        asked: list[int] = []

        def limited(
            plan: Any, model: Any, context: int, budget: int = budget, grows: int = grows, asked: list[int] = asked
        ) -> Any:
            asked.append(context)
            need = 500 + grows * context // 8
            return (Limit("device", need, budget, need), Limit("used", need // 2, budget, need))

        with (
            patch.object(max_context, "_limits_at", limited),
            patch.object(max_context, "at", lambda plan, model, context, margin: (context, margin)),
            patch.object(max_context, "_with", lambda plan, context: context),
        ):
            one = max_context.longest(plan, SimpleNamespace(trained=trained), margin)
            again = [n for n, _ in max_context.curve(replace(one, plan=plan)).points]
        searches.append([one.answer, one.without_margin, one.plan, one.result, one.following, asked, again])
    found["searches"] = Each(searches)
    found["at one context"] = [
        _or_why(partial(_at_one_context, plan, refused)) for refused in ((), ("b",), ("a", "b", "c"))
    ]
    return found


def _at_one_context(plan: Plan, refused: Sequence[str]) -> Any:
    """The models that were made for 500 tokens, the largest first, without those that are refused."""
    sizes = {"a": (7, 4096), "b": (None, 500), "c": (9, 501), "d": (90, 499), "e": (7, 500), "0": (7, 900)}
    plans = [(plan.model_copy(update={"model": name}), SimpleNamespace(trained=n)) for name, (_, n) in sizes.items()]
    plans = [one for one in plans if len(refused) < 3 or one[0].model in "abc"]

    def figures(self: Any, one: Plan, model: Any) -> Figures:
        if one.model in refused:
            raise InputError(f"{one.model} is refused")
        return Figures({"process": 9}, {"a": 1}, 3, (Limit("process", 9, 99, 9),))

    counted: list[int] = []
    with (
        patch.object(max_context, "_read", lambda given: plans),
        patch.object(max_context, "load", lambda name: SimpleNamespace(parameters=sizes[name][0])),
        patch.object(max_context, "_with", lambda one, context: one),
        patch.object(type(plan.engine), "figures", figures),
    ):
        fits = max_context.runs_at(plan, 500, [], [("f16", "f16")], partial(counted.append, 1))
    return [[one.plan.model, one.parameters, one.verdict] for one in fits], len(counted)


# ---- names, reasons, files, many plans ---------------------------------------------------------


def _names() -> Parts:
    """Sizes in the words of a config, and why operators keep tensors."""
    b, s, h, k, g, d, r = (symbol(name) for name in "BSHKGDr")
    sizes: list[Any] = [*_polynomials(), b * s * (h + k * g * d), k * d * r * 3, g * h, k * g * g,
        (b * s * h) // 2 + h, h * h - r,
        (s * k * d * 5) // 3, -1 * b * s, k * k * g, (b * g) // 2 - s, b * b * s * s * h]  # fmt: skip
    values = {"B": 2, "S": 64, "H": 48, "K": 2, "G": 3, "D": 12, "r": 4, "N": 5, "M": 1}
    uses = []
    for operator, position, instead, (within, linear) in itertools.product(
        sorted(reasons.SAVED), (0, 1), (False, True), (("layers.0.q", ("layers.0.q",)), ("act", ()))
    ):
        for given in itertools.product((None, False, True), repeat=2):
            inputs = tuple(None if one is None else SimpleNamespace(requires_grad=one, parameter="layers.0.w" if one
                else "",
                           through=("ViewBackward0", "x") if position else ()) for one in given)  # fmt: skip
            uses.append([SimpleNamespace(operator=operator, position=position, instead=instead, within=within,
                inputs=inputs * 2),
                         linear])  # fmt: skip
    uses += [
        [SimpleNamespace(operator="Unheard", position=0, instead=one, within="", inputs=()), ()]
        for one in (False, True)
    ]
    return {
        "named": [config_names.named(one) for one in sizes],
        "terms": [config_names.terms(one) for one in sizes],
        "groups": [config_names.groups(one) for one in sizes],
        "values": [config_names.names_in([one], values) for one in sizes],
        "names": [config_names.name_of(name) for name in "BSHKGDrLVITN"],
        "reasons": [reasons.reason(use, "layers.0.", linear) for use, linear in uses],
        "listed": [reasons._listed(one) for one in (["a"], ["a", "b"], ["a", "b", "c"])],
    }


def _checks() -> Parts:
    """What a training file leaves open, and what is refused."""
    plans = [parse_plan({**SMOL, **more}) for more in ({}, {"checkpointing": "layer"}, {"trainer": "trl-sft"},
        {"method": LORA},
             {"sharding": {"name": "ddp", "world_size": 2}})]  # fmt: skip
    plans += [
        parse_plan({"model": "t5-small", "seq": 40}),
        parse_plan({"model": "llama-3.2-1b", "runtime": "llama.cpp"}),
    ]
    notes = []
    for said, given in itertools.product(({}, {"runtime": "torch-cpu"}), ({}, {"runtime": "torch-cpu"},
        {"device": "t4"}, {"device":
                                         "apple-16gb"}, {"device": "no-such"})):  # fmt: skip
        noted: list[Any] = []
        reading: Any = SimpleNamespace(note=lambda *one, noted=noted: noted.append(one))
        kept = dict(said)
        check._where_it_runs(reading, kept, given)
        notes.append([kept, noted])
    layers = [{"model": name, "method": method} for name in ("smollm2-135m", "gpt-oss-20b") for method in (LORA,
        "lora", {**LORA,
              "target_modules": "all-linear"})]  # fmt: skip
    understood: list[dict[str, Any]] = [{}, {"model": "smollm2-135m", "checkpointing": "layer"}, {"model": "no-such",
        "method": LORA},
                  {"model": "smollm2-135m", "checkpointing": "offloaded", "transformers": "4.57"},
                  {"trainer": "trl-sft"}]  # fmt: skip
    files = {
        "axolotl.yaml": "base_model: tiny\nadapter: lora\nlora_r: 8\nlora_target_linear: true\nsequence_len: 64\n",
        "trl.yaml": "model_name_or_path: tiny\nuse_peft: true\nmax_length: 64\nbf16: true\n",
        "wrong.yaml": "model_name_or_path: tiny\noptim: unheard\nmax_length: 64\n",
        "none.yaml": "max_length: 64\nbf16: true\n",
    }  # fmt: skip
    for name, text in files.items():
        Path(name).write_text(text, encoding="utf-8")
    keys: tuple[dict[str, Any], ...] = ({}, {"sharding": {"cpu_offload": True}}, {"sharding": {"name": "ddp",
        "world_size": 2}},
        {"loss": "chunked", "budget": "1GiB"}, {"run": {"eval_samples": 3}, "model": "tiny"})  # fmt: skip
    asked = []
    for name, given in [*((name, {}) for name in files), *(("axolotl.yaml", one) for one in keys[1:])]:
        one = _or_why(partial(check.check, name, given))
        asked.append(
            one if isinstance(one, InputError) else [one.keys, one.assumptions, one.ignored, one.error, one.to_dict()]
        )
    wanted: list[dict[str, Any]] = [{"name": "ddp"}, {"name": "fsdp2"}, {"name": "ddp", "world_size": 2}]
    before = {**plans[0].model_dump(exclude={"run"}), "sharding": None}
    return {
        "keys": Each([check.full_keys(one) for one in plans]),
        "defaults": [
            check._defaults(one, given) for one in plans for given in ({}, {"batch": 1, "seq": 3, "dtype": "x"})
        ],
        "where": notes,
        "layers": [check._with_listed_layers(one) for one in layers],
        "understood": Each([check._understood(one) for one in understood]),
        "files": Each(asked),
        "back": Each(
            [file_advice._read_back(plan, before, one) for plan in (None, plans[0], plans[-3]) for one in wanted]
        ),
    }


def _many() -> Parts:
    """Many plans in one call, of which some are answered by formulas."""
    lines: list[Any] = [f'{{"model": "tiny", "batch": {1 + n % 3}, "seq": {9 + n}}}' for n in range(4)]
    lines += [
        "",
        "  ",
        "[1]",
        "{",
        '{"model": "no-such"}',
        '{"model": "tiny", "seq": 0}',
        b'{"model": "tiny", "seq": 9}',
        "x" * 10**6,
    ]
    with patch.object(bulk, "COMPILE_AFTER", 2):
        found = list(bulk.estimate_lines(lines))
    totals = _totals({"a": [3, 9], "b": [7]}, parameters=5, optimizer=8, trainable_parameters=5, total_parameters=6)
    host = SimpleNamespace(parameters=40, gradients=30, optimizer=20, pinned_states=6, moments={"a": [4, 9]})
    resolved = resolve(parse_plan(SMOL))
    held = [replace(totals, host_pinned=pinned, host=one) for pinned in (0, 64) for one in (None, host)]
    return {
        "lines": Each(found),
        "live": Each([estimate.live_of(resolved, one).to_dict() for one in held]),
        "peak": estimate.live_peak(totals),
        "ranks": Each([estimate.answer(parse_plan({"model": "tiny", "seq": 9, "sharding": {"name": "fsdp2",
        "world_size": world}}), {},
                       tells_ranks=True).ranks for world in (3, 5)]),
        "models": Each(list(catalogue_answers.models("llama"))), "devices": [one.name for one
        in catalogue_answers.devices("gpu")],
        "found": [len(catalogue_answers.models(text)) for text in (None, "qwen", "nothing of it")],
    }  # fmt: skip


def _layers() -> Parts:
    """The most layers and the best split on devices made up."""
    found = []
    for count, budgets, split, margin in itertools.product((1, 2, 3), ((900, 900, 900), (400, 1500, 700), (90, 20,
        10)), (0, 1),
                                                           (STATED, NO_MARGIN)):  # fmt: skip
        asked: list[Any] = []

        def limits(plan: Any, model: Any, count: int = count, budgets: Any = budgets, asked: list[Any] = asked) -> Any:
            block = plan.llama_cpp
            layers = block.n_gpu_layers or 0
            shares = (
                [int(x) for x in block.tensor_split] if getattr(block, "tensor_split", None) and count > 1 else [layers]
            )
            asked.append([layers, shares])
            needs = [50 + 60 * one for one in [*shares, *[0] * count][:count]]
            return tuple(Limit(f"dev{i}", need, budgets[i], need) for i, need in enumerate(needs))

        plan = parse_plan({"model": "llama-3.2-1b", "runtime": "llama.cpp", "devices": ["t4"] * count,
            **({"llama_cpp": {"tensor_split": [1.0] * count}} if split and count > 1 else {})})  # fmt: skip
        engine: Any = type(plan.engine)
        with (
            patch.object(engine, "limits", lambda self, plan, model, limits=limits: limits(plan, model)),
            patch.object(engine, "figures", lambda self, plan, model: Figures({"process": 9}, {"a": 1}, 3,
                (Limit("process", 9, 99,
                         9),))),
            patch.object(engine, "model", lambda self, plan, load: None),
            patch.object(engine, "layers", lambda self, model: 16),
        ):  # fmt: skip
            one = _or_why(partial(offload.most_layers, plan, margin=margin))
        found.append(
            [one if isinstance(one, InputError) else [one.answer, one.of, one.split, one.verdict, one.limits], asked]
        )
    refused: tuple[dict[str, Any], ...] = ({"model": "llama-3.2-1b"}, {"model": "llama-3.2-1b",
        "device": "iphone-15"}, SMOL | {"runtime":
        "torch-cpu"})  # fmt: skip
    return {"layers": Each(found), "refused": [_or_why(partial(offload.most_layers, one)) for one in refused]}


def _results(folder: Path) -> Iterator[Question]:
    """All that answers are made of."""
    folder.mkdir(exist_ok=True)
    write_config(folder / "tiny", {**TINY, "num_hidden_layers": 5})
    for name, window in (("windows", 24), ("narrow", 1), ("narrower", 2)):
        config = {"model_type": "mistral", "num_hidden_layers": 2, "vocab_size": 211, "sliding_window": window}
        write_config(folder / name, config)
    asks = (_searches, _plain_searches, _bounds, _solutions, _curves, _devices, _regimes, _made_formulas, _joined,
        _compiled, _objects,
            _figures, _made_results, _run_moments, _tables, _views, _snapshots, _read_snapshots, _servers, _clusters,
                _comparisons,
            _names, _checks, _many, _layers, _advised, _contexts)  # fmt: skip
    for ask in asks:
        yield ask.__name__.strip("_").replace("_", " "), here(folder, ask)


GROUPS: dict[str, Callable[[Path], Iterator[Question]]] = {"results": _results}
"""By the name of a table, its questions; a folder is for files that are asked about."""
