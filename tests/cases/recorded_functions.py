"""What is recorded of single functions of PyTorch, and what is then known of their results' data.

Each is called with tensors on the meta device, as a forward pass calls it. The first few have data of which a recorder
knows, as of ids and masks; ``unknown`` has none.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest import mock

FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    # Indices.
    "an integer": lambda t: t.x[1],
    "from the end": lambda t: t.x[..., -1],
    "a slice": lambda t: t.x[:, 1:3, ::2],
    "all": lambda t: t.x[:],
    "a slice to beyond the end": lambda t: t.x[:, 0:9],
    "a new dimension": lambda t: t.x[:, None, 1:],
    "a list": lambda t: t.x[:, [2, 0]],
    "a range": lambda t: t.x[range(1)],
    "ids": lambda t: t.x[:, t.ids],
    "ids and a slice": lambda t: t.x[t.ids, 1:, 0],
    "a mask": lambda t: t.x[t.mask],
    "a mask after a slice": lambda t: t.x[:, 1:][t.mask[:, 1:]],
    "a mask of one element": lambda t: t.x[t.torch.tensor(True)],
    "an index of one element": lambda t: t.x[t.one],
    "true": lambda t: t.x[True],
    "a text": lambda t: t.x["a"],
    "an unknown mask": lambda t: t.x[t.x > 0],
    # Writing.
    "a number is written": lambda t: t.x.__setitem__(0, 1.0),
    "a row is written": lambda t: t.x.__setitem__((slice(None), 0), t.x[:, 1]),
    "one row for all": lambda t: t.x.__setitem__((slice(None), 0), t.x[0, 0]),
    "more dimensions": lambda t: t.x.__setitem__(0, t.x[:1]),
    "where a mask is": lambda t: t.x.__setitem__(t.mask, t.x[:, 0].flatten()[:5, None].expand(5, 4)),
    "a number where a mask is": lambda t: t.x.__setitem__(t.mask, 0.0),
    "at ids": lambda t: t.x.__setitem__((0, t.ids[0]), t.x[0]),
    "an id is written": lambda t: (t.ids.__setitem__(0, 5), t.ids)[1],
    "something unknown is written": lambda t: (t.ids.copy_(t.unknown), t.ids)[1],
    # What data are known.
    "sums of ids": lambda t: (t.ids + 1).cumsum(-1),
    "of a shape": lambda t: t.torch.zeros_like(t.unknown),
    "drawn": lambda t: t.torch.rand((), device="meta"),
    "several drawn": lambda t: t.torch.rand(3, device="meta"),
    "dropped": lambda t: t.torch.nn.functional.dropout(t.ids.float(), 0.5),
    "the largest ones": lambda t: t.x.topk(2, -1),
    "the largest ones of a dimension": lambda t: t.x.topk(k=2, dim=1),
    "sorted": lambda t: t.x.sort(dim=1),
    "the largest": lambda t: t.x.argmax(-1),
    "the largest and where": lambda t: t.x.max(1),
    "the largest of all": lambda t: t.x.argmax(),
    "the largest of one": lambda t: t.x.sum().argmax(-1),
    "in order": lambda t: t.x.argsort(0, descending=True),
    "where there are some": lambda t: t.mask.nonzero(),
    "where there are some, in parts": lambda t: t.mask.nonzero(as_tuple=True),
    "uniform": lambda t: t.torch.ones((), device="cpu").expand(3, 4) * 2,
    "a test": lambda t: bool((t.ids > 0).all()),
    "a number": lambda t: t.ids.max().item(),
    "numbers": lambda t: t.ids.tolist(),
    "an unknown number": lambda t: t.x.sum().item(),
    # Functions with rules of their own.
    "a type": lambda t: t.x.type("torch.LongTensor"),
    "another type": lambda t: t.x.type(t.torch.float16),
    "half a number": lambda t: t.x.half(),
    "as another": lambda t: t.x.type_as(t.ids),
    "the device": lambda t: t.x.to("cpu").device,
    "selected": lambda t: t.torch.masked_select(t.x[..., 0], t.mask),
    "selected of more": lambda t: t.torch.masked_select(t.x, t.mask[..., None]),
    "selected by what is unknown": lambda t: t.torch.masked_select(t.x, t.x > 0),
    "repeated": lambda t: t.x.repeat_interleave(2, dim=1),
    "repeated by numbers": lambda t: t.torch.repeat_interleave(t.x, t.ids[0], dim=1),
    "repeated by one number": lambda t: t.torch.repeat_interleave(t.x, t.ids[0, :1], 0),
    "flat and repeated by one number": lambda t: t.torch.repeat_interleave(t.x, t.ids[0, :1]),
    "repeated by a size": lambda t: t.torch.repeat_interleave(t.x, t.unknown[0], dim=1, output_size=7),
    "repeated by what is unknown": lambda t: t.torch.repeat_interleave(t.x, t.unknown[0], dim=1),
    "within bounds": lambda t: t.x.clamp(min=0.0, max=t.one),
    "within tensors": lambda t: t.x.clamp(min=t.x[..., :1]),
    "a view of known sizes": lambda t: t.x.view(t.one, -1),
    "a range of a number": lambda t: t.torch.arange(t.ids.max(), device="meta"),
    "a triangle": lambda t: t.torch.tril(t.x, diagonal=-1),
    "in turn": lambda t: list(t.x),
    "without a gradient": lambda t: t.x.detach(),
    "with one": lambda t: t.x.requires_grad_(),
    "grouped": lambda t: t.torch._grouped_mm(t.rows, t.experts, offs=t.unknown[0].int()),
    "grouped, of the wrong shape": lambda t: t.torch._grouped_mm(t.experts, t.experts),
    "grouped, of narrow rows": lambda t: t.torch._grouped_mm(t.rows, t.experts[..., :5]),
    "a loss of audio": lambda t: t.torch.ctc_loss(t.x.log_softmax(-1), t.ids[:, :1], t.ids[0], t.ids[1], 0, 0, True),
    "its mean": lambda t: t.torch.ctc_loss(t.x.log_softmax(-1), t.ids, [2, 2, 2], [3, 2, 1]),
}
"""A call, by what is looked at. Those that cannot be recorded say why."""


def _given(torch: Any, recorder: Any) -> SimpleNamespace:
    data = {
        "ids": torch.tensor([[3, 1, 2], [0, 2, 1]]),
        "mask": torch.tensor([[True, True, True], [True, True, False]]),
        "one": torch.tensor(1),
    }
    shapes = {"x": (2, 3, 4), "rows": (6, 8), "experts": (3, 8, 16)}
    found = SimpleNamespace(torch=torch, unknown=torch.empty((2, 3), dtype=torch.int64, device="meta"))
    for name, shape in shapes.items():
        dtype = torch.float32 if name == "x" else torch.bfloat16
        setattr(found, name, torch.empty(shape, dtype=dtype, device="meta"))
    for name, known in data.items():
        setattr(found, name, torch.empty_like(known, device="meta"))
    for name in (*shapes, "unknown", *data):
        recorder.mark(getattr(found, name), name == "x")
        if name in data:
            recorder.data.set(getattr(found, name), data[name])
    return found


def lines_of_functions(*_: Any) -> list[str]:
    """What is noted of each function, and what is known of its result."""
    import torch

    from estimator.recorder.calls import Recorder, recording
    from estimator.recorder.calls.data import Routing, tensors_in

    lines = []

    def note(name: str, routing: Routing) -> bool:
        recorder = Recorder(torch.nn.Module(), routing=routing)
        given = _given(torch, recorder)
        try:
            with recording(recorder), torch.no_grad():
                found = FUNCTIONS[name](given)
        except Exception as error:
            found = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        lines.extend([f"-- {name}, {routing}", *map(str, recorder.events)])
        for x in (tensors := list(tensors_in(found))):
            known = recorder.data.of(x)
            lines.append(f"{x.dtype} {tuple(x.shape)} {None if known is None else known.tolist()}")
        lines.extend([] if tensors else [repr(found)])
        return recorder.data.routed

    for name in FUNCTIONS:
        if note(name, "balanced"):
            note(name, "worst")
    return lines


def lines_of_inputs(*_: Any) -> list[str]:
    """What is known of the data of inputs, up to how many elements."""
    import torch

    from estimator.programs.heads import Input
    from estimator.recorder import media
    from estimator.recorder.calls import data

    def known(found: Any) -> str:
        return str(None if found is None else (found.dtype, found.tolist()))

    ids = {"pad_token_id": 0, "text": {"image_token_index": 2, "eos_token_id": [4, None]}, "name_token_id": "a"}
    lines = []
    for config in (SimpleNamespace(vocab_size=7, to_dict=lambda: ids), SimpleNamespace(to_dict=dict), None):
        with mock.patch.object(data, "LARGEST", 10):
            for name in (
                "input_ids",
                "labels",
                "decoder_input_ids",
                "attention_mask",
                "position_ids",
                "cache_position",
            ):
                for length, packed, padded in ((5, True, False), (5, False, True), (6, True, True)):
                    x = torch.empty((2, length), dtype=torch.int64, device="meta")
                    found = data.data_of_input(name, x, config, packed, padded)
                    lines.append(f"{name} of {length}, {packed}, {padded}: {known(found)}")
            for kind in (torch.float32, torch.complex64):
                lines.append(known(data.data_of_input("labels", torch.empty((2, 2), dtype=kind), config, False, False)))
        for one in (
            Input("grid", ("2*B", 2), values=((3, 4), (5, 6))),
            Input("pixels", ("B", 2), "bfloat16"),
            Input("labels", ("B", 3)),
            Input("input_ids", ("B", 7), placeholders=(2, (2, 1))),
            Input("input_ids", ("B", 3), placeholders=(2, (2, 1))),
            Input("labels", ("B", 4), placeholders=(2, (1,)), special=4),
            Input("labels", ("B", 4), special=4, ends=True),
            Input("input_ids", ("B", 4), ends=True),
        ):
            shape = torch.empty(one.sized({"B": 2}), dtype=getattr(torch, one.dtype), device="meta")
            lines.append(f"{one}: {known(media.data_of(one, shape, config))}")
    for dtype, most in (
        ("int64", data.LARGEST),
        ("float32", data.LARGEST_FLOATING),
        ("complex64", data.LARGEST_FLOATING),
    ):
        sizes = [torch.empty(most + more, dtype=getattr(torch, dtype), device="meta") for more in (0, 1)]
        lines.append(f"{dtype}: {most} {[*map(data._is_small, sizes)]}")
    return lines


def lines_of_cases(*_: Any) -> list[str]:
    """The cases in which a config's programs are recorded, and of an earlier release."""
    from estimator.recorder.families import cases
    from estimator.recorder.hugging_face import HuggingFaceModel
    from tests.cases.recorded_families import CLASSES

    lines = [repr(one) for one in (*cases.BASES, cases.DECODES, *cases.BASES_OF_HEADS)]
    one_head = {**CLASSES["llama"].raw, "num_key_value_heads": 1}
    for raw in (CLASSES["gpt2"].raw, one_head, CLASSES["mistral"].raw, CLASSES["chunks"].raw):
        lines += [f"-- {raw['model_type']}", *map(repr, cases.cases_of(raw))]
        for caches in (False, True):
            with (
                mock.patch.object(cases, "is_before", return_value=True),
                mock.patch.object(HuggingFaceModel, "caches_in_checkpoints", caches),
            ):
                lines += [f"-- before 5, {caches}", *map(repr, cases.cases_of(raw))]
    return lines
