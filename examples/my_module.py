"""Your own network: forecast its training before the first step, then again while Adam trains it.

`foretrain forecast data.npz --model examples/my_module.py:net` takes `net` from here. A run of this file saves its
state, from which `--resume` goes on:

    .venv/bin/python examples/my_module.py                    (writes data.npz and checkpoint.safetensors, a minute)
    foretrain forecast data.npz --model examples/my_module.py:net --resume checkpoint.safetensors --steps 1000
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

SENSORS, WIDTH = 48, 64


class BranchTrunk(eqx.Module):
    """G(u)(y) = sum_k branch_k(u) trunk_k(y) + bias: inputs [functions, sensors], points [points, 1]."""

    branch: eqx.nn.MLP
    trunk: eqx.nn.MLP
    bias: jax.Array

    def __init__(self, key):
        branch_key, trunk_key = jax.random.split(key)
        self.branch = eqx.nn.MLP(SENSORS, WIDTH, WIDTH, 1, activation=jnp.tanh, key=branch_key)
        self.trunk = eqx.nn.MLP(1, WIDTH, WIDTH, 1, activation=jnp.tanh, key=trunk_key)
        self.bias = jnp.zeros(())

    def __call__(self, inputs, points):
        """Outputs [functions, points]."""
        return jax.vmap(self.branch)(inputs) @ jax.vmap(self.trunk)(points).T + self.bias


def net(key):
    """What `--model my_module.py:net` calls; a module would do as well."""
    return BranchTrunk(key)


def loss_of(network, inputs, points, outputs):
    """Mean squared error, which the forecast takes for granted."""
    return jnp.mean((network(inputs, points) - outputs) ** 2)


def main(steps=4000, saved_at=1000):
    """Trains, shows the outlook, and saves what `--resume` reads."""
    import foretrain as ft
    from foretrain.data import load_split
    from foretrain.forecast import save_adam_checkpoint

    ft.problems.antiderivative(samples=240, resolution=SENSORS).save("data.npz")
    train, _ = load_split("data.npz")  # as the command line divides it
    inputs, points, outputs = (jnp.asarray(a, jnp.float32) for a in (train.inputs, train.query_points, train.outputs))
    network, optimiser = net(jax.random.key(0)), optax.adam(1e-3)
    state = optimiser.init(eqx.filter(network, eqx.is_inexact_array))

    @eqx.filter_jit
    def update(network, state):
        loss, gradient = eqx.filter_value_and_grad(loss_of)(network, inputs, points, outputs)
        change, state = optimiser.update(gradient, state)
        return eqx.apply_updates(network, change), state, loss

    outlook = ft.Outlook(train, steps=steps, learning_rate=1e-3)
    for step in range(1, steps + 1):
        network, state, loss = update(network, state)
        bulletin = outlook(step, network, state, loss)
        if bulletin is not None:
            print(bulletin.sentence)
        if step == saved_at:
            save_adam_checkpoint("checkpoint.safetensors", network, state, learning_rate=1e-3)
    print(f"after {steps} steps the loss is {float(loss):.2e}")


if __name__ == "__main__":
    main()
