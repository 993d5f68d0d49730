"""Tiles that stand far outside the distribution of their run."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

THRESHOLD = 6.0
"""Robust standard deviations from the median at which a tile is listed.

Of 30,000 tiles of a normal distribution none would be; real ones have wider tails.
"""

FEWEST = 10
"""Tiles that a survey and program must have before their distribution says anything."""


def tiles_worth_a_look(tiles: pd.DataFrame) -> list[dict[str, Any]]:
    """List tiles whose reduction or rows per target lie far from those of their like.

    A tile is compared with the tiles of its own survey and program by the modified z-score, the
    distance from the median over 1.4826 times the median absolute deviation (Iglewicz and Hoaglin
    1993). For the reduction it is that of log(archive bytes / Parquet bytes) over the converted
    tiles. For the rows it is that of (k - n p) / sqrt(n p (1 - p)), k rows of n targets where
    the whole group has the fraction p, so that a tile of few targets is not taken for odd.

    Parameters
    ----------
    tiles
        The tiles' table.

    Returns
    -------
    list of dict
        `survey, program, healpix, order, pixel, what, value, typical, score`, the farthest first.
    """
    found: list[dict[str, Any]] = []
    for _, group in tiles.groupby(["survey", "program"]):
        converted = group[(group.outcome == "converted") & (group.bytes_archive > 0)]
        factor = (converted.bytes_archive / converted.bytes_parquet).to_numpy(float)
        found += _far(converted, np.log(factor), factor, "archive bytes / Parquet bytes")

        read = group[group.n_rows.notna() & (group.n_targets > 0)]
        n, k = read.n_targets.to_numpy(float), read.n_rows.to_numpy(float)
        p = k.sum() / n.sum() if n.sum() else 0.0
        if 0 < p < 1:
            excess = (k - n * p) / np.sqrt(n * p * (1 - p))
            found += _far(read, excess, k / n, "rows / targets")
    return sorted(found, key=lambda line: -abs(line["score"]))


def _far(
    group: pd.DataFrame,
    statistic: npt.NDArray[np.float64],
    value: npt.NDArray[np.float64],
    what: str,
) -> list[dict[str, Any]]:
    """List the rows of `group` whose statistic is far from its median."""
    if len(group) < FEWEST:
        return []
    centre = np.median(statistic)
    spread = 1.4826 * np.median(np.abs(statistic - centre))
    if spread == 0:  # more than half of the tiles are the same
        spread = float(np.std(statistic)) or 1.0
    score = (statistic - centre) / spread
    return [
        {
            "survey": group.survey.iloc[i],
            "program": group.program.iloc[i],
            **{name: int(group[name].iloc[i]) for name in ("healpix", "order", "pixel")},
            "what": what,
            "value": float(value[i]),
            "typical": float(np.median(value)),
            "score": round(float(score[i]), 1),
        }
        for i in np.flatnonzero(np.abs(score) > THRESHOLD)
    ]
