"""Spectra of a catalogue's targets: numpy arrays on one wavelength grid, read when asked for."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from desi_fits_to_parquet import convert
from desi_fits_to_parquet.reader import frame
from desi_fits_to_parquet.reader.tree import Tree
from desi_fits_to_parquet.record.arms import CAMERAS, combine, join_grids
from desi_fits_to_parquet.record.resolution import combine_widths

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    from astropy.table import QTable
    from matplotlib.axes import Axes
    from specutils import Spectrum as SpecutilsSpectrum

Array = npt.NDArray[Any]

PLACE = ("file", "row", "file_size")
"""Columns of the catalogue that say where a spectrum is."""

PIXELS = ("wavelength", "flux", "ivar", "mask", "mask_arms", "lsf", "resolution")
"""Columns of the record that hold a value a pixel; `resolution` holds several."""

_OPTIONAL = {"mask_arms": "mask_arms: true", "lsf": "resolution: lsf",
             "resolution": "resolution: matrix"}  # fmt: skip
"""Those that are there where the section `spectra` of the configuration has this."""

BLOCK = 512
"""Spectra that are read at once: some 30 MB of flux and ivar."""


@dataclass
class Collection:
    """What a catalogue and its spectra share.

    Attributes
    ----------
    tree
        The files.
    schema
        The catalogue's columns, with units and descriptions in their metadata.
    record
        Those of the tiles' files.
    wavelengths
        The grids that are known: by the prefix of an arm's columns, empty for the combined ones.
    """

    tree: Tree
    schema: pa.Schema
    record: pa.Schema
    wavelengths: dict[str, npt.NDArray[np.float64]] = field(default_factory=dict)

    @property
    def arms(self) -> tuple[str, ...]:
        """Names of the arms where the collection keeps them apart, else none."""
        names = tuple(camera.lower() for camera in CAMERAS)
        return tuple(name for name in names if f"{name}_flux" in self.record.names)

    def fields(self) -> dict[str, pa.Field]:
        """Return the fields that tell of flux, ivar, wavelength and mask, of the first arm."""
        prefix = f"{self.arms[0]}_" if self.arms else ""
        names = [name for name in PIXELS if f"{prefix}{name}" in self.record.names]
        return {name: self.record.field(f"{prefix}{name}") for name in names}


class Spectrum:
    """One spectrum, in memory.

    Attributes
    ----------
    wavelength
        Pixel centres, vacuum, Angstrom, float64, shape (npix,).
    flux
        Flux density, 1e-17 erg/(s cm2 Angstrom), shape (npix,).
    ivar
        Inverse variance of it, shape (npix,); 0 is a pixel without a value.
    mask
        DESI's SPECMASK bits, 0 is good, int32, shape (npix,). On another grid than DESI's it is 1
        where ivar is 0.
    good
        Where ivar is above 0 and mask is 0, bool, shape (npix,).
    lsf
        Sigma of the line spread function, Angstrom, shape (npix,); None where it was not asked for.
    resolution
        Diagonals of the arm's band matrix, shape (ndiagonal, npix), as desispec's Resolution takes
        them; None where they were not asked for.
    row
        What the catalogue says of the target, by column.
    """

    def __init__(
        self,
        arrays: Mapping[str, Array],
        row: Mapping[str, Any],
        fields: Mapping[str, pa.Field],
        rest: bool = False,
    ) -> None:
        self.wavelength, self.flux, self.ivar = (arrays[n] for n in ("wavelength", "flux", "ivar"))
        self.mask, self.good = arrays["mask"], (arrays["ivar"] > 0) & (arrays["mask"] == 0)
        self.lsf, self.resolution = arrays.get("lsf"), arrays.get("resolution")
        self.row = dict(row)
        self._fields, self._rest = fields, rest

    def __repr__(self) -> str:
        what = f"{self._title()}, z {self.z:.4f}" if "z" in self.row else self._title()
        limits = f"{self.wavelength[0]:.1f} to {self.wavelength[-1]:.1f} Angstrom"
        return f"<Spectrum of {what}: {len(self.flux)} pixels, {limits}{self._frame()}>"

    def _title(self) -> str:
        if "stack" in self.row:
            return f"{self.row['stack']} of {self.row['n']} spectra"
        return " ".join(str(self.row[n]) for n in ("survey", "program", "targetid"))

    def _frame(self) -> str:
        return ", rest frame" if self._rest else ""

    @property
    def targetid(self) -> int:
        """DESI's TARGETID."""
        return int(self.row["targetid"])

    @property
    def z(self) -> float:
        """Redshift; `redshift` is the same."""
        return float(self.row["z"])

    redshift = z

    @property
    def ra(self) -> float:
        """Right ascension, degree."""
        return float(self.row["target_ra"])

    @property
    def dec(self) -> float:
        """Declination, degree."""
        return float(self.row["target_dec"])

    def to_specutils(self) -> "SpecutilsSpectrum":
        """Return a `specutils.Spectrum` with units, InverseVariance and mask (True is bad).

        Raises
        ------
        ImportError
            Where specutils is not installed.
        """
        known = {"redshift": self.z} if "z" in self.row and not self._rest else {}
        return convert.to_specutils(
            self.wavelength, self.flux, self.ivar, self.good, self._fields, meta=self.row, **known
        )

    def to_astropy(self) -> "QTable":
        """Return a table of the pixels: wavelength, flux, ivar as quantities, mask, good, lsf."""
        from astropy.table import QTable

        names = ["wavelength", "flux", "ivar", *(["lsf"] if self.lsf is not None else [])]
        columns = {n: getattr(self, n) * convert.to_unit(self._fields[n]) for n in names}
        return QTable({**columns, "mask": self.mask, "good": self.good}, meta=self.row)

    def rest_frame(self) -> "Spectrum":
        """Return the spectrum in its rest frame: the same pixels, wavelengths over 1 + z.

        The flux density is per Angstrom of the rest frame, so 1 + z times the observed one.
        """
        if self._rest:
            return self
        arrays: dict[str, Array] = {
            "wavelength": self.wavelength / (1 + self.z),
            "flux": self.flux * np.float32(1 + self.z),
            "ivar": self.ivar / np.float32((1 + self.z) ** 2),
            "mask": self.mask,
        }
        if self.lsf is not None:
            arrays["lsf"] = self.lsf / np.float32(1 + self.z)
        return Spectrum(arrays, self.row, self._fields, rest=True)

    def plot(self, axes: "Axes | None" = None, *, lines: bool = True, smooth: int = 1) -> "Axes":
        """Draw the spectrum and its error with matplotlib.

        Parameters
        ----------
        axes
            Where to draw; a new figure by default.
        lines
            Whether to mark the lines of its class at its redshift.
        smooth
            Pixels to average over, weighted by ivar.

        Returns
        -------
        matplotlib.axes.Axes
            With title, labels and legend; `axes.figure.savefig(...)` writes it.
        """
        from desi_fits_to_parquet.reader.plot import draw

        z = (0.0 if self._rest else self.row.get("z")) if lines else None
        known = f", z = {self.z:.4f}" if "z" in self.row else ""
        return draw(
            self.wavelength,
            self.flux,
            np.where(self.good, self.ivar, 0),
            title=f"{self._title()}{known}{self._frame()}",
            relative=not self._fields["flux"].metadata,
            spectype=self.row.get("spectype"),
            redshift=z,
            smooth=smooth,
            axes=axes,
        )


