"""Your own solver as a teacher: shrink it to a small ONNX file from the command line.

Students learn from the functions of data.npz and from inputs without outputs, which `solver` below answers. A trained
network would do as well, see examples/torch_teacher.py.

    .venv/bin/python examples/solver_teacher.py          (writes data.npz and inputs.npz)
    foretrain compress data.npz --teacher examples/solver_teacher.py:solver --unlabelled inputs.npz --max-error 5%
"""

import numpy as np

SENSORS = 48


def solver(inputs):
    """Load u to deflection s of a beam's damped swing, s' = u - sin(3 s), s(0) = 0: [functions, sensors] to the same.

    Heun's method, one step for each sensor.
    """
    step = 1 / (SENSORS - 1)
    states = np.zeros_like(inputs)
    for place in range(SENSORS - 1):
        now = states[:, place]
        slope = inputs[:, place] - np.sin(3 * now)
        ahead = inputs[:, place + 1] - np.sin(3 * (now + step * slope))
        states[:, place + 1] = now + step * (slope + ahead) / 2
    return states


def drawn(functions, key):
    """Smooth random loads."""
    points = np.linspace(0, 1, SENSORS)
    waves = np.cos(np.pi * np.outer(np.arange(8), points)) / (1 + np.arange(8))[:, None]
    return 3 * np.random.default_rng(key).standard_normal((functions, 8)) @ waves


def main(functions=300, more=200):
    """Writes functions with outputs, and inputs alone."""
    import foretrain as ft

    points, inputs = np.linspace(0, 1, SENSORS), drawn(functions, 0)
    ft.OperatorDataset(inputs, solver(inputs), points, points).save("data.npz")
    np.savez("inputs.npz", inputs=drawn(more, 1))


if __name__ == "__main__":
    main()
