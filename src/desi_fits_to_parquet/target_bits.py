"""Names of the targeting bits of each survey."""

from collections.abc import Sequence

_CALIBRATION_BITS = {
    "SKY": 32,
    "STD_FAINT": 33,
    "STD_BRIGHT": 35,
    "BAD_SKY": 36,
    "SUPP_SKY": 37,
}

_COMMON_BITS = {
    **_CALIBRATION_BITS,
    "LRG": 0,
    "ELG": 1,
    "QSO": 2,
    "STD_WD": 34,
    "BGS_ANY": 60,
    "MWS_ANY": 61,
    "SCND_ANY": 62,
}

_NORTH_SOUTH_BITS = {
    "LRG_NORTH": 8,
    "ELG_NORTH": 9,
    "QSO_NORTH": 10,
    "LRG_SOUTH": 16,
    "ELG_SOUTH": 17,
    "QSO_SOUTH": 18,
}

TARGET_BITS: dict[str, tuple[str, dict[str, int]]] = {
    "main": (
        "DESI_TARGET",
        {
            **_COMMON_BITS,
            **_NORTH_SOUTH_BITS,
            "LGE": 3,
            "QSO_HIZ": 4,
            "ELG_LOP": 5,
            "ELG_HIP": 6,
            "ELG_VLO": 7,
            "ELG_LOP_NORTH": 11,
            "ELG_VLO_NORTH": 12,
            "ELG_LOP_SOUTH": 19,
            "ELG_VLO_SOUTH": 20,
        },
    ),
    "sv1": (
        "SV1_DESI_TARGET",
        {
            **_COMMON_BITS,
            "LRG_OPT": 3,
            "LRG_IR": 4,
            "LRG_SV_OPT": 5,
            "LRG_SV_IR": 6,
            "LOWZ_FILLER": 7,
            "ELG_SV_GTOT": 8,
            "ELG_SV_GFIB": 9,
            "ELG_FDR_GTOT": 10,
            "ELG_FDR_GFIB": 11,
            "QSO_COLOR_4PASS": 12,
            "QSO_RF_4PASS": 13,
            "QSO_COLOR_8PASS": 14,
            "QSO_RF_8PASS": 15,
            "QSO_HZ_F": 16,
            "QSO_Z5": 17,
        },
    ),
    "sv2": ("SV2_DESI_TARGET", {**_COMMON_BITS, **_NORTH_SOUTH_BITS, "QSO_HIZ": 4}),
    "sv3": (
        "SV3_DESI_TARGET",
        {
            **_COMMON_BITS,
            **_NORTH_SOUTH_BITS,
            "LRG_LOWDENS": 3,
            "QSO_HIZ": 4,
            "ELG_LOP": 5,
            "ELG_HIP": 6,
            "ELG_LOP_NORTH": 11,
            "ELG_HIP_NORTH": 12,
            "LRG_LOWDENS_NORTH": 13,
            "ELG_LOP_SOUTH": 19,
            "ELG_HIP_SOUTH": 20,
            "LRG_LOWDENS_SOUTH": 21,
        },
    ),
    "cmx": (
        "CMX_TARGET",
        {
            **_CALIBRATION_BITS,
            "LRG": 10,
            "ELG": 11,
            "QSO": 12,
            "BGS": 8,
            "SV0_BGS": 8,
            "SV0_MWS": 9,
            "SV0_LRG": 10,
            "SV0_ELG": 11,
            "SV0_QSO": 12,
            "SV0_WD": 13,
            "SV0_QSO_Z5": 14,
        },
    ),
}
"""Per survey, the FIBERMAP column of dark-time targeting bits and its bits by name.

Source: `targetmask.yaml` of desitarget 4.4.0 and its sv1, sv2, sv3 and cmx forms
(https://github.com/desihub/desitarget); the survey `special` uses the column of `main`. In
commissioning BGS, LRG, ELG and QSO stand for the SV0 bits of that name.
"""


def target_mask(survey: str, names: Sequence[str] | None) -> tuple[str, int]:
    """Return the column of targeting bits in that survey and the mask of the named bits.

    Raises
    ------
    ValueError
        Where a name of `selection.targets` is no targeting bit of the survey.
    """
    column, bits = TARGET_BITS.get(survey, TARGET_BITS["main"])
    unknown = [name for name in names or () if name not in bits]
    if unknown:
        raise ValueError(
            f"selection.targets: {', '.join(unknown)} is no bit of {column};"
            f" allowed in survey {survey}: {', '.join(bits)}"
        )
    return column, sum(1 << bits[name] for name in set(names or ()))


def class_mask(survey: str, name: str) -> int:
    """Return the mask of targeting bits of a class, `QSO`, `ELG` or `BGS`, in that survey.

    Of commissioning these are the SV0 bits alone.
    """
    _, bits = TARGET_BITS.get(survey, TARGET_BITS["main"])
    return int(1 << bits[name if name in bits else {"BGS": "BGS_ANY"}[name]])
