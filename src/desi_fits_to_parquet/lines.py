# ruff: noqa: RUF001  (names of lines are Greek)
"""Lines that spectra of each class show, for figures."""

LINES = {
    "QSO": {
        "Lyβ": 1025.7,
        "Lyα": 1215.7,
        "Si IV": 1396.8,
        "C IV": 1549.1,
        "C III]": 1908.7,
        "Mg II": 2798.8,
        "[O II]": 3728.5,
        "Hγ": 4341.7,
        "Hβ": 4862.7,
        "[O III]": 5008.2,
        "Hα": 6564.6,
    },
    "GALAXY": {
        "[O II]": 3728.5,
        "K": 3934.8,
        "Hδ": 4102.9,
        "Hβ": 4862.7,
        "[O III]": 5008.2,
        "Mg b": 5176.6,
        "Na D": 5895.6,
        "Hα": 6564.6,
        "[S II]": 6725.0,
    },
    "STAR": {
        "K": 3934.8,
        "Hδ": 4102.9,
        "Hγ": 4341.7,
        "Hβ": 4862.7,
        "Mg b": 5176.6,
        "Na D": 5895.6,
        "Hα": 6564.6,
        "Ca II": 8664.5,
    },
}
"""Vacuum wavelengths in Angstrom, as SDSS tables them (Stoughton et al. 2002)."""
