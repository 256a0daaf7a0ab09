"""The operator in closed form against Gaussian-process formulas with dense matrices."""

import numpy as np
import pytest

from foretrain._foundation import DataError, ForetrainError
from foretrain.data import OperatorDataset, OutputScale
from foretrain.problems import antiderivative
from foretrain.tangent import BranchTrunkSettings, FourierSettings, InfiniteWidthOperator, Symmetry
from foretrain.tangent._closed_forms import branch_trunk_kernel

SETTINGS = BranchTrunkSettings("relu", "relu", input_norm=2.0, ridge=1e-6)


@pytest.fixture(scope="module")
def data():
    return antiderivative(samples=24, resolution=12)


@pytest.fixture(scope="module")
def fitted(data):
    return InfiniteWidthOperator(settings=SETTINGS).fit(data)


@pytest.fixture(scope="module")
def new_inputs():
    return antiderivative(samples=4, resolution=12, key=1).inputs


class DenseProcess:
    """Regression with a Gaussian process whose covariance is the tangent kernel, by the textbook formulas."""

    def __init__(self, data, settings, inputs, points):
        kernel = branch_trunk_kernel(data, settings)
        self.scale = OutputScale.of(data.outputs)
        self.gram = self.matrix(kernel.gram(data.inputs, data.query_points).terms)
        self.cross = self.matrix(kernel.between(inputs, points, data.inputs, data.query_points))
        self.own = np.diagonal(self.matrix(kernel.between(inputs, points, inputs, points)))
        self.target = self.scale.normalise(data.outputs).ravel()
        self.shape = (len(inputs), len(points))

    @staticmethod
    def matrix(terms):
        return sum(np.kron(term.functions, term.points) for term in terms)

    def mean(self):
        return self.scale.restore(self.cross @ np.linalg.solve(self.gram, self.target)).reshape(self.shape)

    def std(self):
        amplitude = self.target @ np.linalg.solve(self.gram, self.target) / len(self.target)
        variance = self.own - np.sum(self.cross.T * np.linalg.solve(self.gram, self.cross.T), axis=0)
        return self.scale.scale * np.sqrt(amplitude * variance).reshape(self.shape)


