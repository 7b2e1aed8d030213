"""The installed llama.cpp as a witness: the buffers that it reports for a GGUF file.

Needs ``pip install llama-cpp-py-sync`` (a prebuilt llama.cpp and its cffi bindings). With ``no_alloc`` the engine
reads only a file's header and reserves nothing, so a sparse file is enough. The library exports the C++ function
``llama_get_memory_breakdown`` (``src/llama-ext.h``). It returns a ``std::map``, which is read here in libstdc++'s
layout on x86-64 (``bits/stl_tree.h``).
"""

from __future__ import annotations

import ctypes
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from ..engines.llama_cpp.builds import BUILDS
from ..engines.llama_cpp.context import Parameters
from ..engines.llama_cpp.engine import cards_of, usage_of
from ..engines.llama_cpp.ggml import TYPES, pad
from ..engines.llama_cpp.header import Header
from ..engines.llama_cpp.usage import PROGRAM_BYTES
from ..engines.llama_cpp.weights import weights
from ..errors import InputError
from ..io import fresh
from ..plans.models import load
from ..plans.plan import Plan
from .machine import status

_BREAKDOWN = "_Z26llama_get_memory_breakdownPK13llama_context"


class Measured(NamedTuple):
    """What the installed engine takes for a plan, beside what is predicted."""

    engine: str
    """Its version."""
    build: str
    """The build that the prediction is for."""
    rows: Sequence[tuple[str, int, int]]
    """A buffer, and its measured and predicted bytes."""


def measured(plan: Plan) -> Measured:
    """Ask the engine for its buffers; with a file of real weights, decode and measure the process, too.

    Raises ``InputError`` for a plan on another device than this machine's CPU, and for what the engine refuses.
    """
    options = plan.llama_cpp
    if cards_of(plan) or plan.device is not None:
        raise InputError("measure asks the engine on this machine's CPU; leave device and a GPU's backend out")
    if "build" not in options.model_fields_set and version() in BUILDS:
        options = options.model_copy(update={"build": version()})
        plan = plan.model_copy(update={"llama_cpp": options})
    model = plan.engine.model(plan, load)
    use = usage_of(plan, model)
    p, context, of_process = use.context.parameters, use.context, 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(plan.model).expanduser()
        if not model.from_file:
            path = Path(folder) / "model.gguf"
            write_sparse(model.header, path)
        try:
            report = ask(path, p, repack=options.repack)
            if model.from_file:
                of_process = resident(path, p, use_mmap=options.use_mmap, repack=options.repack)
        except EngineError as error:
            raise InputError(f"the engine refuses: {error}") from None
    unmapped = weights(use.header, use.cpu, use_mmap=False, repack=options.repack)  # as the engine was asked
    rows = [
        ("weights", report.total("model"), unmapped.total),
        ("KV cache and recurrent state", report.total("context"), context.kv_bytes + context.recurrent_bytes),
        ("compute", report.total("compute"), use.reserved[0]),
    ]
    if of_process:
        rows.append(("resident, beside the program", of_process, use.clean + use.dirty - PROGRAM_BYTES))
    return Measured(version(), use.build.name, rows)


@dataclass
class Report:
    """What the engine reports: by type of buffer, the bytes of model, context and computation."""

    buffers: dict[str, dict[str, int]] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)

    def total(self, part: str) -> int:
        """Bytes of ``model``, ``context`` or ``compute`` over all buffer types."""
        return sum(parts[part] for parts in self.buffers.values())


