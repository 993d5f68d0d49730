"""
Training
========

A PyTorch dataset reads the Parquet itself, in random order with a bounded buffer. Here a small
network learns a quasar's redshift from a smoothed spectrum. It needs `pip install torch` (or `make
torch`).
"""

import os
import tempfile

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch.utils.data import DataLoader

from desi_fits_to_parquet import open_catalog
from desi_fits_to_parquet.training import ParquetSpectra, collate, decode_once

torch.manual_seed(1)
quasars = open_catalog(os.environ.get("DEMO", "results/demo")).where("is_primary and zwarn = 0")

# %%
# Batches are tensors on one wavelength grid.

dataset = ParquetSpectra(quasars, columns=["flux", "ivar", "z"], seed=1)
batch = next(iter(DataLoader(dataset, 16, collate_fn=collate)))
print({name: tuple(values.shape) for name, values in batch.items()})

# %%
# For many epochs, decode once: arrays on disk, mapped into memory.

with tempfile.TemporaryDirectory() as scratch:
    cache = decode_once(quasars, f"{scratch}/quasars", columns=["flux", "ivar", "z"])
    batch = collate([cache[i] for i in range(len(cache))])

# %%
# The input: mean fluxes of 96 windows, weighted by ivar, each spectrum in units of its own mean. A
# fifth of the quasars is held out.

flux, ivar = (batch[name][:, : 96 * 80].reshape(-1, 96, 80) for name in ("flux", "ivar"))
inputs = (flux * ivar).sum(2) / ivar.sum(2).clamp(min=1e-6)
inputs = inputs / inputs.abs().mean(1, keepdim=True)
wanted = batch["z"][:, None]
test = torch.arange(len(wanted)) % 5 == 0
mean, spread = wanted[~test].mean(), wanted[~test].std()

network = torch.nn.Sequential(
    torch.nn.Linear(96, 64), torch.nn.ReLU(), torch.nn.Dropout(0.2), torch.nn.Linear(64, 1)
)
optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.05)
losses = []
for _ in range(300):
    optimiser.zero_grad()
    loss = ((network(inputs[~test]) - (wanted[~test] - mean) / spread) ** 2).mean()
    loss.backward()
    optimiser.step()
    losses.append(loss.item())

# %%
# Fifty spectra teach little, but more than their mean.

network.eval()
with torch.no_grad():
    guess = network(inputs[test]) * spread + mean
error, of_mean = (float(((one - wanted[test]) ** 2).mean()) for one in (guess, mean))
print(f"squared error of held-out redshifts {error:.2f}, that of the mean {of_mean:.2f}")

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
left.semilogy(np.array(losses))
left.set(xlabel="step", ylabel="loss")
right.scatter(wanted[test].numpy(), guess.numpy())
right.plot([0.5, 4], [0.5, 4], color="0.7")
right.set(xlabel="redshift", ylabel="guessed")
plt.show()
