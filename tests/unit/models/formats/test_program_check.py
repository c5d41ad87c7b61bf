"""Stored programs are checked before they run: operators, arguments, shapes, costs and weights."""

from __future__ import annotations

import pytest
import torch
from tests import hostile_programs
from tests.hostile_programs import make_graph, make_state, node, store_program, tensor

from vfmalign.core.domain.errors import BadCheckpoint, InvalidInput
from vfmalign.models.cards import load_encoder
from vfmalign.models.formats import program_graph
from vfmalign.models.formats.exported_program import build_exported
from vfmalign.models.formats.operators import ALLOWED_OPERATORS, INDEX_ARGUMENTS, TEXT_ARGUMENTS, find_operator
from vfmalign.models.formats.program_check import check_program
from vfmalign.models.weights import to_safetensors

ARGUMENTS = hostile_programs.make_arguments()
GRAPHS = hostile_programs.make_graphs()
# They draw random numbers in training mode alone, which `_REQUIRED_VALUES` excludes.
IN_EVALUATION_MODE = {
    "alpha_dropout.default",
    "dropout.default",
    "dropout_.default",
    "feature_dropout.default",
    "scaled_dot_product_attention.default",
}


def test_the_harmless_program_runs() -> None:
    encoder = build_exported(make_state(make_graph()), "m")
    with torch.inference_mode():
        assert torch.equal(encoder(torch.ones(1, 3, 4, 8, 8)), torch.full((1, 2), 3.0))


@pytest.mark.parametrize("operator", sorted(hostile_programs.make_operators("/x")))
def test_operators_that_are_not_listed_are_refused(operator, tmp_path) -> None:
    nodes = hostile_programs.make_operators(tmp_path / "created")[operator]
    with pytest.raises(BadCheckpoint, match=rf"m: the graph calls 'aten.{operator}', which is not allowed"):
        build_exported(make_state(make_graph(*nodes)), "m")
    assert not (tmp_path / "created").exists()


@pytest.mark.parametrize("name", sorted(ARGUMENTS))
def test_hostile_arguments_are_refused(name) -> None:
    nodes, message = ARGUMENTS[name]
    with pytest.raises(BadCheckpoint, match=message):
        check_program(make_state(make_graph(*nodes)), "m")


@pytest.mark.parametrize("name", sorted(set(GRAPHS) - {"other-input"}))
def test_hostile_graphs_are_refused(name) -> None:
    graph, message = GRAPHS[name]
    with pytest.raises(BadCheckpoint, match=message):
        check_program(make_state(graph), "m")


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"w": torch.ones(2, 3, 1, 1, 1, dtype=torch.float64)}, r"'w' has type torch\.float64"),
        ({"w": torch.ones(2, 3, 1, 1, 1, 1, 1, 1, 1)}, "'w' has type torch.float32 and 9 axes"),
        ({"s": torch.ones(3, dtype=torch.complex64)}, r"'s' has type torch\.complex64"),
        ({"more": torch.ones(1)}, "the weights do not match the names"),
        ({"w": torch.ones(2, 3, 1, 1, 1, dtype=torch.int64), "s": torch.ones(3, dtype=torch.int64)}, "has no weights"),
        ({"program": torch.zeros(3)}, "the file holds no graph"),
        ({"program": torch.zeros(program_graph.MAX_GRAPH_BYTES + 1, dtype=torch.uint8)}, "the file holds no graph"),
    ],
)
def test_hostile_weights_are_refused(tensors, message) -> None:
    with pytest.raises(BadCheckpoint, match=message):
        check_program({**make_state(make_graph()), **tensors}, "m")


def test_stored_programs_are_checked_at_every_load(store) -> None:
    store_program(store, "stored", make_state(make_graph()))
    assert load_encoder(store, "stored")[0].layer_channels() == {"out": 2, "pooled": 2}
    (nodes,) = hostile_programs.make_operators("/x")["empty.memory_format"]
    store_program(store, "stored", make_state(make_graph(nodes)))
    with pytest.raises(BadCheckpoint, match=r"stored: the graph calls 'aten\.empty\.memory_format'"):
        load_encoder(store, "stored")
    graph, message = GRAPHS["other-input"]
    store_program(store, "stored", make_state(graph))
    with pytest.raises(BadCheckpoint, match=message):
        load_encoder(store, "stored")


