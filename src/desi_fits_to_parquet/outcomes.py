"""The outcomes that a tile can have: a closed list, each tile ends in exactly one."""

from desi_fits_to_parquet.text import neutral

OUTCOMES = {
    "converted": "at least one row, validated",
    "no_targets": "read in full, nothing selected",
    "missing_source": "a required file (coadd, redrock) is not in the archive",
    "corrupt_source": "checksum, FITS structure or row match is wrong, also after fetching again",
    "unreachable": "the network or the service failed after all retries",
    "invalid_output": "the Parquet did not pass validation",
}
"""Outcome and its meaning, in the order in which reports list them."""

FAILED_OUTCOMES = ("missing_source", "corrupt_source", "unreachable", "invalid_output")
"""Outcomes without Parquet: what `retry_failed` clears."""


ADVICE = {
    "missing_source": (
        "nothing here can mend tiles whose files are not in the archive; a new release may have "
        "them (``snakemake --forcerun discover_tiles`` looks again)"
    ),
    "corrupt_source": (
        "compare the named files with the archive's checksums and tell the archive's keepers; "
        "``snakemake retry_failed`` fetches them again"
    ),
    "unreachable": (
        "run ``snakemake retry_failed`` and then the same command again, when the network is better"
    ),
    "invalid_output": (
        "the Parquet did not agree with its FITS, which is a fault of this project: please report "
        "the sentences of these tiles"
    ),
}
"""What a person can do about tiles that failed, in reStructuredText."""


class BadTile(Exception):
    """The tile ends here with a failed outcome; the run goes on.

    Parameters
    ----------
    outcome
        One of `FAILED_OUTCOMES`.
    reason
        A sentence that names the file and what is wrong with it.
    """

    def __init__(self, outcome: str, reason: str) -> None:
        if outcome not in FAILED_OUTCOMES:
            raise ValueError(f"{outcome!r} is not a failed outcome: {', '.join(FAILED_OUTCOMES)}")
        self.outcome = outcome
        self.reason = neutral(reason)  # it may quote the file
        super().__init__(outcome, self.reason)

    def __str__(self) -> str:
        return f"{self.outcome}: {self.reason}"
