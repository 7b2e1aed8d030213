"""Questions about what needs PyTorch, whose whole answers are recorded (``tests/helpers/whole_answers.py``): formulas
beside traces made up, and a callback beside modules and cards made up.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch

from estimator.answers import callback, validation
from estimator.answers.formulas import Regime
from estimator.answers.validation import Coefficient, Count, Difference, RegimeResult, Validation
from estimator.errors import InputError
from estimator.ledger import SavedRow
from estimator.ledger.sizes import symbol
from estimator.plans.plan import parse_plan
from estimator.plans.resolve import resolve
from estimator.witnesses.trace import TracedTensor
from tests.cases.small_models import TINY, write_config
from tests.cases.whole_results import LORA, RESULTS, SMOL
from tests.helpers.whole_answers import Each, Parts

Question = tuple[str, Callable[[], Parts]]


def _validations() -> Parts:
    """A comparison of every shape as an object."""
    equal, unequal = Coefficient("B*S", Fraction(9, 2), Fraction(9, 2)), Coefficient("1", Fraction(3), Fraction(4))
    counts = Count("parameters", 8, 8), Count("buffers", 8, 9)
    missing = Difference("trace", "mlp", "silu", (2, 3), "float32", 24, 2)
    rows = []
    for coefficients, check, own in itertools.product(
        ((equal,), (equal, unequal)), (None, (Fraction(5), 5), (Fraction(5), 6)), (counts[:1], counts)
    ):
        one = RegimeResult("B >= 2", ((2, 3), (5, 9)), coefficients, check, (missing,), (5, 9))
        whole = Validation(parse_plan(SMOL), (one,), own)
        rows.append([whole.to_dict(), whole.equal, one.equal, one.exact])
    b, s = symbol("B"), symbol("S")
    sizes: list[Any] = [0, 7, b, 3 * b * s + 2, (b * s * s) // 2, s * s - 4]
    tensors = [
        TracedTensor(module, "silu", shape, dtype, nbytes)
        for module, shape, dtype, nbytes in (
            ("layers.0.mlp", (2, 3), "float32", 24), ("layers.1.mlp", (2, 3), "float32", 24), ("norm", (6,),
            "float32", 24),
            ("layers.0.mlp", (2, 3), "bfloat16", 12), ("head", (5,), "int64", 40), ("head", (1, 5), "int64", 40),
        )
    ]  # fmt: skip
    own_rows = [
        SavedRow("layer", name, "silu", (2, 3), "float32", 24, copies)
        for name, copies in (("model.layers.0.mlp", 4), ("model.layers.2", 1), ("lm_head", 3), ("model.layersx", 1))
    ]
    return {
        "objects": Each(rows),
        "coefficients": [validation._coefficients(one) for one in sizes],
        "monomials": [validation._monomial(one) for one in itertools.product(range(3), repeat=2)],
        "layers": validation._all_layers(own_rows, {0: [0, 1, 3], 2: [2]}),
        "differences": Each([
            validation._differences(list(a), list(b))
            for a in (tensors, tensors[:2], tensors[3:], [tensors[0]] * 3, [])
            for b in (tensors, tensors[1:4], tensors[::-1][:2], [tensors[2]], [])
        ]),
    }  # fmt: skip


def _comparisons() -> Parts:
    """A small plan's formulas beside traces made up."""
    resolved = resolve(parse_plan({"model": "tiny", "batch": 2, "seq": 9, "method": LORA}))
    regime = Regime()
    own = validation._coefficients(validation.compile_plan(resolved.plan, regime).component("saved"))
    found = {}
    for name, changed in {"equal": own, "other": {**own, (1, 2): Fraction(3)}, "less": {(1, 1): own[1, 1]}}.items():
        calls: list[Any] = []

        def traced(*given: Any, calls: list[Any] = calls) -> Any:
            calls.append(given[2:])
            return [
                TracedTensor("lm_head", "linear", (2, 9, 48), "bfloat16", 1728),
                TracedTensor("x", "y", (1,), "int64", 8),
            ]

        with (
            patch.object(validation, "saved_polynomial", lambda *given, changed=changed: changed),
            patch.object(validation, "trace", traced),
        ):
            for grid in (([2, 3], [2, 21], (5, 40)), ([2], [9], None)):
                one = validation._compare(resolved, None, regime, grid, partial(calls.append, "traced"))
                found[f"{name} {grid[2]}"] = [one, one.equal, list(calls)]
    return found


