"""The operator in closed form against Gaussian-process formulas with dense matrices."""

from dataclasses import replace

import numpy as np
import pytest

from foretrain._foundation import DataError, ForetrainError
from foretrain.data import OperatorDataset, OutputScale, resample
from foretrain.problems import antiderivative
from foretrain.tangent import BranchTrunkSettings, FourierSettings, InfiniteWidthOperator, Symmetry
from foretrain.tangent._closed_forms import FourierSolution, branch_trunk_kernel
from foretrain.tangent._infinite_width import HOPELESS

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
    # A form whose best start is far behind is not searched further.
    starts = {form: min(each.error for each in reports[form].candidates[:2]) for form in reports}
    searched = starts["branch-trunk"] <= HOPELESS * starts["fourier"]
    assert bool(reports["branch-trunk"].steps) == searched
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


def medium(functions=60, points=16, seed=0):
    """Positive functions, and a linear map of their logarithm."""
    rng = np.random.default_rng(seed)
    place = np.arange(points) / points
    basis = np.stack([np.ones(points), np.cos(2 * np.pi * place), np.sin(2 * np.pi * place), place])
    logarithm = rng.normal(size=(functions, 4)) @ basis
    return OperatorDataset(np.exp(logarithm), np.cumsum(logarithm, axis=1) / points, place, place), logarithm


def test_a_logarithm_of_the_input_is_that_and_nothing_else():
    data, logarithm = medium()
    plain = BranchTrunkSettings("erf", "relu", 1.0)
    seeing = InfiniteWidthOperator(settings=BranchTrunkSettings("erf", "relu", 1.0, logarithm=True)).fit(data)
    given = OperatorDataset(logarithm, data.outputs, data.sensor_points, data.query_points)
    other, new = InfiniteWidthOperator(settings=plain).fit(given), medium(5, seed=1)
    np.testing.assert_allclose(seeing.predict(new[0].inputs), other.predict(new[1]), rtol=0, atol=1e-12)
    np.testing.assert_allclose(seeing.std(new[0].inputs), other.std(new[1]), rtol=0, atol=1e-9)
    with pytest.raises(DataError, match="inputs: expected positive values"):
        seeing.predict(-new[0].inputs)


def test_the_logarithm_of_a_positive_medium_is_found():
    operator = InfiniteWidthOperator("branch-trunk", "erf").fit(medium(120)[0])
    assert operator.settings_.logarithm
    test = medium(20, seed=1)[0]
    assert operator.score(test) < 0.01


def test_one_function_that_is_not_positive_rules_the_logarithm_out():
    data, _ = medium(60)
    for row in (0, 59):
        inputs = data.inputs.copy()
        inputs[row, 0] = -0.1
        operator = InfiniteWidthOperator("branch-trunk", "erf", symmetries=()).fit(replace(data, inputs=inputs))
        assert not any(candidate.settings.logarithm for candidate in operator.reports_[0].candidates)


SMOOTH = FourierSettings("matern52", 1.0, 1.0, 1.0, 0.3, ridge=1e-4, place=0.3)


@pytest.fixture(scope="module")
def smooth_data():
    """Outputs of few waves, different from place to place."""
    rng = np.random.default_rng(0)
    spectra = rng.normal(size=(40, 17)) + 1j * rng.normal(size=(40, 17))
    inputs = np.fft.irfft(spectra / (1 + np.arange(17.0) ** 2), n=32, axis=1) * 32
    wave = np.cos(2 * np.pi * np.arange(32) / 32)
    outputs = np.fft.irfft(np.fft.rfft(np.tanh(inputs + wave), axis=1) * (np.arange(17) < 4), n=32, axis=1)
    return OperatorDataset(inputs, outputs)


def test_a_solution_on_a_coarser_grid_is_that_of_the_interpolated_functions(smooth_data):
    coarse, place = replace(SMOOTH, resolution=(12,)), np.arange(12) / 12
    inputs, outputs = (resample(each, (32,), (12,)) for each in (smooth_data.inputs, smooth_data.outputs))
    scale = OutputScale.of(smooth_data.outputs)
    ours = FourierSolution.solve(smooth_data, coarse, scale, (32,))
    theirs = FourierSolution.solve(OperatorDataset(inputs, outputs, place, place), SMOOTH, scale, (12,))
    new = smooth_data.inputs[:4] + 0.1
    expected = resample(theirs.predict(resample(new, (32,), (12,)), None), (12,), (32,))
    np.testing.assert_allclose(ours.predict(new, None), expected, rtol=0, atol=1e-12)
    # Between the points: the interpolant of what is said on them.
    finer = np.arange(64)[:, None] / 64
    np.testing.assert_allclose(ours.predict(new, finer), resample(expected, (32,), (64,)), rtol=0, atol=1e-7)
    assert np.abs(ours.predict(smooth_data.inputs, None) - smooth_data.outputs).max() < 0.05


def test_smooth_outputs_are_learnt_on_a_coarse_grid_and_the_place_is_found(smooth_data):
    train, test = smooth_data.split(10, key=0)
    operator = InfiniteWidthOperator("fourier", "matern52").fit(train)
    assert operator.settings_.place > 0
    own = {candidate.settings.resolution for candidate in operator.reports_[0].candidates}
    assert (8,) in own
    assert () in own
    without = InfiniteWidthOperator(settings=replace(operator.settings_, place=0.0)).fit(train)
    assert operator.score(test) < 0.7 * without.score(test)


@pytest.mark.parametrize("resolution", [(), (10,)])
def test_an_end_point_listed_twice_changes_nothing(smooth_data, resolution):
    settings, scale = replace(SMOOTH, resolution=resolution), OutputScale.of(smooth_data.outputs)
    place = np.linspace(0, 1, 33)
    inputs, outputs = (np.c_[each, each[:, :1]] for each in (smooth_data.inputs, smooth_data.outputs))
    listed = OperatorDataset(inputs, outputs, place, place)
    ours = FourierSolution.solve(listed, settings, scale, (33,))
    theirs = FourierSolution.solve(smooth_data, settings, scale, (32,))
    for says in ("predict", "std"):
        expected = getattr(theirs, says)(smooth_data.inputs[:3] + 0.2, None)
        given = getattr(ours, says)(inputs[:3] + 0.2, None)
        np.testing.assert_allclose(given, np.c_[expected, expected[:, :1]], rtol=0, atol=1e-10)
    between = np.array([[0.01], [0.99]])
    given = ours.predict(inputs[:3], between)
    np.testing.assert_allclose(given, theirs.predict(smooth_data.inputs[:3], between), rtol=0, atol=1e-10)
