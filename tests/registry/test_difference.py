"""What a diff tells, without a catalog."""

from __future__ import annotations

from lagar.registry import difference
from lagar.registry.manifest import Manifest
from lagar.registry.signature import Field, Output, Signature
from support.registry import manifest_of


def matrix_of(*names: str) -> Manifest:
    fields = tuple(Field(name) for name in names)
    signature = Signature(fields, (Output("predict"),), native_outputs=("predict",), layout="matrix")
    return manifest_of({"model.onnx": b"x"}, version="v", signature=signature)


def test_an_input_that_only_one_has_is_no_change_of_the_order() -> None:
    found = difference.compare(matrix_of("a", "b", "c"), matrix_of("a", "c"))
    assert [(change.part, change.name) for change in found.changes] == [("input", "b")]


def test_inputs_in_another_order_are_told_of() -> None:
    (change,) = difference.compare(matrix_of("a", "b", "c"), matrix_of("c", "a", "b")).changes
    assert (change.name, change.a, change.b) == ("order of inputs", ["a", "b", "c"], ["c", "a", "b"])