def _modules() -> Parts:
    """What a module, a card and a run say."""
    kinds = [
        None, SimpleNamespace(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16,
        bnb_4bit_use_double_quant=1), SimpleNamespace(load_in_8bit=True), SimpleNamespace(load_in_4bit=False),
            SimpleNamespace(),
    ]  # fmt: skip
    weights = [
        [],
        [torch.nn.Parameter(torch.zeros(3, dtype=torch.float16)), torch.nn.Parameter(torch.zeros(2))],
        [
            torch.nn.Parameter(torch.zeros(9)),
            torch.nn.Parameter(torch.zeros(2, dtype=torch.bfloat16), requires_grad=False),
        ],
        [torch.nn.Parameter(torch.zeros(9, dtype=torch.int8), requires_grad=False), torch.nn.Parameter(torch.zeros(2))],
    ]
    attentions = (None, "eager", "sdpa", "flash_attention_2", "flex", 3)
    asked = [*((q, w, None) for q in kinds for w in weights), *((None, weights[1], a) for a in attentions)]
    found: dict[str, Any] = {
        "modules": [
            callback._of_module(SimpleNamespace(
                config=SimpleNamespace(quantization_config=q, _attn_implementation=a), parameters=lambda w=w: w
            ))
            for q, w, a in asked
        ]
    }  # fmt: skip
    cards = (("NVIDIA GeForce RTX 4090", 24 << 30), ("NVIDIA A100-SXM4-80GB", 80 << 30), ("NVIDIA A100-SXM4-80GB",
        40 << 30),
             ("unheard of", 7), ("Tesla T4", 16 << 30), ("Tesla T4", 17 << 30), ("Tesla T4", 15 << 30))  # fmt: skip
    said = []
    for name, total in cards:
        of = SimpleNamespace(name=name, total_memory=total)
        with (
            patch.object(torch.cuda, "current_device", lambda: 0),
            patch.object(torch.cuda, "get_device_properties", lambda number, of=of: of),
        ):
            said.append(callback._gpu())
    found["cards"] = said
    cuda, cpu = SimpleNamespace(type="cuda"), SimpleNamespace(type="cpu")
    reset: list[Any] = []
    with (
        patch.object(torch.cuda, "mem_get_info", lambda device: (3, 10)),
        patch.object(torch.cuda, "max_memory_allocated", lambda device: 4),
        patch.object(torch.cuda, "max_memory_reserved", lambda device: 5),
        patch.object(torch.cuda, "get_device_name", lambda device: "a card"),
        patch.object(torch.cuda, "reset_peak_memory_stats", reset.append),
        patch.object(callback, "reset_peak_rss", partial(reset.append, "rss")),
        patch.object(callback, "peak_rss", lambda: 77),
        patch.object(callback, "versions", lambda *names: dict.fromkeys(names, "1")),
    ):
        records = []
        for device, result, keys in itertools.product(
            (cuda, cpu), (None, RESULTS["card"]), ({}, {"model": "a/b", "seq": None})
        ):
            callback._begin(device)
            checked: Any = SimpleNamespace(result=result, keys=keys, error="why")
            one = {**callback._record(checked, device).to_dict(), "date": ""}
            records.append([one, callback._device_name(device), callback._measured(device)])
        found["records"], found["reset"] = Each(records), [getattr(one, "type", one) for one in reset]
    return found


