"""What a model takes beside text: images and audio, in the shapes of transformers' processors. Needs PyTorch.

Sizes are those of a processor without a preprocessor_config.json: a tower of one size takes an image as one tile, and
one of any size a multiple of its patches (release 5.24, ``models/*/image_processing_*``).
"""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Mapping
from typing import Any

import torch

from ..errors import InputError
from ..programs.heads import Input, Media, Part, Placeholders, places_of
from .calls import Recorder, recording
from .calls.data import ordinary_ids, tensors_in

TILED = ("idefics2", "idefics3", "smolvlm")
"""Model types that take images by row, [B, images, C, H, W]."""
SAMPLES_PER_SECOND = 16000
"""Of the audio that Wav2Vec 2 and its kin take."""


def media_of(model: Any, asked: Media, dtype: str, where: str) -> tuple[Input, ...]:
    """The inputs that a model takes beside ids, masks and labels. Raises ``InputError``."""
    takes, config = set(inspect.signature(model.forward).parameters), model.config
    if "pixel_values" in takes:
        if not asked.images:
            return ()
        return tuple(_images(takes, config, asked, dtype, where))
    for name in ("input_features", "input_values"):
        if name in takes:
            return (_audio(name, model, asked, dtype, where),)
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
        shapes.append(("B", _frames(asked, SAMPLES_PER_SECOND) or 30 * SAMPLES_PER_SECOND))
    for part, key in found[:1]:
        positions = getattr(part, "max_source_positions", 0)
        frames = _frames(asked, _BINS[key]) or 2 * positions or getattr(part, "max_length", 0) or 30 * _BINS[key]
        if positions and frames != 2 * positions and part.model_type == "whisper":
            raise InputError(
                f"{where}: {frames:,} frames of audio; the encoder takes {2 * positions:,} (2 x max_source_positions) "
                "and no other number; leave audio_frames and audio_seconds out"
            )
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


def _frames(asked: Media, per_second: int) -> int | None:
    return asked.audio_frames if asked.audio_seconds is None else max(1, round(asked.audio_seconds * per_second))