def write_sparse(header: Header, path: Path, split_max_tensors: int = 0) -> None:
    """Write a sparse GGUF file with a header's metadata and tensors in its order, but without data on disk.

    With ``split_max_tensors`` it is several files with so many tensors each, as ``llama-gguf-split`` names them. Needs
    the gguf package.
    """
    import gguf
    import numpy

    writer = gguf.GGUFWriter(path, header.architecture, split_max_tensors=split_max_tensors)
    writer.add_tokenizer_model("no_vocab")
    writer.add_vocab_size(header.n_vocab)
    writer.add_layer_norm_rms_eps(1e-6)
    for key, value in header.metadata.items():
        name = f"{header.architecture}.{key}"
        if isinstance(value, bool):
            writer.add_bool(name, value)
        elif isinstance(value, float):
            writer.add_float32(name, value)
        elif isinstance(value, list):
            writer.add_array(name, value)
        elif key not in ("vocab_size", "attention.layer_norm_rms_epsilon"):
            writer.add_uint32(name, value)
    for name, tensor in header.tensors.items():
        kind = gguf.GGMLQuantizationType[tensor.kind.upper()]
        block, nbytes = TYPES[tensor.kind]
        shape = tuple(reversed(tensor.shape))
        raw = tensor.kind not in ("f32", "f16")
        stored = (*shape[:-1], shape[-1] // block * nbytes) if raw else shape
        dtype = numpy.dtype("uint8" if raw else "float32" if tensor.kind == "f32" else "float16")
        writer.add_tensor_info(name, stored, dtype, tensor.nbytes, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for file, tensors in zip(writer.fout or (), writer.tensors, strict=True):
        file.flush()
        file.truncate(pad(file.tell(), 32) + sum(pad(tensor.nbytes, 32) for tensor in tensors.values()))
    writer.close()


@dataclass(frozen=True)
class Workers:
    """Workers of the engine's RPC backend, which hold a model's layers, and how they share it."""

    endpoints: tuple[str, ...]
    """Where they listen: ``127.0.0.1:50052``."""
    n_gpu_layers: int
    tensor_split: tuple[float, ...]
    no_kv_offload: bool
    overrides: tuple[tuple[str, int], ...]
    """Patterns of weights' names, and the numbers of the workers that have them; the number behind is the host's."""
    main_gpu: int | None
    """The number of the one worker that has all."""


Libraries = tuple[ctypes.CDLL, ctypes.CDLL]
"""llama.cpp's and ggml's."""


class EngineError(Exception):
    """The engine refused; the message is its own."""


def ask(
    path: Path,
    parameters: Parameters,
    *,
    use_mmap: bool = True,
    repack: bool = True,
    no_alloc: bool = True,
    workers: Workers | None = None,
    see: Callable[[Libraries, int], None] = lambda libraries, context: None,
) -> Report:
    """Load a file, make a context, and read what the engine reports. ``see`` is given the context's address.

    With ``workers`` the engine may end the process where one of them fails; and with ``no_alloc`` its compute buffers
    are of a graph whose norms are not kept where their layers are, which no run has.

    Raises ``EngineError`` where the engine refuses, ``InputError`` where it is not installed.
    """
    ffi, lib, raw = _libraries()
    report = Report()

    @ffi.callback("void(enum ggml_log_level, const char *, void *)")  # type: ignore[untyped-decorator]
    def log(level: int, text: Any, _data: Any) -> None:
        if level != lib.GGML_LOG_LEVEL_DEBUG:
            report.log.append(ffi.string(text).decode(errors="replace"))

    lib.llama_log_set(log, ffi.NULL)
    try:
        with (
            _model(ffi, lib, report, path, use_mmap, repack, no_alloc, workers) as model,
            _context(ffi, lib, report, model, parameters, workers) as context,
        ):
            address = int(ffi.cast("uintptr_t", context))
            report.buffers = _breakdown(raw, address)
            see(raw, address)
    finally:
        lib.llama_log_set(ffi.NULL, ffi.NULL)
    return report


@contextmanager
def _model(
    ffi: Any,
    lib: Any,
    report: Report,
    path: Path,
    mmap: bool,
    repack: bool,
    no_alloc: bool,
    workers: Workers | None = None,
) -> Iterator[Any]:
    params = lib.llama_model_default_params()
    if workers is not None:
        handles = _devices(workers.endpoints)
        devices = ffi.new("ggml_backend_dev_t[]", [*handles, ffi.NULL])
        shares = ffi.new("float[]", [*workers.tensor_split, *[0.0] * lib.llama_max_devices()])
        params.devices, params.n_gpu_layers, params.tensor_split = devices, workers.n_gpu_layers, shares
        if workers.main_gpu is not None:
            params.split_mode, params.main_gpu = lib.LLAMA_SPLIT_MODE_NONE, workers.main_gpu
        patterns = [ffi.new("char[]", pattern.encode()) for pattern, _ in workers.overrides]
        overrides = ffi.new("struct llama_model_tensor_buft_override[]", len(patterns) + 1)
        for override, pattern, (_, place) in zip(overrides, patterns, workers.overrides, strict=False):
            override.pattern = pattern
            override.buft = _buffers(ffi, handles[place] if place < len(handles) else None)
        if patterns:
            params.tensor_buft_overrides = overrides
    params.load_mode = lib.LLAMA_LOAD_MODE_MMAP if mmap and not no_alloc else lib.LLAMA_LOAD_MODE_NONE
    params.use_extra_bufts, params.no_alloc = repack, no_alloc
    model = lib.llama_model_load_from_file(str(path).encode(), params)
    if model == ffi.NULL:
        raise EngineError("".join(report.log[-6:]).strip())
    try:
        yield model
    finally:
        lib.llama_model_free(model)


@contextmanager
def _context(
    ffi: Any, lib: Any, report: Report, model: Any, p: Parameters, workers: Workers | None = None
) -> Iterator[Any]:
    params = lib.llama_context_default_params()
    params.offload_kqv = workers is None or not workers.no_kv_offload
    for name in ("n_ctx", "n_batch", "n_ubatch", "n_seq_max", "n_outputs_max", "kv_unified", "swa_full"):
        setattr(params, name, getattr(p, name))
    params.flash_attn_type = int(p.flash_attn)
    params.type_k, params.type_v = (getattr(lib, f"GGML_TYPE_{kind.upper()}") for kind in (p.type_k, p.type_v))
    params.n_threads = params.n_threads_batch = 2
    context = lib.llama_init_from_model(model, params)
    if context == ffi.NULL:
        raise EngineError("".join(report.log[-4:]).strip())
    try:
        yield context
    finally:
        lib.llama_free(context)


@cache
def _devices(endpoints: tuple[str, ...]) -> list[Any]:
    """The engine's handles of workers, which it keeps until the process ends."""
    from llama_cpp_py_sync.rpc import rpc_devices

    return list(rpc_devices(endpoints))


def _buffers(ffi: Any, device: Any) -> Any:
    """The type of a device's buffers, or of the host's plain ones (``ggml_backend_cpu_buffer_type``)."""
    base = _libraries()[2][1]
    if device is None:
        address = _exported(base, "ggml_backend_cpu_buffer_type", ctypes.c_void_p)()
    else:
        of = _exported(base, "ggml_backend_dev_buffer_type", ctypes.c_void_p, ctypes.c_void_p)
        address = of(int(ffi.cast("uintptr_t", device)))
    return ffi.cast("ggml_backend_buffer_type_t", address)


def _libraries() -> tuple[Any, Any, Libraries]:
    try:
        from llama_cpp_py_sync import _cffi_bindings as bindings
    except ImportError:
        raise InputError("the engine is not installed; run: pip install llama-cpp-py-sync") from None
    folder = Path(bindings.__file__).parent
    lib = bindings.get_lib()
    llama = ctypes.CDLL(bindings._find_library())  # the file that cffi has loaded: the wheel holds two copies
    base = ctypes.CDLL(str(next(folder.glob("libggml-base.so*"))))
    return bindings.get_ffi(), lib, (llama, base)


def _exported(library: ctypes.CDLL, name: str, result: Any, *arguments: Any) -> Any:
    """A function of a library, with its types."""
    function = library[name]
    function.restype, function.argtypes = result, arguments
    return function


def version() -> str:
    """The installed engine's build, as in ``b11739``. Raises ``ImportError``."""
    import llama_cpp_py_sync

    return str(llama_cpp_py_sync.__llama_cpp_tag__)


def _breakdown(raw: Libraries, context: int) -> dict[str, dict[str, int]]:
    llama, base = raw
    tree = (ctypes.c_uint64 * 6)()  # comparator, header (colour, root, leftmost, rightmost), count
    _exported(llama, _BREAKDOWN, None, ctypes.c_void_p, ctypes.c_void_p)(ctypes.addressof(tree), context)
    buffer_name = _exported(base, "ggml_backend_buft_name", ctypes.c_char_p, ctypes.c_void_p)
    found: dict[str, dict[str, int]] = {}

    def walk(node: int) -> None:
        if node:
            fields = (ctypes.c_uint64 * 8).from_address(node)  # colour, parent, left, right, key, value
            walk(fields[2])
            name = buffer_name(fields[4]).decode()
            found[name] = dict(zip(("model", "context", "compute"), fields[5:8], strict=True))
            walk(fields[3])

    walk(tree[2])
    return found


def resident(path: Path, parameters: Parameters, *, use_mmap: bool = True, repack: bool) -> int:
    """Bytes by which the peak resident set of a fresh process grows while it loads a file and decodes.

    The process decodes a full batch, then single tokens, and computes the logits of each last token. The interpreter
    and the libraries are loaded before. Raises ``EngineError``.
    """
    question = {"path": str(path), "parameters": asdict(parameters), "use_mmap": use_mmap, "repack": repack}
    done = fresh.run("witnesses.llama_cpp", question)
    if done.returncode:
        raise EngineError(fresh.reason(done))
    return int(done.stdout)


def _decode(path: Path, p: Parameters, use_mmap: bool, repack: bool) -> int:
    ffi, lib, _ = _libraries()
    report = Report()
    start = status()["VmRSS"]
    with (
        _model(ffi, lib, report, path, use_mmap, repack, False) as model,
        _context(ffi, lib, report, model, p) as context,
    ):
        tokens = min(p.n_batch, p.n_ctx - 4)
        ids = ffi.new("int32_t[]", [5 + i % 200 for i in range(tokens)])
        for count in (tokens, 1, 1):
            if lib.llama_decode(context, lib.llama_batch_get_one(ids, count)):
                raise EngineError("the engine could not decode")
        return status()["VmHWM"] - start


def _main() -> int:
    question = json.load(sys.stdin)
    try:
        parameters = Parameters(**question["parameters"])
        print(_decode(Path(question["path"]), parameters, question["use_mmap"], question["repack"]))
    except (EngineError, InputError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(_main())