def test_prediction_and_deviation_are_those_of_the_dense_gaussian_process(data, fitted, new_inputs):
    points = np.array([[0.05], [0.33], [0.71]])
    dense = DenseProcess(data, SETTINGS, new_inputs, points)
    np.testing.assert_allclose(fitted.predict(new_inputs, points), dense.mean(), rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(fitted.std(new_inputs, points), dense.std(), rtol=1e-5)


def test_training_data_are_interpolated_with_no_deviation_left(data):
    operator = InfiniteWidthOperator(settings=BranchTrunkSettings("relu", "relu", 2.0)).fit(data)
    assert operator.form_ == "branch-trunk"
    assert operator.relative_residual_ < 1e-8
    assert operator.score(data) < 1e-7
    typical = operator.std(antiderivative(samples=4, resolution=12, key=1).inputs).mean()
    assert operator.std(data.inputs).max() < 1e-3 * typical


def test_the_fourier_form_interpolates_up_to_its_ridge(periodic_data):
    operator = InfiniteWidthOperator(settings=FourierSettings("matern52")).fit(periodic_data)
    assert operator.form_ == "fourier"
    assert operator.reports_ == ()
    assert operator.relative_residual_ < 1e-10
    assert operator.score(periodic_data) < 1e-4


def test_the_score_is_the_mean_relative_error_on_unseen_functions(data, fitted):
    test = antiderivative(samples=20, resolution=12, key=2)
    error = np.mean(
        np.linalg.norm(fitted.predict(test.inputs) - test.outputs, axis=1) / np.linalg.norm(test.outputs, axis=1)
    )
    assert fitted.score(test) == pytest.approx(error, rel=1e-12)
    assert error < 0.3


@pytest.fixture(scope="module")
def far_reaching_data(periodic_data):
    """Translation-equivariant, but an output depends on inputs far away, which local neurons cannot see together."""
    inputs = periodic_data.inputs
    mixed = np.tanh(inputs + np.roll(inputs, 4, axis=1) + 0.7 * np.roll(inputs, -6, axis=1))
    spectrum = np.fft.rfft(mixed, axis=1) * np.exp(-(np.arange(9) ** 2) / 18)
    return OperatorDataset(inputs, np.fft.irfft(spectrum, n=16, axis=1))


def test_auto_finds_translation_equivariance_and_uses_it(far_reaching_data):
    train, test = far_reaching_data.split(15, key=1)
    operator = InfiniteWidthOperator(activation="matern52", symmetries=()).fit(train)
    assert operator.form_ == "fourier"
    reports = {report.form: report for report in operator.reports_}
    assert reports["fourier"].held_out_error < reports["branch-trunk"].held_out_error
    for report in operator.reports_:
        # What was better by less than a move is worth was left.
        assert 0.995 * report.held_out_error <= min(candidate.error for candidate in report.candidates)
    assert operator.score(test) < reports["branch-trunk"].held_out_error
    # Between the grid points too: the periodic interpolation of what it says on them.
    finer = np.arange(32)[:, None] / 32
    between = operator.predict(test.inputs, finer)
    spectrum = np.fft.rfft(between, axis=1)
    np.testing.assert_allclose(between[:, ::2], operator.predict(test.inputs), rtol=0, atol=1e-7)
    assert np.abs(spectrum[:, -4:]).max() < 0.01 * np.abs(spectrum).max()


def test_auto_takes_the_branch_trunk_form_where_the_grid_does_not_close_up(data):
    operator = InfiniteWidthOperator(activation="relu").fit(data)
    assert operator.form_ == "branch-trunk"
    assert [report.form for report in operator.reports_] == ["branch-trunk"]
    assert operator.settings_.activation == "relu"


def test_the_held_out_error_is_measured_on_functions_not_learnt(data):
    report = InfiniteWidthOperator("branch-trunk", "relu", key=3).choose(data)[0]
    learn, check = data.split(6, 3)
    operator = InfiniteWidthOperator(settings=report.settings).fit(learn)
    # The prediction is normalised by all training outputs there, by the learnt ones here.
    assert operator.score(check) == pytest.approx(report.held_out_error, rel=1e-6)
    assert report.learnt_on == len(learn)


def irregular(data):
    points = np.sort(np.random.default_rng(0).uniform(size=data.outputs.shape[1]))
    return OperatorDataset(data.inputs, data.outputs, points, points)


def other_points(data):
    return OperatorDataset(data.inputs, data.outputs[:, ::2], data.sensor_points, data.query_points[::2])


@pytest.mark.parametrize("displaced", [irregular, other_points])
@pytest.mark.parametrize("arguments", [{"form": "fourier"}, {"settings": FourierSettings()}])
def test_the_fourier_form_refuses_data_that_are_not_on_one_grid(periodic_data, displaced, arguments):
    with pytest.raises(DataError, match=r"one regular grid.*branch-trunk"):
        InfiniteWidthOperator(**arguments).fit(displaced(periodic_data))


def test_an_odd_reflection_is_kept_whatever_the_mean_of_the_training_outputs(periodic_data):
    rows = np.argsort(periodic_data.outputs[:, 0])[:20]
    lopsided = OperatorDataset(periodic_data.inputs[rows] + 0.1, periodic_data.outputs[rows] + 0.1)
    operator = InfiniteWidthOperator(settings=FourierSettings("matern52", reflection=-1)).fit(lopsided)

    def reflected(functions):
        return -np.roll(functions[:, ::-1], 1, axis=1)

    plain = operator.predict(periodic_data.inputs[:5])
    np.testing.assert_allclose(operator.predict(reflected(periodic_data.inputs[:5])), reflected(plain), atol=1e-9)


def test_parameters_are_read_and_set_by_name():
    operator = InfiniteWidthOperator(form="fourier", key=4)
    assert InfiniteWidthOperator(**operator.get_params()).get_params() == operator.get_params()
    assert operator.set_params(form="branch-trunk", activation="erf") is operator
    assert (operator.form, operator.activation, operator.key) == ("branch-trunk", "erf", 4)
    with pytest.raises(ForetrainError, match="came 'width'"):
        operator.set_params(width=3)


def test_an_operator_that_is_not_fitted_says_so(data):
    for use in (lambda operator: operator.predict(data.inputs), lambda operator: operator.std(data.inputs)):
        with pytest.raises(ForetrainError, match=r"fitted.*call fit"):
            use(InfiniteWidthOperator())


def test_an_unknown_form_is_refused_with_the_known_ones(data):
    with pytest.raises(ForetrainError, match=r"'auto', 'branch-trunk' or 'fourier', came 'fno'"):
        InfiniteWidthOperator(form="fno").fit(data)


def test_inputs_and_points_of_another_shape_are_refused_and_plain_lists_of_points_taken(data, fitted, new_inputs):
    with pytest.raises(DataError, match=r"12 sensors.*\(4, 11\)"):
        fitted.predict(new_inputs[:, 1:])
    with pytest.raises(DataError, match=r"dimension 1.*\(3, 2\)"):
        fitted.predict(new_inputs, np.zeros((3, 2)))
    line = [0.1, 0.4]
    np.testing.assert_array_equal(
        fitted.predict(new_inputs, line), fitted.predict(new_inputs, np.array([[0.1], [0.4]]))
    )


def test_functions_that_a_symmetry_turns_into_one_another_are_solved_with_a_stated_jitter():
    points = np.linspace(0, 1, 9)[:, None]
    inputs = np.random.default_rng(0).standard_normal((12, 9))
    inputs[6:9], inputs[9] = inputs[:3, ::-1], inputs[9] + inputs[9, ::-1]
    data = OperatorDataset(inputs, np.cumsum(inputs, 1) + np.cumsum(inputs[:, ::-1], 1)[:, ::-1], points, points)
    mirror = Symmetry.of_coordinates("mirror", data, lambda places: 1 - places)
    settings = BranchTrunkSettings("relu", "relu", symmetries=(mirror,))
    fitted = InfiniteWidthOperator(settings=settings).fit(data)
    assert fitted.solution_.relative_residual < 1e-2
    assert fitted.solution_.jitter[0] > 0
    np.testing.assert_allclose(fitted.predict(inputs), data.outputs, atol=1e-2 * data.outputs.std())
    # Pairs whose outputs contradict the symmetry are fitted by their mean.
    outputs = data.outputs.copy()
    outputs[6] += 0.1 * outputs.std()
    contradictory = OperatorDataset(inputs, outputs, points, points)
    answers = InfiniteWidthOperator(settings=settings).fit(contradictory).predict(inputs[[0, 6]])
    middle = (outputs[0] + outputs[6, ::-1]) / 2
    np.testing.assert_allclose(answers, [middle, middle[::-1]], atol=1e-2 * outputs.std())