def _images(takes: set[str], config: Any, asked: Media, dtype: str, where: str) -> list[Input]:
    vision = getattr(config, "vision_config", config)
    channels = next((n for key in ("num_channels", "in_channels", "in_chans") if (n := getattr(vision, key, None))), 3)
    rows = f"{asked.images}*B"
    size = asked.image_size or _pair(getattr(vision, "image_size", None))
    if size is None:
        raise InputError(f"{where}: the model takes images of any size; give image_size, such as 448x448")
    if "image_grid_thw" in takes:
        patch, merge = vision.patch_size, vision.spatial_merge_size
        height, width = (n // patch for n in smart_resize(*size, patch * merge, where))
        patches = f"{asked.images * height * width}*B"
        values = channels * getattr(vision, "temporal_patch_size", 1) * patch**2
        grid = Input("image_grid_thw", (rows, 3), values=((1, height, width),) * asked.images)
        return [Input("pixel_values", (patches, values), dtype), grid]
    if getattr(vision, "model_type", "") == "pixtral":
        patch = vision.patch_size * getattr(config, "spatial_merge_size", 1)
        longest = getattr(vision, "image_size", 1024)
        height, width = pixtral_size(*size, longest, patch)
        sizes = Input("image_sizes", (rows, 2), values=((height, width),) * asked.images)
        return [Input("pixel_values", (rows, channels, height, width), dtype), sizes]
    height, width = _pair(getattr(vision, "image_size", None)) or size
    if pinpoints := getattr(config, "image_grid_pinpoints", None):
        tiles = 1 + tiles_of(asked.image_size or (height, width), pinpoints, height)
        sizes = Input("image_sizes", (rows, 2), values=(asked.image_size or (height, width),) * asked.images)
        return [Input("pixel_values", (rows, tiles, channels, height, width), dtype), sizes]
    if config.model_type in TILED:
        return [Input("pixel_values", ("B", asked.images, channels, height, width), dtype)]
    return [Input("pixel_values", (rows, channels, height, width), dtype)]


def _pair(size: Any) -> tuple[int, int] | None:
    if isinstance(size, Mapping):
        size = (size.get("height"), size.get("width"))
    if isinstance(size, (list, tuple)) and len(size) == 2:
        return int(size[0]), int(size[1])
    return (size, size) if isinstance(size, int) else None


def smart_resize(
    height: int, width: int, factor: int, where: str, fewest: int = 56 * 56, most: int = 28 * 28 * 1280
) -> tuple[int, int]:
    """The pixels that an image is resized to: multiples of ``factor``, within the fewest and most pixels.

    Source: ``image_processing_qwen2_vl.py: smart_resize``, with the class's own limits.
    """
    if max(height, width) > 200 * min(height, width):
        raise InputError(f"{where}: image_size: {height}x{width}; one side is more than 200 times the other")
    high, wide = round(height / factor) * factor, round(width / factor) * factor
    if high * wide > most:
        beta = math.sqrt(height * width / most)
        return tuple(max(factor, math.floor(n / beta / factor) * factor) for n in (height, width))  # type: ignore[return-value]
    if high * wide < fewest:
        beta = math.sqrt(fewest / (height * width))
        return tuple(math.ceil(n * beta / factor) * factor for n in (height, width))  # type: ignore[return-value]
    return high, wide


def pixtral_size(height: int, width: int, longest: int, patch: int) -> tuple[int, int]:
    """The pixels that an image is resized to: whole patches, none longer than the longest edge.

    Source: ``image_processing_pixtral.py: get_resize_output_image_size``.
    """
    ratio = max(height / longest, width / longest)
    if ratio > 1:
        height, width = math.floor(height / ratio), math.floor(width / ratio)
    return ((height - 1) // patch + 1) * patch, ((width - 1) // patch + 1) * patch


def tiles_of(size: tuple[int, int], pinpoints: list[list[int]], tile: int) -> int:
    """The tiles that LLaVA-NeXT cuts an image into, at its best resolution of those that it has."""
    from transformers.image_processing_utils import select_best_resolution

    height, width = map(int, select_best_resolution(size, pinpoints))
    return -(-height // tile) * -(-width // tile)


def types_of(model: Any) -> list[str]:
    """The inputs that say which tokens are an image's, of a model that asks for them."""
    asks = "Please pass `mm_token_type_ids`" in " ".join(inspect.getsource(sys.modules[type(model).__module__]).split())
    return ["token_type_ids"] * (model.config.model_type == "gemma3") + ["mm_token_type_ids"] * asks


def placeholders_of(model: Any, media: tuple[Input, ...], images: int) -> Placeholders:
    """What stands for images in a row: as many ids as the tower gives tokens."""
    config = model.config
    token = next(
        (n for key in ("image_token_id", "image_token_index") if (n := getattr(config, key, None)) is not None), None
    )
    if token is None or not media or not hasattr(model, "get_image_features"):
        return 0, 0, 1
    recorder, given = Recorder(model), {}
    for one in media:
        x = given[one.name] = torch.empty(one.sized({"B": 1}), dtype=getattr(torch, one.dtype), device="meta")
        recorder.mark(x)
        if (data := data_of(one, x, config)) is not None:
            recorder.data.set(x, data)
    with recording(recorder):
        features = model.get_image_features(**given)
        found = sum(x.numel() for x in tensors_in(getattr(features, "pooler_output", features)))
    return token, found // config.get_text_config().hidden_size, images


def data_of(one: Input, x: torch.Tensor, config: Any) -> torch.Tensor | None:
    """What is known of the data of an input, of which ``x`` has the shape. Pixels are no padding, which is zeros."""
    if one.values:
        return torch.tensor(one.values, device="cpu").repeat(len(x) // len(one.values), 1)
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
    """The paths of the modules that each part of a model is.

    A projector is what is neither tower nor decoder. Where there is no such module, the tower's mergers are it.
    """
    config, paths = model.config, {id(module): path for path, module in model.named_modules(remove_duplicate=False)}

    def path_of(module: Any) -> tuple[str, ...]:
        return (paths[id(module)],) if module is not None and id(module) in paths else ()

    vision = getattr(config, "vision_config", None)
    towers = [path for path, m in model.named_modules() if vision is not None and getattr(m, "config", None) is vision]
    tower = (min(towers, key=len),) if towers else ()
    head, embeddings = model.get_output_embeddings(), path_of(model.get_input_embeddings())
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
    return {"vision": tower, "projector": tuple(rest) if tower else (), "language": language, "embeddings": embeddings}
