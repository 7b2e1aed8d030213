"""What a processor of transformers makes of images: the pixels and tiles that a model is given, and their tokens.

Read beside ``models/*/image_processing_*`` and ``models/*/processing_*`` of release 5.24. Without a
preprocessor_config.json a tower of one size takes an image as one tile, and one of any size a multiple of its patches
within the limits of the processor's class.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ..errors import InputError
from .config_values import whole_number
from .heads import Input, Placeholders

Pair = tuple[int, int]
"""Height and width in pixels."""
BY_ROW = ("idefics2", "idefics3", "smolvlm")
"""Model types that take images by row, [B, tiles, C, H, W]."""
_RULES = (
    *("BEiT", "Beit", "Bit", "CLIP", "DeiT", "ViT", "Siglip"),
    *("Gemma3", "GotOcr2", "Idefics3", "Llava", "LlavaNext", "LlavaOnevision", "Pixtral", "Qwen2VL", "SmolVLM"),
)
"""The classes of processors whose rules are here, by the beginnings of their names."""
_VIDEOS = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe")
"""Model types that take a video, and for whose processor of videos there is a rule."""
_LARGEST = 4096
"""Pixels of the longest side that Idefics 3 and SmolVLM resize to (``MAX_IMAGE_SIZE``)."""


class Seen(NamedTuple):
    """What a processor makes of one image."""

    tiles: int
    height: int
    """Of a tile, in pixels, as the width is."""
    width: int
    tokens: int | None
    """Those in its place in a row; ``None``: as many as the tower gives."""
    around: int = 0
    """Other tokens that the processor puts there: ends of rows, marks of tiles."""


class Processor(NamedTuple):
    """What a preprocessor_config.json says of sizes. ``None``: as the class, or the model's config, has it."""

    name: str
    """The file, and the class that it names."""
    known: bool = True
    """Whether there are rules for that class; without them sizes are as if there was no file."""
    tile: Pair | None = None
    """The one size that each image is resized and cropped to."""
    shortest: int | None = None
    """``size.shortest_edge``, or the fewest pixels."""
    longest: int | None = None
    """``size.longest_edge``, or the most pixels."""
    patch: int | None = None
    merge: int | None = None
    largest: int | None = None
    """Of a side of a tile (``max_image_size``)."""
    splits: bool = True
    fewest_tiles: int = 1
    most_tiles: int = 12
    pinpoints: tuple[Pair, ...] | None = None


class Media(NamedTuple):
    """What a plan says of the images and the audio of a row."""

    images: int = 1
    image_sizes: tuple[Pair, ...] = ()
    """Of each image, or of all, as the processor is given it; empty: as the config says."""
    audio_frames: int | None = None
    """Frames of features, or samples; ``None``: as the config says."""
    audio_seconds: float | None = None
    """The same as a time."""
    processor: Processor | None = None
    video_frames: int | None = None
    """Of a video in place of the images, whose frames have the first of ``image_sizes``."""

    def sizes(self, own: Pair | None) -> tuple[Pair, ...]:
        """The size of each image. ``own`` is that of the config. Raises ``InputError`` where nothing says one."""
        if not self.image_sizes and own is None:
            raise InputError("the model takes images of any size; give image_size, such as 448x448")
        sizes = self.image_sizes or (own,)
        return sizes * self.images if len(sizes) == 1 else sizes  # type: ignore[return-value]


class Given(NamedTuple):
    """What a model is given beside ids, masks and labels."""

    inputs: tuple[Input, ...] = ()
    placeholders: Placeholders = (0, ())
    images: tuple[Seen, ...] = ()
    """What the processor makes of each image of a row."""

    @property
    def tokens(self) -> int:
        """The tokens of a row that its images take."""
        return sum((one.tokens or 0) + one.around for one in self.images)

    @property
    def least(self) -> int:
        """The fewest tokens of a row. A model that is told which are an image's takes adjacent ones for one image's."""
        apart = len(self.images) > 1 and any(one.name == "mm_token_type_ids" for one in self.inputs)
        return self.tokens + len(self.images) * apart


