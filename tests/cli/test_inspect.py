import json

import numpy as np
import pytest

from foretrain import OperatorDataset, load
from foretrain.problems import antiderivative


def facts_of(call, path):
    """What the command prints for machines: JSON and nothing else."""
    outcome = call("inspect --json", path)
    assert outcome.code == 0

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(outcome.output, parse_constant=refuse)


def components(values, share=0.999):
    """How many eigenvalues of the covariance make up that share of the variance."""
    power = np.linalg.eigvalsh(np.cov(values.T))[::-1]
    return next(count for count in range(1, len(power) + 1) if power[:count].sum() >= share * power.sum())


def test_facts_of_a_linear_operator(call, folder):
    data = antiderivative(samples=60, resolution=33)
    data.save("data.npz")
    facts = facts_of(call, "data.npz")
    assert facts["name"] == "antiderivative"
    assert (facts["functions"], facts["sensors"], facts["query points"]) == (60, 33, 33)
    assert (facts["sensor grid"], facts["query grid"], facts["periodic"]) == ([33], [33], False)
    assert facts["input range"] == [data.inputs.min(), data.inputs.max()]
    assert facts["output range"] == [data.outputs.min(), data.outputs.max()]
    assert facts["input components for 99.9 %"] == components(data.inputs)
    assert facts["output components for 99.9 %"] == components(data.outputs)
    assert facts["fingerprint"] == data.fingerprint
    assert facts["error of a linear model"] < 1e-8
    assert facts["looks"].startswith("linear")


def test_facts_of_a_nonlinear_operator_on_a_periodic_plane(call, folder, small_plane):
    small_plane.save("data.npz")
    facts = facts_of(call, "data.npz")
    assert (facts["sensor grid"], facts["query grid"], facts["periodic"]) == ([6, 8], [6, 8], True)
    assert facts["error of a linear model"] > 0.5
    assert facts["looks"] == "nonlinear"


def test_the_error_of_predicting_the_mean_is_that_of_the_mean(call, folder):
    inputs = np.arange(1.0, 7.0)[:, None]
    outputs = np.array([[1.0], [3.0], [1.0], [3.0], [1.0], [3.0]])
    OperatorDataset(inputs, outputs).save("data.npz")
    # Too few to hold any out: judged on themselves.
    assert facts_of(call, "data.npz")["error of predicting the mean"] == pytest.approx((1 / 1 + 1 / 3) / 2)


def test_facts_of_scattered_points_have_no_grid(call, folder):
    rng = np.random.default_rng(0)
    np.savez("data.npz", inputs=rng.normal(size=(9, 5)), outputs=rng.normal(size=(9, 5)), query_points=rng.random(5))
    facts = facts_of(call, "data.npz")
    assert (facts["sensor grid"], facts["query grid"], facts["periodic"]) == ([5], None, False)


@pytest.mark.parametrize("count", [2, 3, 4, 7, 8])
def test_few_functions_are_inspected_too(call, folder, arrays, count):
    np.savez("few.npz", **{name: values[:count] for name, values in arrays.items()})
    assert facts_of(call, "few.npz")["functions"] == count


def test_the_table_for_people_shows_names_and_numbers_as_they_are(call, folder, arrays):
    name = "[/red] 5 [bold]"
    OperatorDataset(arrays["inputs"], arrays["outputs"], name=name).save("data.npz")
    outcome = call("inspect data.npz")
    assert outcome.code == 0
    assert name in outcome.output
    assert load("data.npz").fingerprint.removeprefix("sha256:")[:20] in "".join(outcome.output.split())
    assert outcome.errors == ""
