"""Which device runs which operator, and what is copied between devices.

``ggml_backend_sched_split_graph`` (``ggml/src/ggml-backend.cpp``): an operator runs where its weight is. The others
follow their neighbours, devices before the host. Where a device needs a tensor of another one, it gets a copy.
"""

from __future__ import annotations

from collections.abc import Container, Iterable

from .ggml import Graph, Tensor
from .placement import Layout

_VIEWS = ("view", "reshape", "permute", "transpose", "none")
_SMALL_WEIGHTS = ("rope", "flash_attn_ext")
"""Operators whose weights (frequencies, sinks) are too small to decide who runs them."""
_FEW_TOKENS = 32
"""In smaller batches norms are kept where their layer is (``llama_context::graph_get_cb``)."""


def schedule(graph: Graph, layout: Layout, tokens: int, repacked: Container[str]) -> Graph:
    """The graph of a batch of so many tokens, with a place for each tensor and with the copies between places.

    ``repacked`` are the host's weights in a form that no device can read.
    """
    for leaf in graph.leafs:
        leaf.place = layout.of(leaf.name) if leaf.external else layout.host
    for node in graph.nodes:
        node.place = _first_place(node, layout, tokens, repacked)
    _expand(graph, layout.host)
    for node in graph.nodes:
        if node.place < 0 and node.view_of is not None:
            node.place = node.view_of.place
        for source in node.sources:
            if source.place < 0:
                source.place = node.place if source.view_of is None else source.view_of.place
    return _split(graph, layout)


def _is_weight(tensor: Tensor) -> bool:
    return tensor.external and not tensor.name.startswith("cache_")


def _first_place(node: Tensor, layout: Layout, tokens: int, repacked: Container[str]) -> int:
    """The place that a node's memory or weights give it, or -1 (``ggml_backend_sched_backend_id_from_cur``)."""
    if node.view_of is not None and node.view_of.external:
        return node.view_of.place
    if node.name.startswith("norm-") and (tokens < _FEW_TOKENS or layout.full):
        return layout.layers[int(node.name[5:])]
    if node.name == "kqv_out" and layout.kv_on_host:
        return layout.host
    if node.op in _SMALL_WEIGHTS:
        return -1
    weight = next((source for source in node.sources if _is_weight(source)), None)
    if weight is None:
        return -1
    if weight.place == layout.host and weight.name not in repacked:
        takers = (i for i, device in enumerate(layout.devices) if _takes(device.backend.offload_tokens, node))
        return next(takers, layout.host)
    return weight.place


def _takes(least: int | None, node: Tensor) -> bool:
    """Whether a device runs a node whose weight is on the host (``get_op_batch_size``)."""
    if least is None or node.op == "get_rows":
        return False
    rows = node.ne[1] if node.op == "mul_mat" else node.ne[2] if node.op in ("mul_mat_id", "rope") else 0
    return (rows or node.ne[1] * node.ne[2] * node.ne[3]) >= least


def _expand(graph: Graph, host: int) -> None:
    """Nodes without a place get their neighbours': from devices down and up, then from all down and up."""
    nodes = [node for node in graph.nodes if node.op not in _VIEWS]

    def follow(ordered: Iterable[Tensor], with_host: bool) -> None:
        place = -1
        for node in ordered:
            if node.place >= 0:
                place = node.place if with_host or node.place != host else -1
            elif place >= 0:
                node.place = place

    for with_host in (False, True):
        follow(nodes, with_host)
        follow(reversed(nodes), with_host)


def _split(graph: Graph, layout: Layout) -> Graph:
    """The nodes in runs of one place each, with the copies that a run needs before it."""
    copies: dict[tuple[int, int], list[Tensor]] = {}
    nodes: list[Tensor] = []
    run: list[Tensor] = []
    inputs: list[Tensor] = []
    leafs: list[Tensor] = []
    place = next(node.place for node in graph.nodes if node.op not in _VIEWS)

    def finish() -> None:
        for source in inputs:
            dependency = Tensor("dependency", source.kind, source.ne, (source,), view_of=source)
            dependency.place = source.place
            nodes.extend((dependency, copies[id(source), place][0]))
        nodes.extend(run)

    for node in graph.nodes:
        if node.op not in _VIEWS:
            frees = node.place == place and inputs and any(_is_weight(s) and s.place != place for s in node.sources)
            if node.place != place or frees:
                finish()
                run, inputs, place = [], [], node.place
            found = []
            for source in node.sources:
                if source.place != place:
                    key = id(source), place
                    if key not in copies:
                        copies[key] = [_copy(source, place, layout.copies) for _ in range(layout.copies)]
                        inputs.append(source)
                        leafs += copies[key] if layout.copies > 1 else ()
                    source = copies[key][0]
                found.append(source)
            node.sources = tuple(found)
        run.append(node)
    finish()
    return Graph(nodes, [*_inputs(graph, layout), *leafs, *graph.leafs])


def _copy(tensor: Tensor, place: int, of: int) -> Tensor:
    made = Tensor("copy", tensor.kind, tensor.ne, nb=tensor.nb)
    made.place, made.output = place, of > 1
    return made


def _inputs(graph: Graph, layout: Layout) -> list[Tensor]:
    """Where several batches are under way, more copies of the graph's inputs."""
    found = []
    for leaf in graph.leafs:
        if not leaf.external and layout.copies > 1:
            leaf.output = True
            found += [leaf, *(_copy(leaf, layout.host, layout.copies) for _ in range(layout.copies - 1))]
    return found
