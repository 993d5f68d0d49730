"""Where a Parquet file came from, as metadata that is the same whenever and wherever it is made."""

import json
from collections.abc import Mapping, Sequence

from desi_fits_to_parquet import __version__
from desi_fits_to_parquet.columns import kinds_used
from desi_fits_to_parquet.formats.fits import Fits
from desi_fits_to_parquet.record.schema import FINGERPRINT_KEY, Field, fingerprint, votable
from desi_fits_to_parquet.records import PROVENANCE_KEY, DownloadRecord, tile_keys
from desi_fits_to_parquet.settings import Settings, content_settings
from desi_fits_to_parquet.tile import Tile


def file_metadata(
    tile: Tile,
    settings: Settings,
    fields: Sequence[Field],
    download: DownloadRecord,
    headers: Mapping[str, Fits],
) -> dict[str, str]:
    """Return the key-value metadata of a tile's Parquet file.

    Parameters
    ----------
    tile
        The tile.
    settings
        The validated configuration; the sections that decide the content are kept.
    fields
        Fields of the record.
    download
        The download record, for keys, ETags and checksums.
    headers
        Opened files whose PRIMARY header names the versions of the pipeline, by kind.

    Returns
    -------
    dict of str to str
        Provenance as JSON, the schema's fingerprint, and the VOTable description. No time, host
        or path of this machine, so that equal input gives equal bytes.
    """
    sources = download["sources"]
    provenance = {
        "project": "desi-fits-to-parquet",
        "version": __version__,
        **tile_keys(tile),
        "sources": {
            kind: {key: sources[kind][key] for key in ("key", "etag", "sha256")}
            for kind in kinds_used(settings)
            if kind in sources
        },
        "pipeline": {kind: pipeline_versions(fits) for kind, fits in headers.items()},
        "settings": content_settings(settings),
        "licence": "DESI data: CC BY 4.0, DESI Collaboration",
    }
    return {
        PROVENANCE_KEY: json.dumps(provenance, sort_keys=True, separators=(",", ":")),
        FINGERPRINT_KEY: fingerprint(fields),
        # astropy reads text of this width; without it, text that is null stops it
        **{f"table::len::{field.name}": str(field.width) for field in fields if field.width},
        "IVOA.VOTable-Parquet.version": "1.0",
        "IVOA.VOTable-Parquet.content": votable(fields),
    }


def pipeline_versions(fits: Fits) -> dict[str, str]:
    """Return name and version of the software that wrote a file, from its DEPNAM/DEPVER cards."""
    header = fits.hdus["PRIMARY"].header
    versions = {}
    for key, name in header.items():
        if key.startswith("DEPNAM"):
            version = str(header.get(f"DEPVER{key[6:]}", ""))
            if not version.startswith("/"):  # folders of the site that ran it are no versions
                versions[str(name)] = version
    return versions
