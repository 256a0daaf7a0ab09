"""Students on boxes: lessons by symmetry, widths by budget, and what a descent makes of them."""

import numpy as np
import pytest

from foretrain._foundation import ForetrainError
from foretrain.compression import Budget, compress
from foretrain.compression._box_student import box_operator, with_images
from foretrain.data import OperatorDataset, mean_relative_error
from foretrain.deployment import OnnxPackager
from foretrain.problems import darcy
from foretrain.tangent import SymmetryGroup, grid_symmetries

pytestmark = pytest.mark.slow

LIGHT = {"package": OnnxPackager(latency_repeats=3), "evaluations": 20}


class SymmetricTeacher:
    """A teacher whose symmetries are known, and which keeps what it was asked."""

    def __init__(self, data, symmetries=()):
        self.settings_ = type("Settings", (), {"symmetries": symmetries})()
        self.asked, self._points = [], data.outputs.shape[1]

    def __call__(self, inputs):
        self.asked.append(inputs)
        return np.ones((len(inputs), self._points))


@pytest.fixture(scope="module")
def flow():
    return darcy(140, resolution=13, simulation_resolution=49)


@pytest.fixture(scope="module")
def square(flow):
    return tuple(each for each in grid_symmetries(flow) if each.input_sign > 0 and each.output_sign > 0)


@pytest.fixture(scope="module")
def small(flow, square):
    train, test = flow.split(40, key=0)
    return compress(SymmetricTeacher(train, square), Budget(error=0.2, numbers=4000), train, test=test, **LIGHT), test


def test_images_are_functions_of_the_same_equation(flow, square):
    more = with_images(flow, square, 3, 0)
    assert 2.9 * len(flow) < len(more) <= 3 * len(flow)
    elements = SymmetryGroup.generated_by(square).elements
    assert len(elements) == 8
    images = {
        element.of_inputs(flow.inputs)[row].tobytes(): (element, row) for element in elements for row in range(140)
    }
    for row in range(len(flow), len(more), 17):
        element, source = images[more.inputs[row].tobytes()]
        np.testing.assert_array_equal(element.of_outputs(flow.outputs[[source]])[0], more.outputs[row])
    assert len(np.unique(more.inputs, axis=0)) == len(more)
    assert with_images(flow, (), 3, 0) is flow


def test_a_function_that_is_its_own_image_comes_once():
    points = np.linspace(0, 1, 9)[:, None]
    values = np.abs(points - 0.5).T ** [[1], [2]]
    even = OperatorDataset(values, values**2, points, points)
    mirror = tuple(each for each in grid_symmetries(even) if each.input_sign > 0 and each.output_sign > 0)
    assert len(with_images(even, mirror, 2, 0)) == 2


def test_output_modes_are_as_few_as_the_error_wanted_allows(flow):
    coarse, fine = (box_operator(flow, Budget(error=error)) for error in (0.3, 0.02))
    assert coarse.output_modes == 8
    assert fine.output_modes > 8


def test_outputs_without_a_short_series_are_left_to_other_students():
    rng = np.random.default_rng(0)
    points = np.linspace(0, 1, 65)[:, None]
    inputs = rng.standard_normal((20, 65))
    rough = OperatorDataset(inputs, rng.standard_normal((20, 65)), points, points)
    assert box_operator(rough, Budget(error=0.02)) is None
    scattered = np.sort(rng.random((65, 1)), axis=0)
    assert box_operator(OperatorDataset(inputs, inputs**2, scattered, scattered), Budget()) is None


def test_a_student_keeps_its_budget_and_beats_the_linear_operator(small, flow):
    shipped, test = small
    chosen = shipped.chosen
    assert chosen.numbers <= 4000
    assert chosen.test_error <= 0.2
    train, _ = flow.split(40, key=0)
    affine = np.linalg.lstsq(np.c_[train.inputs, np.ones(100)], train.outputs, rcond=None)[0]
    linear = mean_relative_error(np.c_[test.inputs, np.ones(40)] @ affine, test.outputs)
    assert chosen.test_error < 0.75 * linear


def test_the_front_has_a_smaller_student_and_no_static_eight_bits(small):
    formats = {candidate.format for candidate in small[0].candidates}
    assert "int8" not in formats
    assert {"float32", "float16", "int8 weights"} <= formats
    students = [each for each in small[0].candidates if each.format == "float32"]
    assert students[1].numbers < 0.75 * students[0].numbers


@pytest.mark.slow
def test_inputs_of_two_values_are_not_drawn_from_a_gaussian(flow):
    teacher = SymmetricTeacher(flow)
    train, test = flow.split(40, key=0)
    compress(teacher, Budget(numbers=3000), train, test=test, **LIGHT)
    asked = np.unique(np.concatenate(teacher.asked))
    np.testing.assert_array_equal(asked, np.unique(flow.inputs))


def test_a_budget_too_small_says_what_would_do(flow):
    with pytest.raises(ForetrainError, match=r"budget of at least [\d,]+ stored numbers, came 200"):
        compress(SymmetricTeacher(flow), Budget(numbers=200), flow, **LIGHT)
