"""The catalogue of a collection, asked lazily: where on the sky, under which conditions."""

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from desi_fits_to_parquet import convert
from desi_fits_to_parquet.paths import CATALOG, COLLECTION, partition
from desi_fits_to_parquet.reader.sky import cone_condition
from desi_fits_to_parquet.reader.spectra import PIXELS, PLACE, Collection, Spectra
from desi_fits_to_parquet.reader.tree import Folder, Tree

if TYPE_CHECKING:
    import duckdb
    import pandas as pd
    import polars as pl
    from astropy.coordinates import SkyCoord
    from astropy.table import QTable
    from astropy.units import Quantity

ALIASES = {"redshift": "z", "ra": "target_ra", "dec": "target_dec"}
"""Names that users of SPARCL know, and what they are here."""

_WITH_SPECTRA = (
    "targetid",
    "survey",
    "program",
    "z",
    "zwarn",
    "spectype",
    "target_ra",
    "target_dec",
)


def open_catalog(
    place: str | Path,
    *,
    endpoint: str | None = None,
    region: str | None = None,
    profile: str | None = None,
    cache: str | Path | None = None,
) -> "Catalog":
    """Open the collection that a run wrote, without reading its spectra.

    From elsewhere the catalogue is fetched once and kept on this disk; opened again, it is fetched
    where it has changed. A spectrum then costs the ranges of its row group.

    Parameters
    ----------
    place
        The folder of the results; or where a copy of it is: `s3://bucket/prefix`, or its address
        on a web server, `https://...`.
    endpoint
        Of an S3 service that is not AWS; by default what `AWS_ENDPOINT_URL_S3` or
        `AWS_ENDPOINT_URL` say.
    region
        Of the bucket; by default what `AWS_REGION` or `AWS_DEFAULT_REGION` say, or us-west-2.
    profile
        AWS profile whose keys sign the requests; by default they are not signed.
    cache
        Folder for catalogues from elsewhere; by default `desi-fits-to-parquet` in
        `XDG_CACHE_HOME` or `~/.cache`.

    Returns
    -------
    Catalog
        Of all targets.

    Raises
    ------
    FileNotFoundError
        Where there is no such folder, or a file of the collection is missing.
    ValueError
        Where it is no collection that this project wrote.
    ConnectionError
        Where the server does not answer as it should.

    Examples
    --------
    >>> from desi_fits_to_parquet import open_catalog
    >>> quasars = open_catalog("results")
    >>> near = quasars.cone(ra=150.1, dec=2.2, radius=0.5)
    >>> some = quasars.where("z > 2.1 and flux_r > 5")
    >>> spectra = some.spectra(columns=["flux", "ivar"])
    >>> spectra[0].plot()
    """
    scheme = str(place).partition("://")[0] if "://" in str(place) else None
    if scheme in ("s3", "http", "https"):
        from desi_fits_to_parquet.reader.remote import Remote

        kept = Path(cache) if cache else None
        return _open(Remote(str(place), endpoint, region, profile, kept))
    if scheme:
        raise ValueError(f"{place}: a folder, s3://, http:// or https://, no {scheme}://")
    return _open(Folder(Path(place)))


def _open(tree: Tree) -> "Catalog":
    try:
        (path,) = tree.fetch([COLLECTION])
    except FileNotFoundError as error:
        raise ValueError(
            f"{tree.place}: no collection of this project, for {error} is missing. Give the folder "
            "`results` of a run that has ended; while a run writes the collection it is not there"
        ) from error
    properties = dict(line.split("=", 1) for line in path.read_text().splitlines() if "=" in line)
    try:
        (listed,) = tree.fetch([f"{CATALOG}/partition_info.csv"])
        pixels = [line.split(",") for line in listed.read_text().split()[1:]]
        names = [f"{CATALOG}/dataset/{partition(int(o), int(n))}.parquet" for o, n in pixels]
        # an extension is a pair of words: its name, and the file of its properties
        spectra = properties.get("all_extensions", "").split()[1::2][:1]
        schemas = [CATALOG, *(name.removesuffix(".properties") for name in spectra)]
        paths = tree.fetch([*(f"{name}/dataset/_common_metadata" for name in schemas), *names])
    except (FileNotFoundError, ValueError) as error:
        raise FileNotFoundError(
            f"{tree.place}: {error} is missing or broken; the collection is not whole. Copy it "
            "again, or let a run make it again: snakemake catalog"
        ) from error
    schema, *records = (pq.read_schema(path) for path in paths[: len(schemas)])
    if missing := {*PLACE, *_WITH_SPECTRA} - {*schema.names}:
        raise ValueError(
            f"{tree.place}: a collection, but not one of this project: its catalogue has no column "
            f"{', '.join(sorted(missing))}"
        )
    record = records[0] if records else pa.schema([])
    # a file without rows stands for none: where no tile has a target there is no partition
    files = paths[len(schemas) :] or paths[:1]
    return Catalog(Collection(tree, schema, record), _connect(files, schema))


