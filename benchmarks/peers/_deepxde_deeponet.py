"""The DeepONets of DeepXDE, trained as Lu et al. 2022 do."""

import numpy as np
from _training import Looks, count, grid_shape

EVERY_STEP = ("inverse time", 1, 1e-4)
ALL_TRAINING = "inverse time, to 1 / 3.5 at the end"
BURGERS = {
    "name": "Burgers",
    "activation": "tanh",
    "trunk": [128, 128, 128],
    "branch": {"deeponet": [128, 128, 128, 128], "pod-deeponet": [128, 128]},
    "modes": 32,
    "training": {
        "deeponet": {"optimizer": "adam", "lr": 1e-3, "decay": ALL_TRAINING},
        "pod-deeponet": {"optimizer": "adam", "lr": 3e-4, "decay": None},
    },
}
ADVECTION = {
    "name": "advection",
    "activation": "relu",
    "trunk": [512, 512, 512],
    "branch": {"deeponet": [512, 512], "pod-deeponet": [512]},
    "modes": None,
    "training": {
        "deeponet": {"optimizer": "adam", "lr": 1e-3, "decay": EVERY_STEP},
        "pod-deeponet": {"optimizer": "adam", "lr": 1e-3, "decay": EVERY_STEP},
    },
}
DARCY = {
    "name": "Darcy",
    "activation": "relu",
    "trunk": [128, 128, 128, 128],
    # Only without convolutions.
    "branch": {"deeponet": [128, 128, 128, 128], "pod-deeponet": [128, 128]},
    "modes": 115,
    "training": {
        "deeponet": {"optimizer": "adamw", "lr": 3e-4, "decay": EVERY_STEP},
        "pod-deeponet": {"optimizer": "adamw", "lr": 3e-4, "decay": EVERY_STEP},
    },
    # All functions at once, as theirs on a graphics card, are a second for each step on a processor core.
    "batch": 50,
}


def lu_recipe(train):
    """Sizes and settings of Lu et al. 2022 for this kind of problem."""
    from foretrain.data import periodic_grid_shape

    if len(grid_shape(train)) == 2:
        return DARCY
    return BURGERS if periodic_grid_shape(train) is not None else ADVECTION


