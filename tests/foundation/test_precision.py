import jax
import jax.numpy as jnp
import numpy as np
import pytest

from foretrain._foundation import double_precision


@double_precision
def third(fail: bool = False):
    """A third, in the precision of the moment."""
    if fail:
        raise RuntimeError("inside")
    return np.asarray(jnp.ones(()) / 3)


def test_inside_the_scope_arithmetic_is_double_and_outside_single():
    assert third() == 1 / 3
    assert third().dtype == np.float64
    outside = np.asarray(jnp.ones(()) / 3)
    assert outside.dtype == np.float32
    assert 0 < abs(float(outside) - 1 / 3) < 1e-7


def test_the_callers_setting_returns_even_after_a_failure():
    for before in (False, True):
        with jax.enable_x64(before):
            with pytest.raises(RuntimeError, match="inside"):
                third(fail=True)
            third()
            assert jnp.ones(()).dtype == (np.float64 if before else np.float32)


def test_scopes_nest():
    @double_precision
    def outer():
        inner = third()
        return inner, np.asarray(jnp.ones(()) / 3)

    for value in outer():
        assert value == 1 / 3


def test_name_and_documentation_stay():
    assert third.__name__ == "third"
    assert third.__doc__ == "A third, in the precision of the moment."
