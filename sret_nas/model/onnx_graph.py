"""What is done to a graph that torch's ONNX exporter wrote, before it becomes a file.

Names that say where a node is from, weights that are stored once, nothing of the machine.
Requires onnx.
"""

from __future__ import annotations

import ast
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

SCOPES = "pkg.torch.onnx.name_scopes"
"""Where the exporter keeps which module a node comes from."""


def tidy(proto: ModelProto) -> None:
    """Put a graph in order; what it computes stays.

    Args:
        proto: What the exporter made; changed in place.
    """
    graph = proto.graph
    for at, node in enumerate(graph.node):
        notes = {note.key: note.value for note in node.metadata_props}
        node.name = f"{_module(notes.get(SCOPES, '[]'))}/{node.op_type}_{at}"
    _transpose_weights(graph)
    _share_weights(graph)
    _forget(proto)


def _module(scopes: str) -> str:
    """Of all scopes of a node the module; the last one is the operation."""
    names = [str(name).removeprefix("model.") for name in ast.literal_eval(scopes)[:-1]]
    return next((name for name in reversed(names) if name and name != "model"), "")


def _transpose_weights(graph: Any) -> None:
    """Store weights as they are multiplied, once for all uses.

    The exporter leaves large ones to be transposed at every start, and quantisers then do not
    know them as weights.
    """
    stored = {tensor.name: tensor for tensor in graph.initializer}
    outputs = {value.name for value in graph.output}
    made: dict[tuple[str, tuple[int, ...]], str] = {}
    renamed: dict[str, str] = {}
    kept: list[NodeProto] = []
    for node in graph.node:
        source = stored.get(node.input[0]) if node.op_type == "Transpose" else None
        if source is None or node.output[0] in outputs:
            kept.append(node)
            continue
        order = next((tuple(one.ints) for one in node.attribute if one.name == "perm"), ())
        order = order or tuple(reversed(range(len(source.dims))))
        if (source.name, order) not in made:
            turned = np.ascontiguousarray(numpy_helper.to_array(source).transpose(order))
            name = made[source.name, order] = f"{source.name}.transposed"
            graph.initializer.append(numpy_helper.from_array(turned, name))
        renamed[node.output[0]] = made[source.name, order]
    del graph.node[:]
    graph.node.extend(kept)
    _rename_inputs(graph, renamed)


def _share_weights(graph: Any) -> None:
    """Store equal tensors once: those of shared blocks come once an application."""
    first: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    renamed: dict[str, str] = {}
    for tensor in graph.initializer:
        content = (tensor.data_type, tuple(tensor.dims), _content(tensor))
        name = first.setdefault(content, tensor.name)
        if name != tensor.name:
            renamed[tensor.name] = name
    _rename_inputs(graph, renamed)
    used = {name for node in graph.node for name in node.input}
    used |= {value.name for value in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _content(tensor: TensorProto) -> bytes:
    return bytes(numpy_helper.to_array(tensor).tobytes())


def _rename_inputs(graph: Any, renamed: dict[str, str]) -> None:
    for node in graph.node:
        for at, name in enumerate(node.input):
            node.input[at] = renamed.get(name, name)


def _forget(proto: ModelProto) -> None:
    """Drop the exporter's notes: they hold paths of the machine, and outweigh the graph."""
    graph = proto.graph
    values = (graph.input, graph.output, graph.value_info, graph.initializer)
    for one in (proto, graph, *graph.node, *(value for some in values for value in some)):
        del one.metadata_props[:]
        one.doc_string = ""
