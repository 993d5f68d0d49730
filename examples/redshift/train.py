"""Train a small network to read quasars' redshifts off their spectra, and try it on held-out tiles.

    python examples/redshift/train.py [RESULTS] [--seconds 60]

RESULTS is the folder of a run, results/demo by default, or the address of a copy. README.md beside
this file says what it does. The exit code is 0 where the held-out loss fell below that of the mean.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

from desi_fits_to_parquet import open_catalog
from desi_fits_to_parquet.training import CachedSpectra, decode_once

BINS = 512
"""Pixels of the network's input: equal steps of the logarithm of the wavelength."""

SHIFT = 96
"""So many of them a spectrum is moved at most, to and fro, as if it were at another redshift."""


class Regressor(nn.Module):
    """Convolutions that find lines, and a layer that tells the redshift from where they are."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 2
        for width in (16, 16, 32, 32):
            layers += [nn.Conv1d(channels, width, 9, padding=4), nn.BatchNorm1d(width), nn.ReLU()]
            layers += [nn.MaxPool1d(2)]
            channels = width
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Flatten(), nn.Dropout(0.2), nn.Linear(32 * (BINS // 16), 64), nn.ReLU(),
            nn.Linear(64, 1),
        )  # fmt: skip

    def forward(self, spectra: torch.Tensor) -> torch.Tensor:
        """Return standardised log(1 + z), shape (n,), of inputs of shape (n, 2, BINS)."""
        guess: torch.Tensor = self.head(self.features(spectra)).squeeze(1)
        return guess


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, say what came of it, return the exit code."""
    parser = argparse.ArgumentParser(description="Train a small regressor of quasars' redshifts.")
    parser.add_argument("results", nargs="?", default="results/demo", help="folder of a run")
    parser.add_argument("--seconds", type=float, default=60, help="how long (default: 60)")
    parser.add_argument("--seed", type=int, default=1, help="of the network and of the order")
    given = parser.parse_args(arguments)
    torch.manual_seed(given.seed)
    torch.set_num_threads(1)  # a network as small as this gets slower when threads share it
    quasars = open_catalog(given.results).where("spectype = 'QSO' and zwarn = 0")
    pixels = np.unique(quasars.to_arrow(["healpix"])["healpix"].to_numpy())
    held = pixels[::4]  # by pixel, so that no target is on both sides, in another program
    listed = ", ".join(map(str, held))
    columns = ["flux", "ivar", "mask", "z"]
    with tempfile.TemporaryDirectory(prefix="redshift-") as scratch:
        sides = [
            decode_once(quasars.where(f"healpix {word} ({listed})"), f"{scratch}/{word}", columns)
            for word in ("NOT IN", "IN")
        ]
        return train(*sides, len(pixels), len(held), given.seconds)


def train(
    training: CachedSpectra, held: CachedSpectra, n_tiles: int, n_held: int, seconds: float
) -> int:
    """Train on one side, compare with the mean on the other."""
    print(
        f"{len(training)} quasars of {n_tiles - n_held} tiles to train on, {len(held)} of {n_held} "
        "tiles held out"
    )
    wavelength = np.log(np.asarray(training.wavelength))
    step = float(wavelength[-1] - wavelength[0]) / BINS
    place = torch.as_tensor(np.minimum((wavelength - wavelength[0]) / step, BINS - 1).astype(int))
    mean = float(np.log1p(training.table["z"].to_numpy()).mean())
    spread = float(np.log1p(training.table["z"].to_numpy()).std())
    everything = held[np.arange(len(held))]
    inputs, wanted = prepare(everything, place)
    of_mean = float(((wanted - mean) ** 2).mean())

    network = Regressor()
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=0.01)
    sampler = BatchSampler(RandomSampler(training), 32, drop_last=False)
    loader = DataLoader(training, sampler=sampler, batch_size=None)

    def held_loss() -> float:
        network.eval()
        with torch.no_grad():
            return float(((network(inputs) * spread + mean - wanted) ** 2).mean())

    began, epoch, said = time.monotonic(), 0, 0
    while (spent := time.monotonic() - began) < seconds:
        for group in optimiser.param_groups:
            group["lr"] = 2e-3 * (1 - spent / seconds) + 1e-5
        network.train()
        for batch in loader:
            spectra, logarithm = move(*prepare(batch, place), step)
            loss = ((network(spectra) - (logarithm - mean) / spread) ** 2).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        epoch += 1
        if spent > (said + 1) * seconds / 6:
            said += 1
            print(f"{spent:4.0f} s, {epoch} epochs: held-out loss {held_loss():.4f}", flush=True)
    reached = held_loss()
    print(
        f"held-out loss, mean squared error of log(1 + z): {reached:.4f}; that of the mean: "
        f"{of_mean:.4f}; {'it fell below' if reached < of_mean else 'it did NOT fall below'}"
    )
    return 0 if reached < of_mean else 1


def prepare(batch: Mapping[str, Any], place: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the network's input, shape (n, 2, BINS), and log(1 + z), shape (n,).

    Pixels go into wide ones in the logarithm of the wavelength, where a redshift is a shift:
    their mean weighted by ivar, in units of the spectrum's own mean, and its signal to noise.
    """
    flux, ivar, mask, z = (torch.as_tensor(batch[name]) for name in ("flux", "ivar", "mask", "z"))
    weight = ivar * (mask == 0)
    empty = torch.zeros(len(flux), BINS)
    weights = empty.index_add(1, place, weight)
    binned = empty.index_add(1, place, weight * flux) / weights.clamp(min=1e-8)
    level = binned.abs().mean(1, keepdim=True).clamp(min=1e-3)
    noise = torch.asinh(binned * weights.sqrt() / 10)
    return torch.stack([(binned / level).clamp(-5, 10), noise], 1), torch.log1p(z)


def move(
    spectra: torch.Tensor, logarithm: torch.Tensor, step: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Move spectra at random as redshift does, and add noise; what moves in from outside is 0."""
    by = torch.randint(-SHIFT, SHIFT + 1, (len(spectra),))
    source = torch.arange(BINS)[None, :] - by[:, None]
    inside = (source >= 0) & (source < BINS)
    index = source.clamp(0, BINS - 1)[:, None, :].expand_as(spectra)
    moved = spectra.gather(2, index) * inside[:, None, :]
    return moved + 0.1 * torch.randn_like(moved), logarithm + by * step


if __name__ == "__main__":
    sys.exit(main())
