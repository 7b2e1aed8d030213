"""What a model takes beside text: images and audio, in the shapes of transformers' processors. Needs PyTorch.

What a processor makes of images follows from rules that need no PyTorch: ``programs/images.py``.
"""

from __future__ import annotations

import inspect
import sys
from functools import partial
from typing import Any

import torch

from ..errors import InputError
from ..programs.heads import Input, Part, places_of
from ..programs.images import Given, Media, frames_of, given_of, token_of, window_of
from .calls import Recorder, input_embeddings, recording
from .calls.data import ordinary_ids, tensors_in

SAMPLES_PER_SECOND = 16000
"""Of the audio that Wav2Vec 2 and its kin take."""


def media_of(model: Any, asked: Media, dtype: str, where: str) -> Given:
    """What a model takes beside ids, masks and labels. Raises ``InputError``."""
    takes, config = inspect.signature(model.forward).parameters, model.config
    if "pixel_values" in takes:
        keys, looks = config.to_dict(), hasattr(model, "get_image_features")
        token = token_of(keys, asked) if looks else None
        try:
            return given_of(takes, types_of(model), keys, asked, dtype, token, partial(_tokens_of_tower, model))
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
    for name in ("input_features", "input_values"):
        if name in takes:
            return Given((_audio(name, model, asked, dtype, where),))
    raise InputError(f"{where}: {type(model).__name__} takes no images or audio that there is a rule for")


_BINS = {"num_mel_bins": 100, "input_feat_per_channel": 100, "feature_projection_input_dim": 50}
"""Keys that say how many features a frame has, and how many frames a second: log-mel features are made each 10 ms, and
two of them may be put together.
"""


def _audio(name: str, model: Any, asked: Media, dtype: str, where: str) -> Input:
    """Samples [B, n], or features [B, bins, frames] or [B, frames, bins]: the first of them that the model runs with.

    Whisper's encoder takes two frames for each of its positions, and the audio spectrogram transformer ``max_length``.
    """
    config = model.config
    parts = [config, *(x for key in config.sub_configs if (x := getattr(config, key, None)) is not None)]
    found = [(part, key) for part in parts for key in _BINS if isinstance(getattr(part, key, None), int)]
    shapes: list[tuple[str | int, ...]] = []
    if name == "input_values":
        shapes.append(("B", frames_of(asked, SAMPLES_PER_SECOND) or 30 * SAMPLES_PER_SECOND))
    for part, key in found[:1]:
        positions = getattr(part, "max_source_positions", 0)
        frames = frames_of(asked, _BINS[key]) or 2 * positions or getattr(part, "max_length", 0) or 30 * _BINS[key]
        if positions and part.model_type == "whisper":
            frames = window_of(asked, positions, _BINS[key], where)
        bins = getattr(part, key)
        shapes += [("B", bins, frames), ("B", frames, bins)]
    inputs = [Input(name, shape, dtype) for shape in shapes]
    for one in inputs[:-1]:
        if _runs(model, one):
            return one
    if not inputs:
        raise InputError(f"{where}: {type(model).__name__} takes {name}, and no key of its config says of which size")
    return inputs[-1]


def _runs(model: Any, one: Input) -> bool:
    """Whether a model runs with audio of that shape."""
    recorder = Recorder(model)
    x = torch.empty(one.sized({"B": 2}), dtype=getattr(torch, one.dtype), device="meta")
    labels = torch.empty((2, 2), dtype=torch.int64, device="meta")
    recorder.mark(x), recorder.mark(labels)
    text = {"decoder_input_ids": labels} if "decoder_input_ids" in inspect.signature(model.forward).parameters else {}
    try:
        with recording(recorder):
            model(**{one.name: x}, **text)
    except Exception:
        return False
    return True


def types_of(model: Any) -> list[str]:
    """The inputs that say which tokens are an image's, of a model that asks for them."""
    asks = "Please pass `mm_token_type_ids`" in " ".join(inspect.getsource(sys.modules[type(model).__module__]).split())
    return ["token_type_ids"] * (model.config.model_type == "gemma3") + ["mm_token_type_ids"] * asks