def test_weights_beyond_the_limit_are_not_read(store) -> None:
    from vfmalign.models.cards import load_card, load_card_encoder

    store_program(store, "large", make_state(make_graph()))
    size = len(to_safetensors(make_state(make_graph())))
    card = load_card(store, "large")
    load_card_encoder(store, card, max_bytes=size)
    with pytest.raises(InvalidInput, match=f"the object has {size} bytes, the limit is {size - 1}"):
        load_card_encoder(store, card, max_bytes=size - 1)


def test_indices_of_weights_and_their_arithmetic_are_accepted() -> None:
    nodes = [
        node("arange.start", "a", start=-1, end=1),
        node("add.Tensor", "j", self=tensor("a"), other=tensor("i")),
        node("index.Tensor", "t", self=tensor("s"), indices=["tensors", ["j"]]),
        node("index.Tensor", "u", self=tensor("x"), indices=["optional", [["value", None], ["tensor", "i"]]]),
        node("index_select.default", "v", self=tensor("x"), dim=-1, index=tensor("i")),
        node("embedding.default", weight=tensor("s"), indices=tensor("i")),
    ]
    nodes[-1] = node("embedding.default", weight=tensor("r"), indices=tensor("i"))
    nodes.insert(0, node("reshape.default", "r", self=tensor("s"), shape=[3, 1]))
    check_program(make_state(make_graph(*nodes)), "m")


def test_values_are_released_after_their_last_use() -> None:
    """A chain of 30 values of 128 MiB needs the memory of two of them."""
    chain = [node("zeros.default", "c0", size=[2**25])]
    chain += [node("relu.default", f"c{n + 1}", self=tensor(f"c{n}")) for n in range(30)]
    check_program(make_state(make_graph(*chain)), "m")


def test_the_list_holds_no_operator_that_torch_marks_as_unfit() -> None:
    unfit = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape, torch.Tag.nondeterministic_seeded}
    for name in sorted(ALLOWED_OPERATORS):
        operator, overload = name.split(".")
        function = find_operator(operator, overload, "x")
        if name not in IN_EVALUATION_MODE | {*INDEX_ARGUMENTS}:
            assert not unfit & {*function.tags}, name
        arguments = function._schema.arguments
        assert not any(argument.is_out for argument in arguments), name
        assert [argument.name for argument in arguments if argument.is_write] in ([], ["self"], ["input"]), name
        texts = {argument.name for argument in arguments if "str" in str(argument.type)}
        assert texts <= {*TEXT_ARGUMENTS}, name
        assert not {"Generator", "Storage", "Stream"} & {str(argument.type) for argument in arguments}, name


def test_an_incomplete_batch_is_filled() -> None:
    graph = make_graph(input_shape=[4, 3, 4, 8, 8])
    encoder = build_exported(make_state(graph), "m")
    input_NCDHW = torch.randn(6, 3, 4, 8, 8)
    with torch.inference_mode():
        expected = build_exported(make_state(make_graph()), "m").feature_maps(input_NCDHW)["out"]
        assert torch.equal(encoder.feature_maps(input_NCDHW)["out"], expected)


def test_an_operator_that_fails_on_the_device_is_named() -> None:
    nodes = [node("to.dtype", "h", self=tensor("x"), dtype=["dtype", 6]), node("relu.default", self=tensor("h"))]
    encoder = build_exported(make_state(make_graph(*nodes)), "m")
    with (
        pytest.raises(BadCheckpoint, match=r"m: the program does not run: aten\.conv3d\.default"),
        torch.inference_mode(),
    ):
        encoder.feature_maps(torch.zeros(1, 1, 1, 1, 1))
