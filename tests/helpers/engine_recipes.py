"""What llama-quantize makes of each tensor: asked of the installed engine, through what its library exports."""

from __future__ import annotations

import ctypes

from estimator.engines.llama_cpp.header import Header
from estimator.witnesses import llama_cpp as engine


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
    structs = (engine._Tensor * len(tensors))()
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
