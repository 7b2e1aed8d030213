"""The graph that the installed llama.cpp builds, and what its llama-quantize makes of each tensor."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from estimator.engines.llama_cpp.context import Parameters
from estimator.engines.llama_cpp.header import Header
from estimator.witnesses import llama_cpp as engine

_RESERVE = "_Z19llama_graph_reserveP13llama_contextjjj"
_SOURCES, _NAME = 10, 64


class _Tensor(ctypes.Structure):
    """``struct ggml_tensor`` of ``ggml/include/ggml.h``."""


_Tensor._fields_ = [
    ("type", ctypes.c_int),
    ("buffer", ctypes.c_void_p),
    ("ne", ctypes.c_int64 * 4),
    ("nb", ctypes.c_size_t * 4),
    ("op", ctypes.c_int),
    ("op_params", ctypes.c_int32 * 16),
    ("flags", ctypes.c_int32),
    ("src", ctypes.POINTER(_Tensor) * _SOURCES),
    ("view_src", ctypes.POINTER(_Tensor)),
    ("view_offs", ctypes.c_size_t),
    ("data", ctypes.c_void_p),
    ("name", ctypes.c_char * _NAME),
]


@dataclass(frozen=True)
class Node:
    """A node of the engine's graph."""

    name: str
    op: str
    kind: str
    ne: tuple[int, ...]
    nb: tuple[int, ...]


def graph(raw: engine.Libraries, context: int, p: Parameters) -> list[Node]:
    """The nodes of the graph that the engine reserves for a context (``src/llama-ext.h``), in order."""
    llama, base = raw
    reserve = engine._exported(llama, _RESERVE, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_uint32] * 3)
    tokens = min(p.n_ctx, p.n_batch, p.n_ubatch)
    graph = reserve(context, tokens, p.n_seq_max, min(tokens, p.n_outputs_max or p.n_batch))
    node_count = engine._exported(base, "ggml_graph_n_nodes", ctypes.c_int, ctypes.c_void_p)
    node_at = engine._exported(base, "ggml_graph_node", ctypes.POINTER(_Tensor), ctypes.c_void_p, ctypes.c_int)
    op_name, type_name = (
        engine._exported(base, f"ggml_{of}_name", ctypes.c_char_p, ctypes.c_int) for of in ("op", "type")
    )
    nodes = (node_at(graph, i).contents for i in range(node_count(graph)))
    return [
        Node(
            node.name.decode(errors="replace"),
            op_name(node.op).decode().lower(),
            type_name(node.type).decode().lower(),
            tuple(node.ne),
            tuple(node.nb),
        )
        for node in nodes
    ]


class _Description(ctypes.Structure):
    """``struct llama_quant_model_desc`` of ``src/llama-ext.h``."""

    _fields_ = [
        ("architecture", ctypes.c_char_p),
        *((name, ctypes.c_uint32) for name in ("n_embd", "n_ff", "n_layer", "n_head", "n_head_kv", "n_expert")),
        ("n_embd_head_k", ctypes.c_uint32),
        ("n_embd_head_v", ctypes.c_uint32),
    ]


def quantised_types(header: Header, recipe: str) -> dict[str, str]:
    """The type that the engine's ``llama-quantize`` gives each tensor (``llama_quant_compute_types``)."""
    ffi, lib, (llama, base) = engine._libraries()
    tensors, m = list(header.tensors.items()), header.metadata
    kv = m["attention.head_count_kv"]
    description = _Description(
        architecture=header.architecture.encode(),
        n_embd=m["embedding_length"],
        n_layer=m["block_count"],
        n_head=m["attention.head_count"],
        n_head_kv=kv[0] if isinstance(kv, list) else kv,
        n_expert=m.get("expert_count", 0),
        n_embd_head_k=64,
        n_embd_head_v=64,
    )
    structs = (_Tensor * len(tensors))()
    for struct, (name, tensor) in zip(structs, tensors, strict=True):
        struct.type = 30  # GGML_TYPE_BF16, the type after conversion; no float32 tensor is asked about
        struct.ne = (ctypes.c_int64 * 4)(*tensor.shape, *(1,) * (4 - len(tensor.shape)))
        struct.name = name.encode()
    params = ffi.new("llama_model_quantize_params *", lib.llama_model_quantize_default_params())
    pointer = ctypes.c_void_p
    model_of = engine._exported(
        llama, "_Z31llama_quant_model_from_metadataPK22llama_quant_model_desc", pointer, pointer
    )
    name = "_Z16llama_quant_initPK11llama_modelPK27llama_model_quantize_params"
    init = engine._exported(llama, name, pointer, pointer, pointer)
    state = init(model_of(ctypes.addressof(description)), int(ffi.cast("uintptr_t", params)))
    name = "_Z38llama_quant_tensor_allows_quantizationPK19quantize_state_implPK11ggml_tensor"
    allowed = engine._exported(llama, name, ctypes.c_bool, pointer, pointer)
    chosen = [struct for struct in structs if allowed(state, ctypes.addressof(struct))]
    pointers = (ctypes.c_void_p * len(chosen))(*(ctypes.addressof(struct) for struct in chosen))
    results = (ctypes.c_int * len(chosen))()
    name = "_Z25llama_quant_compute_typesP19quantize_state_impl11llama_ftypePP11ggml_tensorP9ggml_typem"
    compute = engine._exported(llama, name, None, pointer, ctypes.c_int, pointer, pointer, ctypes.c_size_t)
    compute(state, getattr(lib, f"LLAMA_FTYPE_MOSTLY_{recipe.upper()}"), pointers, results, len(chosen))
    type_name = engine._exported(base, "ggml_type_name", ctypes.c_char_p, ctypes.c_int)
    return {
        struct.name.decode(): type_name(result).decode().lower() for struct, result in zip(chosen, results, strict=True)
    }
