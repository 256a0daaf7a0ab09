"""Your own torch model as a teacher: train a Fourier neural operator, then shrink it to a small ONNX file.

    .venv/bin/python examples/torch_teacher.py           (writes data.npz and fno.pt, a minute; needs foretrain[torch])
    foretrain compress data.npz --teacher examples/torch_teacher.py:net --max-error 5%

The FNO is written out here to need torch only; neuraloperator's is used in the same way. A teacher takes inputs and
gives outputs in physical units: what scales them belongs into the module.
"""

from pathlib import Path

import torch
from torch import nn

SENSORS, MODES, CHANNELS = 64, 12, 16
WEIGHTS = Path("fno.pt")


class SpectralLayer(nn.Module):
    """sigma( K u + W u ): K multiplies the lowest Fourier modes by matrices, W is one matrix for every point."""

    def __init__(self) -> None:
        super().__init__()
        self.spectral = nn.Parameter(torch.randn(CHANNELS, CHANNELS, MODES, 2) / CHANNELS)
        self.pointwise = nn.Conv1d(CHANNELS, CHANNELS, 1)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """[functions, channels, points] to the same."""
        modes = torch.fft.rfft(values)[..., :MODES]
        mixed = torch.einsum("ncm,cdm->ndm", modes, torch.view_as_complex(self.spectral))
        return nn.functional.gelu(torch.fft.irfft(mixed, n=values.shape[-1]) + self.pointwise(values))


class FourierOperator(nn.Module):
    """Two spectral layers between a lift and a projection: [functions, 1, points] to the same, physical units."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(1, CHANNELS, 1), SpectralLayer(), SpectralLayer(), nn.Conv1d(CHANNELS, 1, 1)
        )
        self.register_buffer("scale", torch.ones(2))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Outputs on the grid of the inputs."""
        return self.layers(inputs / self.scale[0]) * self.scale[1]


def net() -> FourierOperator:
    """What `--teacher torch_teacher.py:net` calls."""
    module = FourierOperator()
    module.load_state_dict(torch.load(WEIGHTS, weights_only=True))
    return module


def main(samples: int = 300, steps: int = 1500) -> None:
    """Trains on Burgers' equation and writes the data and the weights."""
    import foretrain as ft
    from foretrain.data import load_split

    ft.problems.burgers(samples=samples, resolution=SENSORS, viscosity=0.05).save("data.npz")
    train, test = load_split("data.npz")  # as the command line divides it
    torch.manual_seed(0)
    module = FourierOperator()
    inputs, outputs = (torch.tensor(values, dtype=torch.float32)[:, None] for values in (train.inputs, train.outputs))
    module.scale[:] = torch.stack([inputs.std(), outputs.std()])
    optimiser = torch.optim.Adam(module.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        rows = torch.randperm(len(inputs))[:50]
        loss = ((module(inputs[rows]) - outputs[rows]) / module.scale[1]).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    torch.save(module.state_dict(), WEIGHTS)
    with torch.no_grad():
        answers = module(torch.tensor(test.inputs, dtype=torch.float32)[:, None])[:, 0].double().numpy()
    print(f"test error {100 * ft.data.mean_relative_error(answers, test.outputs):.2g} %")


if __name__ == "__main__":
    main()