def _callbacks(folder: Path) -> Parts:
    """What the callback asks, warns and writes."""
    asked: list[Any] = []
    config = SimpleNamespace(model_type="llama", to_json_string=lambda use_diff: "{}", _name_or_path="a/my model")
    adapter = SimpleNamespace(save_pretrained=lambda folder: asked.append("adapter"))
    models = [
        SimpleNamespace(config=config, **more) for more in ({}, {"peft_config": {"x": adapter}}, {"peft_config": {}})
    ]
    found: dict[str, Any] = {}

    def check(folder: str, keys: dict[str, Any]) -> Any:
        names = sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file())
        return [names, {key: Path(str(one)).name if key == "model" else one for key, one in keys.items()}]

    with (
        patch.object(callback, "check", check),
        patch.object(callback, "_of_module", lambda model: {"dtype": "float32", "seq": 3}),
        patch.object(callback, "_gpu", lambda: {"device": "t4"}),
    ):
        rows = []
        for model, kind, keys in itertools.product(models, ("cuda", "cpu"), ({}, {"device": "l4"}, {"budget": 3,
            "runtime": "r"},
                                                                             {"model": "own"})):  # fmt: skip
            arguments = SimpleNamespace(device=SimpleNamespace(type=kind), to_json_string=lambda: "{}")
            rows.append([callback._checked(arguments, model, keys, 60), list(asked)])
            asked.clear()
    found["checked"] = Each(rows)
    given: list[dict[str, Any]] = [{"on_failure": "no"}, {"output": 3}, {"output": "x"}, {}]
    wrong = []
    for one in given:
        try:
            wrong.append(type(callback.callback(**one)).__name__)
        except InputError as error:
            wrong.append(str(error))
    found["arguments"] = wrong
    return {**found, "runs": Each([_run(name, stop, folder) for name in ("plain", "too much", "fits", "none",
        "broken") for stop in
            ("warn", "stop")])}  # fmt: skip


def _run(name: str, stop: Any, folder: Path) -> list[Any]:
    """A run with a result made up: what is logged, printed, written and raised."""
    result = None if name == "none" else RESULTS.get(name)
    checked = SimpleNamespace(result=result, error="no model", keys={"model": "a/b"})

    def ask(*given: Any) -> Any:
        if name == "broken":
            raise ValueError("broken")
        return checked

    said, printed, output = io.StringIO(), io.StringIO(), folder / f"{name}.{stop}"
    handler = logging.StreamHandler(said)
    log = logging.getLogger("estimator")
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    arguments = SimpleNamespace(device=SimpleNamespace(type="cpu"))
    raised = ""
    with (
        contextlib.redirect_stdout(printed),
        patch.object(callback, "_checked", ask),
        patch.object(callback, "reset_peak_rss"),
        patch.object(callback, "peak_rss", lambda: 800),
        patch.object(callback, "versions", lambda *names: {}),
    ):
        own = callback.callback(on_failure=stop, output=output)
        try:
            own.on_train_begin(arguments, None, None, model=None)
        except callback.DoesNotFit as error:
            raised = str(error)
        own.on_train_end(arguments, None, None)
    log.removeHandler(handler)
    log.setLevel(level)
    lines = [line.partition("(")[0] for line in said.getvalue().splitlines()]
    return [lines, printed.getvalue(), raised, output.exists(), own.checked is None, own.record is None]


def _traced(folder: Path) -> Iterator[Question]:
    folder.mkdir(exist_ok=True)
    write_config(folder / "tiny", {**TINY, "num_hidden_layers": 5})

    def compared() -> Parts:
        with contextlib.chdir(folder):
            return _comparisons()

    yield "validations", _validations
    yield "comparisons", compared
    yield "modules", _modules
    yield "callbacks", partial(_callbacks, folder)


GROUPS: dict[str, Callable[[Path], Iterator[Question]]] = {"traced": _traced}
"""By the name of a table, its questions; a folder is for files that are asked about."""