def convolutions(shape, last):
    """The branch of their Darcy recipe."""
    import torch

    sizes = [((side - 5) // 2 + 1 - 5) // 2 + 1 for side in shape]
    return torch.nn.Sequential(
        torch.nn.Unflatten(1, (1, *shape)),
        torch.nn.Conv2d(1, 64, 5, stride=2),
        torch.nn.ReLU(),
        torch.nn.Conv2d(64, 128, 5, stride=2),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(128 * sizes[0] * sizes[1], 128),
        torch.nn.ReLU(),
        torch.nn.Linear(128, last),
    )


def scaling(recipe, train):
    """Their inputs: as they are, but in the plane two-valued coefficients at -0.45 and 0.45 (0.1 a - 0.75 there)."""
    if recipe is not DARCY:
        return lambda values: values
    low, high = train.inputs.min(), train.inputs.max()
    return lambda values: 0.9 * (values - low) / (high - low) - 0.45


def principal(values, modes):
    """Mean and principal components of the outputs, scaled as theirs; without `modes`, 99.99 % of the variance."""
    middle = values.mean(axis=0)
    _, sizes, rows = np.linalg.svd(values - middle, full_matrices=False)
    share = np.cumsum(sizes**2) / np.sum(sizes**2)
    kept = modes or int(np.searchsorted(share, 0.9999)) + 1
    return middle, rows[:kept].T * len(middle) ** 0.5


def made_deeponet(peer, train, recipe, dense):
    """The network, and its numbers beyond the weights; it answers in standard deviations of all outputs."""
    import deepxde

    sensors, outputs = train.inputs.shape[1], train.outputs / train.outputs.std()
    regular = {"regularization": ("l2", 1e-4)} if recipe["training"][peer]["optimizer"] == "adamw" else {}
    activation, layers = recipe["activation"], recipe["branch"][peer]
    convolved = recipe is DARCY and not dense
    if peer == "pod-deeponet":
        middle, basis = principal(outputs, recipe["modes"])
        modes = basis.shape[1]
        branch = [convolutions(grid_shape(train), modes)] if convolved else [*layers, modes]
        net = deepxde.nn.PODDeepONet(basis, [sensors, *branch], activation, "Glorot normal", **regular)
        factor, beside = np.full(len(middle), 1 / modes), basis.size + middle.size
    else:
        middle, factor, beside = outputs.mean(axis=0), outputs.std(axis=0), 2 * outputs.shape[1]
        branch = [convolutions(grid_shape(train), recipe["trunk"][-1])] if convolved else layers
        features = 4 if recipe is BURGERS else train.query_points.shape[1]
        sizes = [sensors, *branch], [features, *recipe["trunk"]]
        net = deepxde.nn.DeepONetCartesianProd(*sizes, activation, "Glorot normal", **regular)
        if recipe is BURGERS:
            net.apply_feature_transform(periodic(train))
    factor, shift = single(factor), single(middle)
    net.apply_output_transform(lambda inputs, outputs: outputs * factor + shift)
    return net, beside


def periodic(train):
    """Their feature of the trunk: two waves of the period."""
    import torch

    points = np.sort(train.query_points[:, 0])
    period = (points[1] - points[0]) * len(points)

    def waves(x):
        angle = 2 * np.pi * x / period
        return torch.cat([torch.cos(angle), torch.sin(angle), torch.cos(2 * angle), torch.sin(2 * angle)], 1)

    return waves


def train_deeponet(train, test, budget, options):
    """A trained DeepONet: its looks, how it answers one function, and what it is."""
    import deepxde
    import torch

    peer, recipe, spread = options.peer, lu_recipe(train), float(train.outputs.std())
    net, beside = made_deeponet(peer, train, recipe, options.dense_branch)
    scaled, points = scaling(recipe, train), train.query_points.astype(np.float32)
    sets = [
        ((scaled(part.inputs).astype(np.float32), points), (part.outputs / spread).astype(np.float32))
        for part in (train, test)
    ]
    model = deepxde.Model(deepxde.data.TripleCartesianProd(*sets[0], *sets[1]), net)
    grid, whole = torch.tensor(points), single(test.inputs)

    def answer(inputs):
        with torch.inference_mode():
            return net((scaled(inputs), grid)) * spread

    looks = Looks(budget, lambda: answer(whole).numpy(), test.outputs)

    class Stop(deepxde.callbacks.Callback):
        def on_batch_end(self):
            self.model.stop_training = looks.after_step()

    chosen, batch = dict(recipe["training"][peer]), options.batch or recipe.get("batch")
    chosen["lr"] = options.learning_rate or chosen["lr"]
    if chosen["decay"] == ALL_TRAINING:
        # Theirs is by epochs, of which there are as many as the budget has room for.
        chosen["decay"] = ("lambda", lambda step: 1 / (1 + 2.5 * looks.share))
    model.compile(**chosen, verbose=0)
    never = 10**9
    looks.start()
    model.train(iterations=never, batch_size=batch, display_every=never, callbacks=[Stop()], verbose=0)
    net.eval()
    one = single(test.inputs[:1])
    calls = {"latency": lambda: answer(one)}
    if peer == "deeponet":
        calls["latency_kept"] = with_trunk_kept(net, grid, one, scaled, spread)
        assert np.allclose(calls["latency_kept"](), answer(one), rtol=1e-4, atol=1e-5 * spread)
    settings = {"recipe": recipe["name"], "optimizer": chosen["optimizer"], "learning_rate": chosen["lr"]}
    settings |= {"batch": batch or len(train), "dense_branch": options.dense_branch}
    trunk = getattr(net, "trunk", None)
    settings |= {"activation": recipe["activation"], "branch": shapes(net.branch), "trunk": shapes(trunk)}
    weights = count(net.parameters())
    return looks, calls, weights, weights + beside, settings


def with_trunk_kept(net, grid, one, scaled, spread):
    """A call that asks the branch alone: at points known before, the trunk's answers are a matrix."""
    import torch

    with torch.inference_mode():
        features = net._input_transform(grid) if net._input_transform else grid
        kept, offset = net.activation_trunk(net.trunk(features)).T.contiguous(), net.b[0].detach()

    def answer():
        with torch.inference_mode():
            return net._output_transform(None, net.branch(scaled(one)) @ kept + offset) * spread

    return answer


def shapes(net):
    """Of the layers' weights."""
    return [list(weight.shape) for weight in net.parameters() if weight.ndim > 1] if net is not None else []


def single(values):
    import torch

    return torch.tensor(values, dtype=torch.float32)
