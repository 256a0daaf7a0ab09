import numpy as np
import pytest
from scipy import special, stats

from foretrain._foundation import ForetrainError
from foretrain.models import ACTIVATION_FUNCTIONS, activation_function

TRUTHS = {
    "relu": lambda x: np.where(x > 0, x, 0),
    "relu2": lambda x: np.where(x > 0, x**2, 0),
    "relu3": lambda x: np.where(x > 0, x**3, 0),
    "erf": special.erf,
    "sin": np.sin,
    "cos": np.cos,
    "gelu": lambda x: x * stats.norm.cdf(x),
    "linear": lambda x: x,
    "cosine": lambda x: np.sqrt(2) * np.cos(x),
    "tanh": np.tanh,
    "silu": lambda x: x * special.expit(x),
    "sigmoid": special.expit,
    "softplus": lambda x: np.logaddexp(0, x),
}


@pytest.mark.parametrize("name", ACTIVATION_FUNCTIONS)
def test_activations_are_what_their_names_say(name, double):
    x = np.linspace(-6, 6, 49)
    np.testing.assert_allclose(activation_function(name)(x), TRUTHS[name](x), atol=1e-13)


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(ForetrainError, match=r"unknown activation 'swish': expected one of relu, .*softplus$"):
        activation_function("swish")