def processor_of(keys: Mapping[str, Any], where: str) -> Processor:
    """The processor of a preprocessor_config.json, which is only read. Raises ``InputError``."""

    def number(key: str, of: Mapping[str, Any] = keys) -> int | None:
        value = of.get(key)
        value = value.get("height") if isinstance(value, Mapping) and "height" in value else value
        if value is None:
            return None
        if type(value) is not int or not 0 < value < 10**9:
            raise InputError(f"{where}: {key}: {value!r:.60} is no number of pixels")
        return value

    def sides(key: str) -> Mapping[str, Any]:
        value = keys.get(key)
        return {} if value is None else value if isinstance(value, Mapping) else {"height": value, "width": value}

    kind = str(keys.get("image_processor_type") or "")
    name = f"{where} ({kind})" if kind else where
    if kind and kind.removesuffix("Fast").removesuffix("Pil").removesuffix("ImageProcessor") not in _RULES:
        return Processor(name, known=False)
    size, crop = sides("size"), sides("crop_size")
    within = crop if keys.get("do_center_crop") is not False and number("height", crop) else size
    tile = number("height", within), number("width", within)
    if keys.get("do_pan_and_scan") is True:
        raise InputError(f"{where}: do_pan_and_scan has no rule; the answer is for false")
    pinpoints = keys.get("image_grid_pinpoints")
    return Processor(
        name=name,
        tile=None if None in tile else tile,  # type: ignore[arg-type]
        shortest=number("min_pixels") or number("shortest_edge", size),
        longest=number("max_pixels") or number("longest_edge", size),
        patch=number("patch_size"),
        merge=number("merge_size"),
        largest=number("longest_edge", sides("max_image_size")),
        splits=keys.get("do_image_splitting") is not False,
        fewest_tiles=number("min_patches") or 1,
        most_tiles=number("max_patches") or 12,
        pinpoints=None if pinpoints is None else _pinpoints(pinpoints, where),
    )


def _pinpoints(value: Any, where: str) -> tuple[Pair, ...]:
    pairs = [_pair(one) for one in value] if isinstance(value, (list, tuple)) else []
    if not pairs or None in pairs:
        raise InputError(f"{where}: image_grid_pinpoints must list sizes, such as [[336, 672]]")
    return tuple(pairs)  # type: ignore[arg-type]


def _pair(size: Any) -> Pair | None:
    if isinstance(size, Mapping):
        size = (size.get("height"), size.get("width"))
    if isinstance(size, (list, tuple)) and len(size) == 2 and all(type(n) is int and n > 0 for n in size):
        return size[0], size[1]
    return (size, size) if type(size) is int and size > 0 else None


