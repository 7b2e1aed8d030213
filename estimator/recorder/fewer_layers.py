"""Runs a deep model with a few of its layers, where the others are equal to them. Needs PyTorch.

Layers are equal if their modules have the same classes, weights and settings, and the config says the same of them. A
number that is each layer's own index is no setting. Of layers that repeat in a pattern, the first two repetitions, one
from the middle and the last are kept. ``depth.deepened`` makes a program of all layers from theirs.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from ..programs.config_values import SHARING
from ..programs.layer_runs import KEPT, repeats_of


@contextmanager
def fewer_layers(model: torch.nn.Module, layers: Sequence[str]) -> Iterator[list[int] | None]:
    """Within it, the model has some of its ``layers`` alone, under the first indices.

    Gives for each layer the index of the kept one that it is equal to; ``None`` if no layer is left out.
    """
    configs = [module.config for module in model.modules() if hasattr(module, "config")]
    shares = any(getattr(config, SHARING, None) for config in configs)  # which counts layers from the last one
    if not layers or shares:
        yield None
        return
    parent = model.get_submodule(layers[0].rpartition(".")[0])
    own = dict(parent._modules)
    lists = list(_lists(configs, len(layers)))
    like = kept_layers(_signatures(list(own.values()), lists))
    kept = sorted(set(like))
    if len(kept) == len(layers) or len(own) != len(layers):
        yield None
        return
    parent._modules.clear()
    parent._modules.update({str(number): own[str(i)] for number, i in enumerate(kept)})
    for values, key, entries in lists:
        values[key] = type(entries)(entries[i] for i in kept)
    try:
        yield [kept.index(i) for i in like]
    finally:
        parent._modules.clear()
        parent._modules.update(own)
        for values, key, entries in lists:
            values[key] = entries


def _lists(configs: Sequence[Any], layers: int) -> Iterator[tuple[dict[str, Any], str, Any]]:
    """The configs' lists with an entry for each layer: the dictionary that holds one, its key, and the list."""
    for values in {id(config): vars(config) for config in configs}.values():
        for key, entries in list(values.items()):
            if isinstance(entries, (list, tuple)) and len(entries) == layers:
                yield values, key, entries


def _signatures(layers: Sequence[torch.nn.Module], lists: Sequence[tuple[Any, str, Any]]) -> list[Hashable]:
    """What says whether layers are equal."""
    indices: dict[tuple[str, str], bool] = {}
    for i, layer in enumerate(layers):
        for path, module in layer.named_modules():
            for name, value in vars(module).items():
                if type(value) is int:
                    indices[path, name] = indices.get((path, name), True) and value == i
    return [
        (*[repr(entries[i]) for *_, entries in lists], *_signature(layer, indices)) for i, layer in enumerate(layers)
    ]


def _signature(layer: torch.nn.Module, indices: Mapping[tuple[str, str], bool]) -> Iterator[Hashable]:
    for path, module in layer.named_modules():
        settings = sorted(
            (name, "the index" if type(value) is int and indices[path, name] else repr(value))
            for name, value in vars(module).items()
            if isinstance(value, (bool, int, float, str, type(None)))
            or (isinstance(value, (tuple, list)) and not name.startswith("_"))  # which may hold objects
        )
        tensors = [
            (name, tuple(x.shape), x.dtype, x.requires_grad)
            for name, x in (*module._parameters.items(), *module._buffers.items())
            if x is not None
        ]
        yield path, type(module), tuple(settings), tuple(tensors)


def kept_layers(signatures: Sequence[Hashable]) -> list[int]:
    """For each layer, the layer that stands for it: itself, or one of a pattern's repetition that is kept."""
    like: list[int] = []
    for start, length, repetitions in repeats_of(signatures):
        for number in range(repetitions):
            stands_for = number if number < KEPT - 1 else repetitions - 1 if number == repetitions - 1 else KEPT - 2
            like += [start + stands_for * length + i for i in range(length)]
    return like