def _connect(files: Sequence[Path], schema: pa.Schema) -> "duckdb.DuckDBPyConnection":
    """Open a database in memory in which `catalog` is the catalogue with its aliases."""
    import duckdb  # takes as long as all else here

    database = duckdb.connect()
    listed = ", ".join(_quoted(str(path), "'") for path in files)
    added = "".join(f", {name} AS {a}" for a, name in ALIASES.items() if a not in schema.names)
    database.execute(
        f"CREATE VIEW catalog AS SELECT *{added}"  # noqa: S608  (our own words, paths quoted)
        f" FROM read_parquet([{listed}], hive_partitioning = false)"
    )
    return database


class Catalog:
    """Targets of a collection under some conditions; nothing is read before it is asked for.

    `open_catalog` makes it. `cone`, `where`, `targets` and `head` give a catalogue of fewer
    targets; `to_arrow`, `to_pandas`, `to_polars`, `to_astropy` give a table of them, `len` their
    number, `spectra` their spectra. A row is a target in one survey and program: the same TARGETID
    can come more than once, and `where("is_primary")` leaves the best one of each.

    `redshift`, `ra` and `dec` are other names of `z`, `target_ra` and `target_dec`. `describe()`
    tells what the columns are.
    """

    def __init__(
        self,
        collection: Collection,
        database: "duckdb.DuckDBPyConnection",
        conditions: tuple[str, ...] = (),
        words: tuple[str, ...] = (),
        limit: int | None = None,
    ) -> None:
        self._collection, self._database = collection, database
        self._conditions, self._words, self._limit = conditions, words, limit
        self._count: int | None = None

    def __repr__(self) -> str:
        words = "".join(f", {word}" for word in self._words)
        return f"<Catalog of {self._collection.tree.place}: {len(self):,} targets{words}>"

    def __len__(self) -> int:
        return self.count()

    def __bool__(self) -> bool:
        return True  # not asked: a catalogue without targets is one too

    @property
    def columns(self) -> list[str]:
        """Names of the columns, in their order; `describe` tells what they are."""
        return list(self._collection.schema.names)

    def describe(self) -> "pd.DataFrame":
        """Return type, unit and description of the columns, for pandas, by name."""
        import pandas as pd

        rows = []
        for field in self._collection.schema:
            metadata = field.metadata or {}
            words = [metadata.get(key, b"").decode() for key in (b"unit", b"description")]
            rows.append((field.name, str(field.type), *words))
        frame = pd.DataFrame(rows, columns=["column", "type", "unit", "description"])
        return frame.set_index("column")

    # ------------------------------------------------------------------------- fewer targets

    def where(self, condition: str) -> "Catalog":
        """Return the targets that a condition in SQL holds for.

        Parameters
        ----------
        condition
            What stands behind WHERE in DuckDB's SQL: `z > 2.1 and flux_r > 5`,
            `spectype = 'QSO'`, `desi_target & 4 > 0`. All columns can be named.

        Raises
        ------
        ValueError
            Where a column is not there, or it is no condition.
        """
        narrowed = self._narrow(f"({condition}\n)", f"where {condition}")
        narrowed._check(condition)
        return narrowed

    def cone(
        self,
        ra: "float | Quantity | SkyCoord",
        dec: "float | Quantity | None" = None,
        radius: "float | Quantity | None" = None,
    ) -> "Catalog":
        """Return the targets within a radius of a position.

        Parameters
        ----------
        ra, dec
            Right ascension and declination (ICRS): numbers in degrees, quantities, or a `SkyCoord`
            in place of both.
        radius
            A number in degrees, or a quantity.

        Raises
        ------
        ValueError
            Where one of them is missing, no angle, or out of its range.

        Examples
        --------
        >>> quasars.cone(ra=150.1, dec=2.2, radius=0.5)
        >>> quasars.cone(SkyCoord.from_name("COSMOS"), radius=30 * u.arcmin)
        """
        condition, word = cone_condition(ra, dec, radius)
        return self._narrow(condition, word)

    def targets(self, targetids: "int | Sequence[int] | np.ndarray[Any, Any]") -> "Catalog":
        """Return the targets of some TARGETIDs, in the order of the catalogue."""
        numbers = np.unique(np.atleast_1d(np.asarray(targetids)))
        if numbers.dtype.kind not in "iu" and len(numbers):
            raise ValueError(f"targets: TARGETIDs are integers of 64 bits, not {numbers.dtype}")
        listed = ", ".join(map(str, numbers.tolist())) or "NULL"
        return self._narrow(f"targetid IN ({listed})", f"{len(numbers)} TARGETIDs")

    def head(self, n: int = 5) -> "Catalog":
        """Return the first `n` targets, in the order of the sky."""
        limit = n if self._limit is None else min(n, self._limit)
        words = (*self._words, f"the first {n}")
        return Catalog(self._collection, self._database, self._conditions, words, limit)

    def _narrow(self, condition: str, word: str) -> "Catalog":
        if self._limit is not None:
            raise ValueError("head(n) comes last: a condition after it would choose among n alone")
        conditions, words = (*self._conditions, condition), (*self._words, word)
        return Catalog(self._collection, self._database, conditions, words)

    # -------------------------------------------------------------------------------- tables

    def count(self) -> int:
        """Return the number of targets, as `len` does."""
        if self._count is None:
            found = self._ask(f"SELECT count(*) AS n FROM ({self._select('targetid')})")  # noqa: S608  (as there)
            self._count = int(found["n"][0].as_py())
        return self._count

    def to_arrow(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the targets as an Arrow table.

        Parameters
        ----------
        columns
            Names of columns, in the order wanted; all by default. Only these are read.

        Returns
        -------
        pyarrow.Table
            A row a target, in the order of the sky; units and descriptions in the fields' metadata.

        Raises
        ------
        ValueError
            Where a column is not there.
        """
        names = self._known(self.columns if columns is None else columns)
        table = self._ask(self._select(*names))
        schema = self._collection.schema
        fields = [schema.field(ALIASES.get(n, n) if n not in schema.names else n) for n in names]
        return table.cast(pa.schema([f.with_name(n) for f, n in zip(fields, names, strict=True)]))

    def to_pandas(self, columns: Sequence[str] | None = None) -> "pd.DataFrame":
        """Return the targets for pandas; see `to_arrow`."""
        frame: pd.DataFrame = self.to_arrow(columns).to_pandas()
        return frame

    def to_polars(self, columns: Sequence[str] | None = None) -> "pl.DataFrame":
        """Return the targets for Polars; see `to_arrow`.

        Raises
        ------
        ImportError
            Where Polars is not installed.
        """
        return convert.to_polars(self.to_arrow(columns))

    def to_astropy(self, columns: Sequence[str] | None = None) -> "QTable":
        """Return the targets for astropy: quantities where there is a unit, nulls masked.

        See `to_arrow`. `table["flux_r"].to("uJy")` converts.
        """
        return convert.to_astropy(self.to_arrow(columns))

    def spectra(self, columns: Sequence[str] = ("flux", "ivar")) -> Spectra:
        """Return the spectra of the targets, to be read when they are asked for.

        Parameters
        ----------
        columns
            What to read together: `flux`, `ivar`, `mask`, and `lsf` or `resolution` where the
            collection has them. Any other that is used later is read then. A column of the
            catalogue among them stands in `Spectra.table`.

        Raises
        ------
        ValueError
            Where a column is not there, or it is neither of the catalogue nor of pixels.
        """
        record = {*self._collection.fields(), *PIXELS[:4]}
        known = self._known(columns, record)
        pixels = [name for name in known if name in record]
        scalars = [name for name in known if name not in record]
        names = dict.fromkeys((*_WITH_SPECTRA, *scalars, *PLACE))
        read = [name for name in pixels if name != "wavelength"]
        return Spectra(self._collection, read, lambda: self.to_arrow(list(names)))

    # ------------------------------------------------------------------------------- details

    def _known(self, columns: Sequence[str], others: Iterable[str] = ()) -> list[str]:
        """Return names of columns, or raise with those that are near to an unknown one."""
        if isinstance(columns, str):
            raise ValueError(f"columns: a list of names, such as [{columns!r}], not one word")
        names = [*self.columns, *ALIASES, *others]
        for column in columns:
            if column not in names:
                raise ValueError(self._unknown(column, names))
        return list(columns)

    def _unknown(self, column: str, names: Sequence[str]) -> str:
        near = get_close_matches(column.lower(), names)
        hint = f"near to it: {', '.join(near)}" if near else "Catalog.describe() shows all"
        return f"{self._collection.tree.place} has no column {column}; {hint}"

    def _select(self, *names: str) -> str:
        """Return the query for some columns."""
        listed = ", ".join(_quoted(name, '"') for name in names)
        conditions = " AND ".join(self._conditions) or "true"
        limit = f" LIMIT {self._limit:d}" if self._limit is not None else ""
        return f"SELECT {listed} FROM catalog WHERE {conditions}{limit}"  # noqa: S608  (a query is what the user gives)

    def _ask(self, query: str) -> pa.Table:
        """Ask DuckDB; a cursor of its own lets threads ask at once.

        Raises
        ------
        ValueError
            Where a condition cannot be worked out: a text that is no number, for example.
        """
        import duckdb

        try:
            return self._database.cursor().execute(query).to_arrow_table()
        except duckdb.Error as error:
            words = ", ".join(self._words) or "all targets"
            raise ValueError(
                f"{self._collection.tree.place}, {words}: {_first_line(error)}"
            ) from error

    def _check(self, condition: str) -> None:
        """Raise where DuckDB does not understand a condition."""
        import duckdb

        try:
            self._database.cursor().execute(f"EXPLAIN {self._select('targetid')}")
        except duckdb.Error as error:
            named = re.search(r'Referenced column "(.+?)" not found', str(error))
            names = [*self.columns, *ALIASES]
            what = self._unknown(named[1], names) if named else _first_line(error)
            raise ValueError(f"where({condition!r}): {what}") from error


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


def _quoted(text: str, mark: str) -> str:
    return f"{mark}{text.replace(mark, mark * 2)}{mark}"