def seen(takes: Iterable[str], config: Mapping[str, Any], media: Media) -> tuple[Seen, ...]:
    """What becomes of the images of a row, for a model that ``takes`` these inputs.

    ``config`` has the keys of a config.json, and those of its class that it leaves out. Raises ``InputError`` for
    what the processor refuses.
    """
    vision, processor = config.get("vision_config") or config, media.processor or Processor("")
    kind, own = config.get("model_type"), _pair(vision.get("image_size"))
    patch = (_pair(vision.get("patch_size")) or (1, 1))[0]
    tile = processor.tile or own
    sizes = media.sizes(own)
    if media.video_frames is not None and kind not in _VIDEOS:
        raise InputError(f"video_frames has no rule with model_type {kind}; give its frames as images")
    if "image_grid_thw" in takes:
        merge = processor.merge or vision.get("spatial_merge_size", 1)
        patch = processor.patch or patch
        if media.video_frames is not None:
            times = -(-media.video_frames // vision.get("temporal_patch_size", 2))
            return _video(sizes[0], media.video_frames, times, patch * merge, processor, "3" in str(kind))
        shapes = [smart_resize(*size, patch * merge, processor.shortest, processor.longest) for size in sizes]
        return tuple([Seen(1, h, w, h * w // (patch * merge) ** 2) for h, w in shapes])
    if vision.get("model_type") == "pixtral":
        patch *= config.get("spatial_merge_size", 1)  # as the processor asks for it, whatever the file says
        longest = processor.longest or vision.get("image_size", 1024)
        shapes = [pixtral_size(*size, longest, patch) for size in sizes]
        ends = media.processor is not None  # of rows, and of the image
        return tuple([Seen(1, h, w, h // patch * (w // patch), h // patch * ends) for h, w in shapes])
    each = _tokens_of(tile, patch, config, vision)
    if (own_pinpoints := config.get("image_grid_pinpoints")) and tile:
        pinpoints = processor.pinpoints or own_pinpoints
        if kind == "llava_onevision" and media.processor is not None and len(sizes) > 1:  # which are not cut
            return (Seen(1, *tile, None if each is None else each + 1),) * len(sizes)
        most = config.get("vision_aspect_ratio") if kind == "llava_onevision" else None
        return tuple([_anyres(size, pinpoints, tile, patch, each, most) for size in sizes])
    found = []
    for size in sizes:
        rows, columns = 0, 0
        around = 4 if media.processor is not None and kind in ("gemma3", "gemma3n") else 0  # lines and marks
        shape = tile or size
        if media.processor is not None and kind in ("idefics3", "smolvlm"):
            side = processor.largest or 364
            shape = side, side
            rows, columns = split(*size, processor.longest or 4 * 364, side) if processor.splits else (0, 0)
            around = 3 + 2 * rows * columns + rows  # a mark before each tile and its place, ends of rows and of all
        elif media.processor is not None and kind == "internvl":
            rows, columns = nearest_grid(size, shape, processor.fewest_tiles, processor.most_tiles)
            around = 2
        tiles = rows * columns + 1 if rows * columns > 1 else 1
        each = _tokens_of(shape, patch, config, vision)
        found.append(Seen(tiles, *shape, None if each is None else tiles * each, around))
    return tuple(found)


def _video(size: Pair, frames: int, times: int, factor: int, processor: Processor, apart: bool) -> tuple[Seen, ...]:
    """The pieces of a video in a row: all of it, or one for each of its patches in time where they stand ``apart``.

    Source: ``video_processing_qwen2_vl.py``, whose limits are those of a frame, and ``video_processing_qwen3_vl.py``,
    whose limits are those of all frames.
    """
    height, width = size
    if not apart:
        fewest, most = processor.shortest or 128 * 28 * 28, processor.longest or 28 * 28 * 768
        height, width = smart_resize(height, width, factor, fewest, most)
        return (Seen(times, height, width, times * (height // factor) * (width // factor)),)
    if frames < 2:
        raise InputError(f"video_frames: {frames} is less than the 2 frames of a patch; give more")
    if min(height, width) < factor:
        scale = max(factor / height, factor / width)
        height, width = int(height * scale), int(width * scale)
    fewest, most = processor.shortest or 128 * 32 * 32, processor.longest or 32 * 32 * 768
    height, width = smart_resize(height, width, factor, fewest, most, frames)
    return (Seen(1, height, width, (height // factor) * (width // factor)),) * times


def _tokens_of(tile: Pair | None, patch: int, config: Mapping[str, Any], vision: Mapping[str, Any]) -> int | None:
    """The tokens of a tile; ``None`` where there is no rule."""
    kind = config.get("model_type")
    fixed = config.get("mm_tokens_per_image") or config.get("vision_soft_tokens_per_image")
    if fixed or tile is None:
        return None if fixed is None else int(fixed)
    patches = tile[0] // patch * (tile[1] // patch)
    if kind in ("idefics3", "smolvlm"):
        return int(patches / config.get("scale_factor", 2) ** 2)
    if kind == "internvl":
        return int(patches * config.get("downsample_ratio", 0.5) ** 2)
    if kind == "paligemma":
        return patches
    whole = {"clip_vision_model": 1, "siglip_vision_model": 0}.get(str(vision.get("model_type")))
    if whole is None or not str(kind).startswith("llava"):
        return None
    return patches + whole - int(config["vision_feature_select_strategy"] == "default")


def smart_resize(
    height: int, width: int, factor: int, fewest: int | None, most: int | None, frames: int | None = None
) -> Pair:
    """The pixels that an image is resized to: multiples of ``factor``, within the fewest and most pixels.

    Source: ``image_processing_qwen2_vl.py: smart_resize``, with the class's own limits. Those of a video with
    ``frames`` are for all of them (``video_processing_qwen3_vl.py: smart_resize``).
    """
    frames, whole = frames or 1, round((frames or 2) / 2) * 2 if frames else 1
    fewest, most = fewest or 56 * 56, most or 28 * 28 * 1280
    if max(height, width) / min(height, width) > 200:
        raise InputError(
            f"image_size: {height}x{width}: one side is more than 200 times the other (the processor: absolute aspect "
            "ratio must be smaller than 200)"
        )
    high, wide = round(height / factor) * factor, round(width / factor) * factor
    if whole * high * wide > most:
        beta = math.sqrt(frames * height * width / most)
        high, wide = (max(factor, math.floor(n / beta / factor) * factor) for n in (height, width))
    elif whole * high * wide < fewest:
        beta = math.sqrt(fewest / (frames * height * width))
        high, wide = (math.ceil(n * beta / factor) * factor for n in (height, width))
    return high, wide


def pixtral_size(height: int, width: int, longest: int, patch: int) -> Pair:
    """The pixels that an image is resized to: whole patches, none longer than the longest edge.

    Source: ``image_processing_pixtral.py: get_resize_output_image_size``.
    """
    ratio = max(height / longest, width / longest)
    if ratio > 1:
        height, width = math.floor(height / ratio), math.floor(width / ratio)
    if not height or not width:
        raise InputError(f"image_size: one side is more than {longest} times the other, and less than a pixel is left")
    return ((height - 1) // patch + 1) * patch, ((width - 1) // patch + 1) * patch


def best_resolution(size: Pair, pinpoints: Sequence[Any]) -> Pair:
    """The one of the resolutions in which most of an image is seen, and least wasted.

    Source: ``image_processing_utils.py: select_best_resolution``.
    """
    height, width = size

    def waste(pinpoint: Sequence[int]) -> tuple[int, int]:
        high, wide = pinpoint
        scale = min(wide / width, high / height)
        effective = min(int(width * scale) * int(height * scale), width * height)
        return -effective, high * wide - effective

    high, wide = min(pinpoints, key=waste)
    return high, wide


def _anyres(size: Pair, pinpoints: Sequence[Any], tile: Pair, patch: int, each: int | None, most: str | None) -> Seen:
    """Tiles of the best resolution and one of all, in which padding has no tokens and rows have one more.

    Source: ``processing_llava_next.py`` and ``processing_llava_onevision.py: _get_unpadded_features``.
    """
    height, width = size
    best = best_resolution(size, pinpoints)
    tiles = 1 + math.prod(-(-n // side) for n, side in zip(best, tile, strict=True))
    if each is None:
        return Seen(tiles, *tile, None)
    high, wide = (n // side * (side // patch) for n, side in zip(best, tile, strict=True))
    if width / height > wide / high:
        high -= (high - int(round(height * (wide / width), 7))) // 2 * 2
    else:
        wide -= (wide - int(round(width * (high / height), 7))) // 2 * 2
    if most is not None:
        ratio = math.sqrt(high * wide / (int(most.removeprefix("anyres_max_")) * (tile[0] // patch) ** 2))
        if ratio > 1.1:
            high, wide = int(high // ratio), int(wide // ratio)
    return Seen(tiles, *tile, high * wide + high + each)


def split(height: int, width: int, longest: int, side: int) -> Pair:
    """Rows and columns of tiles; 0, 0 where an image is one.

    Source: ``image_processing_idefics3.py``: ``resize``, ``resize_for_vision_encoder`` and ``split_images``.
    """
    ratio = width / height
    if width >= height:
        width, height = longest, int(longest / ratio)
        height += height % 2
    else:
        height, width = longest, int(longest * ratio)
        width += width % 2
    height, width = max(height, 1), max(width, 1)
    if (largest := max(height, width)) > _LARGEST:
        ratio = width / height
        height, width = (int(_LARGEST / ratio), _LARGEST) if width == largest else (_LARGEST, int(_LARGEST * ratio))
        height, width = max(height, 1), max(width, 1)
    ratio = width / height
    if width >= height:
        width = -(-width // side) * side
        height = int(width / ratio)
    else:
        height = -(-height // side) * side
        width = int(height * ratio)
    rows, columns = -(-height // side), -(-width // side)
    return (rows, columns) if max(rows, columns) > 1 else (0, 0)


def nearest_grid(size: Pair, tile: Pair, fewest: int, most: int) -> Pair:
    """Rows and columns of the tiles whose shape is nearest to an image's.

    Source: ``image_processing_got_ocr2.py: get_optimal_tiled_canvas``.
    """
    (height, width), best, least = size, (1, 1), math.inf
    grids = [(w, h) for w in range(1, most + 1) for h in range(1, most + 1) if fewest <= w * h <= most]
    for wide, high in sorted(grids, key=math.prod):
        difference = abs(width / height - wide / high)
        if difference < least:
            best, least = (high, wide), difference
        elif difference == least and width * height > 0.5 * tile[0] * tile[1] * wide * high:
            best = high, wide
    return best


def inputs_of(
    takes: Iterable[str], config: Mapping[str, Any], media: Media, images: Sequence[Seen], dtype: str
) -> list[Input]:
    """The inputs that stand for the images of each row."""
    vision = config.get("vision_config") or config
    keys = ("num_channels", "in_channels", "in_chans")
    channels = next((n for key in keys if (n := vision.get(key))), 3)
    rows, tiles = f"{len(images)}*B", sum(one.tiles for one in images)
    height, width = max(one.height for one in images), max(one.width for one in images)
    if "image_grid_thw" in takes:
        patch = (media.processor and media.processor.patch) or vision["patch_size"]
        grids = tuple([(1, one.height // patch, one.width // patch) for one in images])
        pixels, grid = "pixel_values", "image_grid_thw"
        if media.video_frames is not None:
            pixels, grid, rows, grids = "pixel_values_videos", "video_grid_thw", "B", ((tiles, *grids[0][1:]),)
        patches = f"{sum(map(math.prod, grids))}*B"
        values = channels * vision.get("temporal_patch_size", 1) * patch**2
        return [Input(pixels, (patches, values), dtype), Input(grid, (rows, 3), values=grids)]
    if vision.get("model_type") == "pixtral":
        sizes = tuple([(one.height, one.width) for one in images])
        return [
            Input("pixel_values", (rows, channels, height, width), dtype),
            Input("image_sizes", (rows, 2), values=sizes),
        ]
    if config.get("image_grid_pinpoints"):
        most = max(one.tiles for one in images)
        found = [
            Input("pixel_values", (rows, most, channels, height, width), dtype),
            Input("image_sizes", (rows, 2), values=media.sizes((height, width))),
        ]
        if "batch_num_images" in takes and media.processor is not None and len(images) > 1:
            found.append(Input("batch_num_images", ("B",), values=((len(images),),)))
        return found
    if config.get("model_type") in BY_ROW:
        return [Input("pixel_values", ("B", tiles, channels, height, width), dtype)]
    return [Input("pixel_values", (f"{tiles}*B", channels, height, width), dtype)]


def members(model_type: str, sizes: Mapping[str, Any]) -> int:
    """How many tensors a list of a batch's images has: one of each row, or of each tile."""
    count = sizes["B"] if model_type in BY_ROW or "high" in sizes else sizes["B"] * sizes.get("tiles", 1)
    return whole_number(count, "the number of images")


def token_of(config: Mapping[str, Any], asked: Media) -> int | None:
    """The id of the token that stands for a piece of an image, or of a video, in a config that says it."""
    what = "image" if asked.video_frames is None else "video"
    found = (config.get(f"{what}_token_{ending}") for ending in ("id", "index"))
    token = next((n for n in found if n is not None), None)
    if token is not None and type(token) is not int:
        raise InputError(f"the config's {what}_token_id must be a whole number, not {token!r:.60}")
    return token


def given_of(
    takes: Iterable[str],
    types: Iterable[str],
    config: Mapping[str, Any],
    asked: Media,
    dtype: str,
    token: int | None,
    tower: Callable[[tuple[Input, ...]], int] | None = None,
) -> Given:
    """What a model is given beside ids, masks and labels. Raises ``InputError`` for what the processor refuses.

    The model ``takes`` these inputs, of which ``types`` say which tokens are an image's. ``token`` stands for a piece
    of an image in a row. Where no rule says how many a row has, the ``tower`` says it, given the images.
    """
    given = Given()
    if asked.images:
        images = seen(takes, config, asked)
        given = Given(tuple(inputs_of(takes, config, asked, images, dtype)), images=images)
        if token is not None:
            if any(one.tokens is None for one in images):
                if tower is None:
                    raise InputError("no rule says how many tokens stand for these images")
                tiles, found = sum(one.tiles for one in images), tower(given.inputs)
                images = tuple([one._replace(tokens=found * one.tiles // tiles) for one in images])
            given = given._replace(images=images, placeholders=(token, tuple([one.tokens or 0 for one in images])))
    kind, counts = 1 if asked.video_frames is None else 2, given.placeholders[1]
    return given._replace(
        inputs=(*given.inputs, *[Input(name, ("B", "S"), placeholders=(kind, counts)) for name in types])
    )


def pixels_of(inputs: Iterable[Input]) -> tuple[int, Pair] | None:
    """How many tiles the images of a row are, and their height and width; ``None`` where they are no tiles."""
    shape = next((one.shape for one in inputs if one.name == "pixel_values"), ())
    if len(shape) == 5 and shape[0] == "B":
        shape = (f"{shape[1]}*B", *shape[2:])
    if len(shape) != 4:
        return None
    return int(str(shape[0]).removesuffix("*B")), shape[2:]  # type: ignore[return-value]


def frames_of(asked: Media, per_second: int) -> int | None:
    """The frames of audio that a plan asks for, if it does."""
    return asked.audio_frames if asked.audio_seconds is None else max(1, round(asked.audio_seconds * per_second))


def window_of(asked: Media, positions: int, per_second: int, where: str) -> int:
    """The frames of an encoder that takes so many and no others, two for each position. Raises ``InputError``."""
    frames = frames_of(asked, per_second) or 2 * positions
    if frames != 2 * positions:
        raise InputError(
            f"{where}: {frames:,} frames of audio; the encoder takes {2 * positions:,} (2 x max_source_positions) "
            "and no other number; leave audio_frames and audio_seconds out"
        )
    return frames