class Spectra:
    """Spectra of many targets on one wavelength grid, read when they are asked for.

    `Catalog.spectra` makes it. `len`, slices and arrays of indices or of bool give fewer of them
    and read nothing; a number gives one `Spectrum`; a loop gives one after the other, `blocks` some
    hundred at once, so that a million need no memory. `flux`, `ivar`, `mask` read all of them.

    Where the collection keeps the arms apart (`spectra.cameras: separate`) they are joined as the
    workflow joins them; `arm` gives one arm as it is.

    Examples
    --------
    >>> spectra = open_catalog("results").where("z > 2.1").spectra(columns=["flux", "ivar"])
    >>> spectra.wavelength.shape, spectra.flux.shape
    ((7751,), (50, 7751))
    >>> for block in spectra.blocks():
    ...     total += (block.flux * block.good).sum(axis=0)
    >>> spectra[0].plot()
    >>> composite = spectra.rest_frame().stack("median", normalise=(1300, 1350))
    """

    def __init__(
        self,
        collection: Collection,
        columns: Sequence[str],
        find_rows: Callable[[], pa.Table],
        *,
        arm: str | None = None,
        grid: Array | None = None,
    ) -> None:
        self._collection, self._columns = collection, tuple(columns)
        self._find_rows, self._arm, self._grid = find_rows, arm, grid
        self._found: pa.Table | None = None
        self._data: dict[str, Array] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Leave the catalogue behind, which no other process can ask, and take the rows found."""
        rows = self._rows
        return {**self.__dict__, "_find_rows": None, "_found": rows, "_data": {}}

    # ------------------------------------------------------------------------------- targets

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        what = f", arm {self._arm}" if self._arm else ""
        what += ", rest frame" if self._grid is not None else ""
        return f"<Spectra of {self._collection.tree.place}: {len(self)} targets{what}>"

    @property
    def _rows(self) -> pa.Table:
        if self._found is None:
            self._found = self._find_rows()
        return self._found

    @property
    def table(self) -> pa.Table:
        """What the catalogue says of the targets, an Arrow table of one row a spectrum."""
        return self._rows.drop_columns(list(PLACE))

    @property
    def places(self) -> pa.Table:
        """Where the spectra are: `file`, `row` in it and `file_size`, a row a spectrum."""
        return self._rows.select(list(PLACE))

    @property
    def arms(self) -> tuple[str, ...]:
        """Names of the arms that the collection keeps apart; none where it holds them joined."""
        return self._collection.arms

    def _scalar(self, name: str) -> Array:
        values: Array = self._rows[name].to_numpy()
        return values

    @property
    def targetid(self) -> npt.NDArray[np.int64]:
        """DESI's TARGETIDs, shape (n,)."""
        return self._scalar("targetid")

    @property
    def z(self) -> npt.NDArray[np.float64]:
        """Redshifts, shape (n,); `redshift` is the same."""
        return self._scalar("z")

    redshift = z

    @property
    def ra(self) -> npt.NDArray[np.float64]:
        """Right ascensions, degree, shape (n,)."""
        return self._scalar("target_ra")

    @property
    def dec(self) -> npt.NDArray[np.float64]:
        """Declinations, degree, shape (n,)."""
        return self._scalar("target_dec")

    # -------------------------------------------------------------------------------- pixels

    @property
    def wavelength(self) -> npt.NDArray[np.float64]:
        """Pixel centres of all spectra, vacuum, Angstrom, shape (npix,)."""
        if self._grid is not None:
            return self._grid
        known = self._collection.wavelengths
        if any(prefix not in known for prefix in self._prefixes):
            self.need_some()
            self._read(self._rows.slice(0, 1), ())
        if len(self._prefixes) == 1:
            return known[self._prefixes[0]]
        return join_grids([known[prefix] for prefix in self._prefixes]).wavelength

    @property
    def wavelengths(self) -> dict[str, npt.NDArray[np.float64]]:
        """Pixel centres of each arm that the collection keeps apart, by its name."""
        _ = self.wavelength
        return {arm: self._collection.wavelengths[f"{arm}_"] for arm in self.arms}

    @property
    def flux(self) -> npt.NDArray[np.float32]:
        """Flux densities, 1e-17 erg/(s cm2 Angstrom), shape (n, npix)."""
        return self._load("flux")["flux"]

    @property
    def ivar(self) -> npt.NDArray[np.float32]:
        """Inverse variances of flux, shape (n, npix); 0 is a pixel without a value."""
        return self._load("ivar")["ivar"]

    @property
    def mask(self) -> npt.NDArray[np.int32]:
        """SPECMASK bits, 0 is good, shape (n, npix); in the rest frame 1 where ivar is 0."""
        return self._load("mask")["mask"]

    @property
    def lsf(self) -> npt.NDArray[np.float32]:
        """Sigmas of the line spread function, Angstrom, shape (n, npix); NaN where unknown."""
        return self._load("lsf")["lsf"]

    @property
    def resolution(self) -> npt.NDArray[np.float32]:
        """Diagonals of an arm's band matrices, shape (n, ndiagonal, npix): see `arm`."""
        return self._load("resolution")["resolution"]

    @property
    def good(self) -> npt.NDArray[np.bool_]:
        """Where ivar is above 0 and mask is 0, shape (n, npix)."""
        data = self._load("ivar", "mask")
        good: npt.NDArray[np.bool_] = (data["ivar"] > 0) & (data["mask"] == 0)
        return good

    @property
    def _prefixes(self) -> tuple[str, ...]:
        """What the columns in use begin with: nothing, an arm, or each of the three arms."""
        arms = (self._arm,) if self._arm else self._collection.arms
        return tuple(f"{arm}_" for arm in arms) or ("",)

    def _load(self, *names: str) -> dict[str, Array]:
        """Read what is not here yet; with it, the first time, the columns that were asked for."""
        missing = {*names} - self._data.keys()
        if missing:
            self.need_some()
            if not self._data:
                missing |= {*self._columns}
            self._check(missing)
            if self._grid is None:
                self._data |= self._read(self._rows, sorted(missing))
            else:
                wanted = ("flux", "ivar", "mask", *sorted({"lsf"} & missing))
                observed = self._read(self._rows, wanted)
                weight = np.where(observed["mask"] == 0, observed["ivar"], 0)
                source = Spectra(self._collection, (), self._find_rows, arm=self._arm)
                source._found = self._rows
                flux, ivar = frame.to_rest_frame(
                    source.wavelength, observed["flux"], weight, self.z, self._grid
                )
                self._data |= {"flux": flux, "ivar": ivar, "mask": (ivar == 0).astype(np.int32)}
                if "lsf" in observed:
                    self._data["lsf"] = frame.interpolate(
                        source.wavelength, observed["lsf"], self.z, self._grid
                    )
        return self._data

    def _check(self, names: set[str]) -> None:
        """Raise where a column of pixels is not in the collection, or not for these spectra."""
        place, joined = self._collection.tree.place, len(self._prefixes) > 1
        for name in sorted(names & _OPTIONAL.keys()):
            if name != "lsf" and self._grid is not None:
                raise ValueError(f"{name}: it is of observed pixels alone, not of the rest frame")
            if name == "mask_arms" and joined:
                continue  # made as the arms are joined
            if f"{self._prefixes[0]}{name}" not in self._collection.record.names:
                raise ValueError(
                    f"{place} has no column {name}; a run with spectra.{_OPTIONAL[name]} makes it"
                )
            if name == "resolution" and joined:
                raise ValueError("resolution: a joined spectrum has none; arm('b').resolution does")

    def pieces(self, names: Sequence[str], *, join: bool = True) -> list[dict[str, Array]]:
        """Read columns of pixels of all spectra anew, and keep none.

        Parameters
        ----------
        names
            Of `flux`, `ivar`, `mask`, as observed.
        join
            Whether arms that the collection keeps apart are joined; else their arrays come as
            `b_flux` and so on, each with the pixels of its arm.

        Returns
        -------
        list of dict
            Arrays of shape (n, npix) by column, not to be written to: of some spectra after the
            other, as they were decoded.
        """
        self._check({*names})
        return self._read_pieces(self._rows, names, join)

    def _read(self, rows: pa.Table, names: Sequence[str]) -> dict[str, Array]:
        """Read columns of pixels of some rows, their arms joined."""
        pieces = self._read_pieces(rows, names, join=True)
        columns = pieces[0] if pieces else ()
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in columns}

    def _read_pieces(
        self, rows: pa.Table, names: Sequence[str], join: bool
    ) -> list[dict[str, Array]]:
        """Read columns of pixels of some rows; learn the wavelengths that are not known."""
        known, prefixes = self._collection.wavelengths, self._prefixes
        joined = join and len(prefixes) > 1
        widths = {"lsf"} & {*names}
        wanted = ("flux", "ivar", "mask", *widths) if joined and names else names
        unknown = [prefix for prefix in prefixes if prefix not in known]
        columns = [f"{prefix}{name}" for prefix in prefixes for name in wanted]
        if not (unknown or columns):
            return []
        files, numbers, sizes = (rows[name].to_pylist() for name in PLACE)
        table = self._collection.tree.read_rows(
            files, numbers, sizes, [*(f"{prefix}wavelength" for prefix in unknown), *columns]
        )
        for prefix in unknown:
            grids = convert.to_matrix(table[f"{prefix}wavelength"].combine_chunks(), "wavelength")
            if (grids != grids[0]).any():
                raise ValueError(
                    f"{self._collection.tree.place}: its spectra are not on one wavelength grid"
                )
            known[prefix] = grids[0]
        pieces = []
        for batch in table.select(columns).to_batches() if columns else ():
            arrays = {column: convert.to_matrix(batch[column], column) for column in columns}
            for column, values in arrays.items():
                npix = len(known[column[:2] if column[:2] in known else ""])
                if column.endswith("resolution") and values.shape[1] % npix == 0:
                    arrays[column] = values.reshape(len(values), -1, npix)
                elif values.shape[1] != npix:
                    raise ValueError(
                        f"{self._collection.tree.place}: {column} of {values.shape[1]} pixels, the "
                        f"grid has {npix}; the tiles were made with different settings"
                    )
            if joined:
                arrays = self._join(arrays)
            elif len(prefixes) == 1 and join:
                arrays = {name: arrays[f"{prefixes[0]}{name}"] for name in names}
            pieces.append(arrays)
        return pieces

    def _join(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """Join the arms of some spectra as the workflow does."""
        prefixes = self._prefixes
        widths = ["lsf"] if f"{prefixes[0]}lsf" in arrays else []
        wanted = ("flux", "ivar", "mask", *widths)
        parts = {name: [arrays[f"{prefix}{name}"] for prefix in prefixes] for name in wanted}
        known = self._collection.wavelengths
        grid = join_grids([known[prefix] for prefix in prefixes])
        whole = combine(grid, parts["flux"], parts["ivar"], parts["mask"])
        every = {
            "flux": whole.flux,
            "ivar": whole.ivar,
            "mask": whole.mask,
            "mask_arms": whole.mask_arms,
            "lsf": combine_widths(grid, parts["lsf"], parts["ivar"]) if widths else None,
        }
        return {name: value for name, value in every.items() if value is not None}

    def need_some(self) -> None:
        """Raise ValueError where there is no spectrum."""
        if not len(self):
            raise ValueError(
                f"no target of {self._collection.tree.place} is left by the conditions, so there "
                "is no spectrum; Catalog.count() tells how many a condition leaves"
            )

    # ------------------------------------------------------------------------- some of them

    @overload
    def __getitem__(self, index: int | np.integer[Any]) -> Spectrum: ...
    @overload
    def __getitem__(self, index: slice | Array | Sequence[int]) -> "Spectra": ...
    def __getitem__(self, index: Any) -> "Spectrum | Spectra":
        """Return one spectrum for a number, else the spectra that a slice or an array names."""
        if not isinstance(index, int | np.integer):
            return self._some(np.arange(len(self))[index])
        number = int(index)
        if not -len(self) <= number < len(self):
            raise IndexError(f"there is no spectrum {number}: {len(self)} targets were found")
        one = self._some(np.array([number % len(self)]))
        data = one._load("flux", "ivar", "mask", *self._columns)
        arrays = {name: values[0] for name, values in data.items()}
        return Spectrum(
            {**arrays, "wavelength": one.wavelength},
            one.table.to_pylist()[0],
            self._collection.fields(),
            rest=self._grid is not None,
        )

    def _some(self, numbers: Array) -> "Spectra":
        rows = self._rows.take(pa.array(numbers))
        part = Spectra(
            self._collection, self._columns, lambda: rows, arm=self._arm, grid=self._grid
        )
        part._data = {name: values[numbers] for name, values in self._data.items()}
        return part

    def __iter__(self) -> Iterator[Spectrum]:
        wanted = ("flux", "ivar", "mask")
        for block in self.blocks(columns=wanted):
            yield from (block[i] for i in range(len(block)))

    def blocks(
        self, size: int = BLOCK, columns: Sequence[str] | None = None
    ) -> Iterator["Spectra"]:
        """Give the spectra in parts, in order, the next one read meanwhile.

        Parameters
        ----------
        size
            Spectra in a part.
        columns
            What is read of each: by default what `Catalog.spectra` was told.

        Yields
        ------
        Spectra
            In memory: `flux`, `ivar`, `mask` of it need no reading.
        """
        names = tuple(columns or self._columns)

        def load(first: int) -> Spectra:
            part = self._some(np.arange(first, min(first + size, len(self))))
            part._load(*names)
            return part

        with ThreadPoolExecutor(1) as ahead:
            coming = None
            for first in range(0, len(self), size):
                block = coming.result() if coming else load(first)
                after = first + size
                coming = ahead.submit(load, after) if after < len(self) else None
                yield block

    def arm(self, name: Literal["b", "r", "z"]) -> "Spectra":
        """Return the spectra of one arm as the collection holds it.

        Raises
        ------
        ValueError
            Where the collection does not keep the arms apart.
        """
        if name not in self._collection.arms:
            kept = ", ".join(self._collection.arms)
            raise ValueError(
                f"{self._collection.tree.place} keeps the arms {kept}, no {name}"
                if kept
                else f"{self._collection.tree.place} holds the arms joined to one spectrum; a run "
                "with spectra.cameras: separate keeps them apart"
            )
        return Spectra(self._collection, self._columns, lambda: self._rows, arm=name)

    # ---------------------------------------------------------------------------- made of it

    def rest_frame(self, wavelength: npt.ArrayLike | None = None) -> "Spectra":
        """Return the spectra in the rest frame of each, on one grid; they are read when asked for.

        The flux densities are per Angstrom of the rest frame, 1 + z times the observed ones.
        A new pixel has the mean of the observed ones that reach into it, weighted by ivar, and
        their ivar; see `desi_fits_to_parquet.reader.frame.to_rest_frame`.

        Parameters
        ----------
        wavelength
            Centres of the new pixels in Angstrom, rising. By default all that any of the spectra
            covers, in the step that the observed pixels have at the median redshift.

        Raises
        ------
        ValueError
            Where `wavelength` does not rise, or there is no spectrum.
        """
        self.need_some()
        if self._grid is not None:
            return self
        if wavelength is None:
            grid = frame.rest_grid(self.wavelength, self.z)
        else:
            grid = np.asarray(wavelength, np.float64)
            if grid.ndim != 1 or len(grid) < 2 or not (np.diff(grid) > 0).all():
                raise ValueError("wavelength: two or more centres of pixels that rise, in Angstrom")
        return Spectra(
            self._collection, self._columns, lambda: self._rows, arm=self._arm, grid=grid
        )

    def stack(
        self,
        how: Literal["median", "mean"] = "median",
        *,
        normalise: tuple[float, float] | None = None,
    ) -> Spectrum:
        """Return one spectrum made of all: on the grid that they are on.

        Parameters
        ----------
        how
            `mean`: weighted by ivar, its ivar their sum; read in blocks, in constant memory.
            `median`: of the good pixels, all in memory; its ivar is that of a median of Gaussian
            values. Either ivar tells of the noise alone, not of how the objects differ.
        normalise
            Limits in Angstrom between which each spectrum is first divided by its mean, so that
            bright objects do not outweigh the others. Those without good pixels there, or with a
            mean not above 0, are left out.

        Returns
        -------
        Spectrum
            `row` tells `stack`, the number of targets, and `spectype` where all have the same.

        Raises
        ------
        ValueError
            Where there is no spectrum, or `how` is another word.
        """
        if how not in ("median", "mean"):
            raise ValueError(f"stack({how!r}): there are 'median' and 'mean'")
        self.need_some()
        parts = self._weighted_blocks(normalise)
        if how == "median":
            all_flux, all_ivar = map(np.concatenate, zip(*parts, strict=True))
            flux, ivar = frame.median(all_flux, all_ivar)
        else:
            weighted, ivar = np.zeros(len(self.wavelength)), np.zeros(len(self.wavelength))
            for some_flux, some_ivar in parts:
                weight = some_ivar.astype(np.float64)
                weighted += (weight * np.where(weight > 0, some_flux, 0)).sum(axis=0)
                ivar += weight.sum(axis=0)
            flux = np.divide(weighted, ivar, out=np.zeros(len(ivar)), where=ivar > 0)
        arrays = {
            "wavelength": self.wavelength,
            "flux": flux,
            "ivar": ivar,
            "mask": (ivar == 0).astype(np.int32),
        }
        row: dict[str, Any] = {"stack": how, "n": len(self)}
        classes = set(self.table["spectype"].to_pylist())
        if len(classes) == 1:
            row["spectype"] = classes.pop()
        fields = self._collection.fields()
        if normalise:  # what was divided by its own mean has no unit
            fields |= {name: fields[name].remove_metadata() for name in ("flux", "ivar")}
        return Spectrum(arrays, row, fields, rest=self._grid is not None)

    def _weighted_blocks(self, window: tuple[float, float] | None) -> Iterator[tuple[Array, Array]]:
        for block in self.blocks(columns=("flux", "ivar", "mask")):
            flux, ivar = block.flux, np.where(block.good, block.ivar, 0)
            yield frame.normalise(self.wavelength, flux, ivar, window) if window else (flux, ivar)

    def to_specutils(self) -> "SpecutilsSpectrum":
        """Return all as one two-dimensional `specutils.Spectrum`.

        With units, InverseVariance and mask (True is bad); `meta` holds what the catalogue says of
        the targets, an array a column. Many times cheaper than a list of single ones.

        Raises
        ------
        ImportError
            Where specutils is not installed.
        """
        data = self._load("flux", "ivar", "mask")
        columns = self.table
        meta = {name: columns[name].to_numpy() for name in columns.column_names}
        return convert.to_specutils(
            self.wavelength, data["flux"], data["ivar"], self.good, self._collection.fields(),
            meta=meta,
        )  # fmt: skip

    def to_astropy(self) -> "QTable":
        """Return an astropy table: the catalogue's columns, then those of pixels, shape (npix,).

        These are flux, ivar, mask, and what else was asked for.

        The wavelengths stand in its `meta`, as a quantity. Columns are quantities where they have a
        unit, so that `table["flux"].to("W m-2 nm-1")` works.
        """
        names = dict.fromkeys(("flux", "ivar", "mask", *self._columns))
        data, fields = self._load(*names), self._collection.fields()
        arrays = {name: (data[name], fields[name]) for name in names}
        table = convert.to_astropy(self.table, arrays)
        table.meta["wavelength"] = self.wavelength * convert.to_unit(fields["wavelength"])
        return table

    def to_arrow(self) -> pa.Table:
        """Return an Arrow table: the catalogue's columns, then those asked for as lists."""
        table, fields = self.table, self._collection.fields()
        data = {"wavelength": np.broadcast_to(self.wavelength, (len(self), len(self.wavelength)))}
        data |= self._load(*self._columns)
        for name in ("wavelength", *self._columns):
            values = np.ascontiguousarray(data[name]).reshape(-1)
            length = math.prod(data[name].shape[1:])
            lists = pa.FixedSizeListArray.from_arrays(pa.array(values), length)
            column = pa.field(name, lists.type, metadata=fields[name].metadata)
            table = table.append_column(column, lists)
        return table

    def to_pandas(self) -> "pd.DataFrame":
        """Return the same as `to_arrow` for pandas."""
        frame: pd.DataFrame = self.to_arrow().to_pandas()
        return frame

    def to_polars(self) -> "pl.DataFrame":
        """Return the same as `to_arrow` for Polars.

        Raises
        ------
        ImportError
            Where Polars is not installed.
        """
        return convert.to_polars(self.to_arrow())
