"""What processors make of images. The witness is transformers' own processors, given images without data."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import pytest

from estimator.errors import InputError
from estimator.programs.heads import Input, places_of
from estimator.programs.images import (
    Media,
    Processor,
    Seen,
    best_resolution,
    frames_of,
    given_of,
    inputs_of,
    pixels_of,
    processor_of,
    seen,
    token_of,
    window_of,
)
from tests.cases.image_processors import FAMILIES, PINPOINTS, QWEN, VISION, config_of
from tests.cases.images_and_audio import SIGLIP

TOKEN = "i"


def _sizes(count: int, seed: str) -> list[tuple[int, int]]:
    draw = random.Random(seed)
    return [(round(2 ** draw.uniform(1, 12)), round(2 ** draw.uniform(1, 12))) for _ in range(count)]


def _real(image_processor: Any, processor: Any, sizes: list[tuple[int, int]]) -> list[Seen]:
    """What transformers makes of images of a row."""
    import torch

    images = [torch.empty((3, *size), dtype=torch.uint8, device="meta") for size in sizes]
    more = {"crop_to_patches": True} if "GotOcr2" in type(image_processor).__name__ else {}
    more |= {"return_row_col_info": True} if hasattr(image_processor, "do_image_splitting") else {}
    if "Pixtral" in type(image_processor).__name__:
        more = {"patch_size": processor.patch_size * processor.spatial_merge_size}  # as the processor asks it
    out = image_processor([images], return_tensors=None, **more)
    pixels, found = out["pixel_values"], []
    for number in range(len(images)):
        if "image_grid_thw" in out:
            _, rows, columns = map(int, out["image_grid_thw"][number])
            patch = image_processor.patch_size
            tiles, height, width = 1, rows * patch, columns * patch
            image_inputs = {"image_grid_thw": torch.tensor([[1, rows, columns]])}
        else:
            of_image = pixels[number] if len(pixels) == len(images) else pixels[0]
            if "Pixtral" in type(image_processor).__name__:
                height, width = map(int, out["image_sizes"][number])
            else:
                height, width = map(int, of_image.shape[-2:])
            tiles = int(of_image.shape[-4]) if of_image.dim() > 3 else 1
            if "num_patches" in out:
                tiles = int(out["num_patches"][number])
            given = [torch.zeros(()).expand(x.shape) for x in pixels]  # LLaVA's are looked at
            image_inputs = {**out, "num_crops": [0] * len(images), "pixel_values": given}
        if processor is None:
            found.append(Seen(tiles, height, width, None))
            continue
        text = processor.replace_image_token(image_inputs, number)
        tokens = text.count(TOKEN)
        others = re.sub(r"<row_\d+_col_\d+>", "r", text.replace("\n\n", "n")).replace(TOKEN, "")
        found.append(Seen(tiles, height, width, tokens, len(others)))
    return found


def _processor(name: str, image_processor: Any, keys: dict[str, Any], config: dict[str, Any]) -> Any:
    """A processor that writes one letter for each token of its own."""
    import transformers

    if not name:
        return None
    processor = object.__new__(getattr(transformers, name))
    words = {
        "image_token": TOKEN, "fake_image_token": "f", "global_image_tag": "g", "global_image_token": "g",
        "start_image_token": "s", "end_image_token": "e", "image_break_token": "b", "image_end_token": "e",
        "vision_feature_select_strategy": config.get("vision_feature_select_strategy"),
        "full_image_sequence": "\n\nb" + TOKEN * keys.get("image_seq_length", 0) + "e\n\n",
    }  # fmt: skip
    for key, value in {**words, "image_processor": image_processor, **keys}.items():
        setattr(processor, key, value)
    return processor


@pytest.mark.extra("trace")
@pytest.mark.share(42)
@pytest.mark.parametrize("family", FAMILIES)
def test_images_are_what_the_processor_makes_of_them(family: str) -> None:
    """Pixels, tiles and tokens of 1,000 images of random sizes."""
    _assert_images(family, _sizes(1000, family))


@pytest.mark.extra("trace")
@pytest.mark.parametrize("family", FAMILIES)
def test_some_images_are_what_the_processor_makes_of_them(family: str) -> None:
    """As above, of square images, of very small, large, high and wide ones, and of 20 others."""
    ends = [(1, 1), (28, 28), (336, 336), (5000, 5000), (9, 4000), (4000, 9), (180, 2500), (2500, 180), (769, 767)]
    _assert_images(family, ends + _sizes(20, f"some {family}"))


def _assert_images(family: str, sizes: list[tuple[int, int]]) -> None:
    pytest.importorskip("torchvision")
    import transformers

    image_class, name, keys, file, config = FAMILIES[family]
    image_processor = getattr(transformers, image_class)(**file)
    processor = _processor(name, image_processor, keys, config)
    written = json.loads(image_processor.to_json_string())
    read = processor_of({**written, **file}, "preprocessor_config.json")
    takes = ("image_grid_thw",) if "patch_size" in config.get("vision_config", {}) and "qwen" in family else ()
    for size in sizes:
        try:
            real = _real(image_processor, processor, [size])
        except (ValueError, RuntimeError, ZeroDivisionError, TypeError) as error:
            with pytest.raises(InputError, match="image_size"):
                pytest.fail(f"{size}: {error!r:.200}; {seen(takes, config, Media(1, (size,), processor=read))}")
            continue
        found = seen(takes, config, Media(1, (size,), processor=read))
        if processor is None:
            found = tuple([one._replace(tokens=None) for one in found])
        assert found == tuple(real), size


@pytest.mark.extra("trace")
def test_what_a_file_leaves_out_is_the_class_s() -> None:
    """Witness: the attributes of transformers' own processors."""
    pytest.importorskip("torchvision")
    import transformers

    tiles, splits = transformers.GotOcr2ImageProcessor(), transformers.Idefics3ImageProcessor()
    read = processor_of({}, "preprocessor_config.json")
    assert (read.fewest_tiles, read.most_tiles) == (tiles.min_patches, tiles.max_patches)
    assert read.splits is splits.do_image_splitting


