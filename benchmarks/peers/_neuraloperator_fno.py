"""The FNO of neuraloperator, trained as its own configurations do."""

from _training import Looks, count, grid_shape

FNO_SIZE = {1: {"n_modes": (16,), "hidden_channels": 64}, 2: {"n_modes": (12, 12), "hidden_channels": 32}}
FNO_RATE, FNO_BATCH, FNO_DECAY, FNO_STAGES = 5e-3, 16, 1e-4, 5


def train_fno(train, test, budget, options):
    """A trained FNO: its looks, how it answers one function, and what it is."""
    import torch
    from neuralop.data.transforms.data_processors import DefaultDataProcessor
    from neuralop.data.transforms.normalizers import UnitGaussianNormalizer
    from neuralop.losses import LpLoss
    from neuralop.models import FNO
    from neuralop.training import AdamW

    shape = grid_shape(train)
    inputs, outputs = (
        torch.tensor(part, dtype=torch.float32).reshape(-1, 1, *shape) for part in (train.inputs, train.outputs)
    )
    tested = torch.tensor(test.inputs, dtype=torch.float32).reshape(-1, 1, *shape)
    scales = []
    for values in (inputs, outputs):
        scales.append(UnitGaussianNormalizer(dim=[0, *range(2, values.ndim)]))
        scales[-1].fit(values)
    processor = DefaultDataProcessor(*scales)
    net = FNO(in_channels=1, out_channels=1, n_layers=4, **FNO_SIZE[len(shape)])
    processor.wrap(net)
    rate = options.learning_rate or FNO_RATE
    optimiser = AdamW(net.parameters(), lr=rate, weight_decay=FNO_DECAY)
    loss, batch = LpLoss(d=len(shape), p=2), options.batch or FNO_BATCH

    def answer(fields):
        processor.eval()
        with torch.inference_mode():
            given = processor.preprocess({"x": fields, "y": fields})
            return processor.postprocess(net(given["x"]), given)[0]

    looks = Looks(budget, lambda: answer(tested).reshape(len(test), -1).numpy(), test.outputs)
    spent = False
    while not spent:
        for chosen in torch.randperm(len(inputs)).split(batch):
            processor.train()
            given = processor.preprocess({"x": inputs[chosen], "y": outputs[chosen]})
            optimiser.zero_grad(set_to_none=True)
            loss(processor.postprocess(net(given["x"]), given)[0], given["y"]).backward()
            for group in optimiser.param_groups:
                group["lr"] = rate * 0.5 ** min(FNO_STAGES - 1, int(FNO_STAGES * looks.share))
            optimiser.step()
            spent = looks.after_step()
            if spent:
                break
    settings = {**FNO_SIZE[len(shape)], "learning_rate": rate, "batch": batch}
    weights = count(net.parameters())
    normalisation = sum(scale.mean.numel() + scale.std.numel() for scale in scales)
    return looks, {"latency": lambda: answer(tested[:1])}, weights, weights + normalisation, settings