def _tokens_of_tower(model: Any, inputs: tuple[Input, ...]) -> int:
    """How many tokens a model's tower makes of the images of a row."""
    recorder, given = Recorder(model), {}
    for one in inputs:
        x = given[one.name] = torch.empty(one.sized({"B": 1}), dtype=getattr(torch, one.dtype), device="meta")
        recorder.mark(x)
        if (data := data_of(one, x, model.config)) is not None:
            recorder.data.set(x, data)
    with recording(recorder):
        features = model.get_image_features(**given)
        found: int = sum(x.numel() for x in tensors_in(getattr(features, "pooler_output", features)))
    return int(found // model.config.get_text_config().hidden_size)


def data_of(one: Input, x: torch.Tensor, config: Any) -> torch.Tensor | None:
    """What is known of the data of an input, of which ``x`` has the shape. Pixels are no padding, which is zeros."""
    if one.values:
        return torch.tensor(one.values, device="cpu").repeat(len(x) // len(one.values), 1).reshape(x.shape)
    if x.dtype.is_floating_point:
        return torch.ones((), dtype=x.dtype, device="cpu").expand(x.shape)
    ends = one.ends and one.special is not None
    if not one.placeholders[1] and not ends:
        return None
    ids = one.name == "input_ids"
    data = ordinary_ids(config, x.numel()).reshape(x.shape) if ids else torch.zeros_like(x, device="cpu")
    if ends:
        data[..., -1] = one.special
    for place in places_of(one.placeholders, x.shape[-1]):
        data[:, place] = one.placeholders[0]
    return data


def parts_of(model: Any) -> dict[Part, tuple[str, ...]]:
    """The paths of the modules that each part of a model is, and the names of parameters that it shares with others.

    A projector is what is neither tower nor decoder. Where there is no such module, the tower's mergers are it.
    """
    config, paths = model.config, {id(module): path for path, module in model.named_modules(remove_duplicate=False)}
    names = {id(p): name for name, p in model.named_parameters()}

    def path_of(module: Any) -> tuple[str, ...]:
        return (paths[id(module)],) if module is not None and id(module) in paths else ()

    def all_of(module: Any) -> tuple[str, ...]:
        path = path_of(module)
        inside = (names[id(p)] for p in (module.parameters() if path else ()))
        return (*path, *(name for name in inside if not name.startswith(f"{path[0]}.")))

    vision = getattr(config, "vision_config", None)
    towers = [path for path, m in model.named_modules() if vision is not None and getattr(m, "config", None) is vision]
    tower = (min(towers, key=len),) if towers else ()
    head, embeddings = model.get_output_embeddings(), path_of(input_embeddings(model))
    decoder = path_of(model.get_decoder()) if tower else ()
    language = (*decoder, *(path_of(head) if decoder else ()))
    beside = model.get_submodule(tower[0].rpartition(".")[0]) if tower else model
    rest = [path for m in beside.children() for path in path_of(m) if path not in (*tower, *language)]
    if tower and not rest:
        rest = [
            path
            for name, m in model.get_submodule(tower[0]).named_children()
            if "merger" in name
            for path in path_of(m)
        ]
    return {
        "vision": tower,
        "projector": tuple(rest) if tower else (),
        "language": language,
        "embeddings": embeddings,
        "encoder": all_of(model.get_encoder()) if config.is_encoder_decoder else (),
        "feature_encoder": tuple(path for path, m in model.named_modules() if is_feature_encoder(m)),
        "base_model": all_of(model.base_model) if model.base_model is not model else (),
    }


def is_feature_encoder(module: torch.nn.Module) -> bool:
    """Whether a module is what transformers' ``freeze_feature_encoder`` freezes."""
    return hasattr(module, "_freeze_parameters") and hasattr(module, "conv_layers")