@pytest.mark.extra("trace")
@pytest.mark.parametrize(
    ("name", "vision", "file"),
    [
        ("Qwen2VLVideoProcessor", {**QWEN, "patch_size": 14}, {}),
        ("Qwen2VLVideoProcessor", {**QWEN, "patch_size": 14}, {"min_pixels": 3136, "max_pixels": 401408}),
        ("Qwen3VLVideoProcessor", {**QWEN, "patch_size": 16}, {}),
        (
            "Qwen3VLVideoProcessor", {**QWEN, "patch_size": 16},
            {"size": {"shortest_edge": 4096, "longest_edge": 25165824}},
        ),
    ],
)  # fmt: skip
def test_videos_are_what_the_processor_makes_of_them(name: str, vision: dict[str, Any], file: dict[str, Any]) -> None:
    """Patches in time, height and width of 60 videos of random sizes and lengths."""
    pytest.importorskip("torchvision")
    import torch
    import transformers

    real = getattr(transformers, name)(**file, do_sample_frames=False)
    config = config_of("qwen3_vl" if "3" in name else "qwen2_5_vl", vision)
    read = processor_of(file, "video_preprocessor_config.json") if file else None
    draw, takes = random.Random(name), ("image_grid_thw", "pixel_values_videos")
    for size in [(max(h, 8), max(w, 8)) for h, w in _sizes(60, name)]:  # fewer pixels are read as channels
        frames = draw.randint(1, 40)
        video = torch.empty((frames, 3, *size), dtype=torch.uint8, device="meta")
        try:
            grid = real([video], return_tensors=None)["video_grid_thw"][0]
        except ValueError:
            with pytest.raises(InputError, match=r"image_size|video_frames"):
                seen(takes, config, Media(1, (size,), processor=read, video_frames=frames))
            continue
        found = seen(takes, config, Media(1, (size,), processor=read, video_frames=frames))
        patch = vision["patch_size"]
        times = sum(one.tiles for one in found)
        assert (times, found[0].height // patch, found[0].width // patch) == tuple(map(int, grid)), (size, frames)
        assert sum(one.tokens or 0 for one in found) == times * int(grid[1]) * int(grid[2]) // 4


def test_a_token_that_is_no_number_is_refused() -> None:
    assert token_of({"image_token_index": 7}, Media()) == 7
    with pytest.raises(InputError, match="image_token_id must be a whole number"):
        token_of({"image_token_id": {"x": 0.5}, "image_token_index": 7}, Media())


FILE = Processor("preprocessor_config.json")
"""A processor with the class's own sizes."""
TWO = (Seen(1, 56, 84, 6), Seen(1, 28, 28, 1))
WITH_PINPOINTS = {"image_grid_pinpoints": PINPOINTS}


@pytest.mark.parametrize(
    ("takes", "config", "media", "images", "inputs"),
    [
        (
            ("image_grid_thw",), config_of("qwen2_vl", QWEN), Media(2), TWO,
            [
                Input("pixel_values", ("28*B", 3 * 2 * 14**2), "bfloat16"),
                Input("image_grid_thw", ("2*B", 3), values=((1, 4, 6), (1, 2, 2))),
            ],
        ),
        (
            ("image_grid_thw",), config_of("qwen2_vl", {**QWEN, "in_chans": 1}),
            Media(1, processor=FILE._replace(patch=28)), TWO[:1],
            [
                Input("pixel_values", ("6*B", 2 * 28**2), "bfloat16"),
                Input("image_grid_thw", ("1*B", 3), values=((1, 2, 3),)),
            ],
        ),
        (
            ("image_grid_thw",), config_of("qwen3_vl", QWEN), Media(1, video_frames=6), (Seen(1, 56, 84, 6),) * 3,
            [
                Input("pixel_values_videos", ("72*B", 3 * 2 * 14**2), "bfloat16"),
                Input("video_grid_thw", ("B", 3), values=((3, 4, 6),)),
            ],
        ),
        (
            (), config_of("llava", {"model_type": "pixtral", "num_channels": 4}), Media(2), TWO,
            [
                Input("pixel_values", ("2*B", 4, 56, 84), "bfloat16"),
                Input("image_sizes", ("2*B", 2), values=((56, 84), (28, 28))),
            ],
        ),
        (
            ("batch_num_images",), config_of("llava_onevision", VISION, **WITH_PINPOINTS),
            Media(2, ((60, 90), (30, 20)), processor=FILE), (Seen(3, 28, 28, 9), Seen(5, 28, 28, 9)),
            [
                Input("pixel_values", ("2*B", 5, 3, 28, 28), "bfloat16"),
                Input("image_sizes", ("2*B", 2), values=((60, 90), (30, 20))),
                Input("batch_num_images", ("B",), values=((2,),)),
            ],
        ),
        (
            ("batch_num_images",), config_of("llava_onevision", VISION, **WITH_PINPOINTS),
            Media(1, ((60, 90),), processor=FILE), (Seen(3, 28, 28, 9),),
            [
                Input("pixel_values", ("1*B", 3, 3, 28, 28), "bfloat16"),
                Input("image_sizes", ("1*B", 2), values=((60, 90),)),
            ],
        ),
        (
            (), config_of("smolvlm", VISION), Media(2), (Seen(5, 28, 28, 9), Seen(1, 28, 28, 9)),
            [Input("pixel_values", ("B", 6, 3, 28, 28), "bfloat16")],
        ),
        (
            (), {"model_type": "vit", "num_channels": 1}, Media(1), (Seen(1, 28, 30, None),),
            [Input("pixel_values", ("1*B", 1, 28, 30), "bfloat16")],
        ),
    ],
)  # fmt: skip
def test_inputs_stand_for_the_images_of_each_row(
    takes: tuple[str, ...], config: dict[str, Any], media: Media, images: tuple[Seen, ...], inputs: list[Input]
) -> None:
    """By hand, as the classes' forward passes take them: patches by grids, or tiles by rows or by batch."""
    found = inputs_of(takes, config, media, images, "bfloat16")
    assert found == inputs
    tiles = {"smolvlm": (6, (28, 28)), "vit": (1, (28, 30))}
    expected = (
        (2, (56, 84)) if len(found) == 2 and found[1].name == "image_sizes" and len(found[0].shape) == 4 else None
    )
    assert pixels_of(found) == tiles.get(config["model_type"], expected)


def test_what_a_model_is_given() -> None:
    """Tokens that stand for images, by a rule or as many as a tower gives; and which kind of piece a token is."""
    config = config_of("gemma3", {**SIGLIP, "image_size": 28, "patch_size": 7}, mm_tokens_per_image=4)
    given = given_of((), ("token_type_ids",), config, Media(2, processor=FILE), "float32", 7)
    assert [one.name for one in given.inputs] == ["pixel_values", "token_type_ids"]
    assert given.inputs[1] == Input("token_type_ids", ("B", "S"), placeholders=(1, (4, 4)))
    assert given.placeholders == (7, (4, 4))
    assert given.tokens == 2 * (4 + 4)  # two lines and two marks around each
    assert given_of((), (), config, Media(0), "float32", 7).inputs == ()
    towers = config_of("aya_vision", {"image_size": 28, "patch_size": 7})
    with pytest.raises(InputError, match="no rule says how many tokens"):
        given_of((), (), towers, Media(2), "float32", 7)
    found = given_of((), (), towers, Media(2), "float32", 7, lambda inputs: 10 * len(inputs))
    assert found.placeholders == (7, (5, 5))
    assert given_of((), (), towers, Media(2), "float32", None).placeholders == (0, ())
    video = given_of(
        ("image_grid_thw",), ("mm_token_type_ids",), config_of("qwen2_vl", QWEN),
        Media(1, ((560, 560),), video_frames=4), "float32", 9,
    )  # fmt: skip
    assert [one.name for one in video.inputs] == ["pixel_values_videos", "video_grid_thw", "mm_token_type_ids"]
    assert video.inputs[2].placeholders == (2, video.placeholders[1])


def test_where_placeholders_are() -> None:
    """A token of text is between two images, if the row has room."""
    assert places_of((7, (3, 2)), 7) == [slice(0, 3), slice(4, 6)]
    assert places_of((7, (3, 2)), 6) == [slice(0, 3), slice(3, 5)]


def test_the_best_resolution_sees_most_and_wastes_least() -> None:
    """By hand: of those in which as much is seen, the one with the least around it, and of equal ones the first."""
    assert best_resolution((100, 200), [(100, 100), (100, 300), (100, 200)]) == (100, 200)
    assert best_resolution((100, 200), [(100, 100), (50, 300)]) == (100, 100)
    assert best_resolution((1, 4000), [(300, 300), (100, 200), (200, 100)]) == (100, 200)  # nothing is seen in any


def test_a_list_of_resolutions_is_read() -> None:
    read = processor_of({"image_grid_pinpoints": [[336, 672], [672, 336]]}, "file")
    assert read.pinpoints == ((336, 672), (672, 336))
    for wrong in ([], "x", [[336]], [[336, 0]], [[336, True]]):
        with pytest.raises(InputError, match="image_grid_pinpoints must list sizes"):
            processor_of({"image_grid_pinpoints": wrong}, "file")


def test_frames_of_audio() -> None:
    """Those of a plan, or so many for each second, one at least; Whisper's encoder takes two for each position."""
    assert frames_of(Media(), 100) is None
    assert frames_of(Media(audio_frames=9), 100) == 9
    assert [frames_of(Media(audio_seconds=seconds), 100) for seconds in (1.5, 0.001)] == [150, 1]
    assert window_of(Media(), 1500, 100, "x") == window_of(Media(audio_seconds=30), 1500, 100, "x") == 3000
    with pytest.raises(InputError, match="2,999 frames of audio; the encoder takes 3,000"):
        window_of(Media(audio_frames=2999), 1500, 100, "x")
