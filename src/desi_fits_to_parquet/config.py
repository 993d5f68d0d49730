"""The configuration: defaults filled in, everything checked, before anything else happens."""

import difflib
import json
from collections.abc import Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

from desi_fits_to_parquet.columns import fibermap_columns
from desi_fits_to_parquet.settings import Settings
from desi_fits_to_parquet.target_bits import target_mask
from desi_fits_to_parquet.tiles_csv import read_pixels

REMOVED = {
    "benchmark": "benchmark_archive fetches 200 MB at the most",
    "notify.every_tiles": "see notify.every_percent",
    "transfer.bandwidth_mb_s": "it is measured while tiles are fetched",
    "transfer.latency_s": "it is measured while tiles are fetched",
    "transfer.max_connections": "256 requests at the most are in flight for all tiles together",
}
"""What became of settings that earlier versions had."""


class ConfigError(Exception):
    """The configuration does not fit; the message names each key and what is allowed there."""


def check_config(config: Mapping[str, Any], schema: Mapping[str, Any]) -> Settings:
    """Fill in the defaults of a configuration and check it.

    Parameters
    ----------
    config
        What the user gave; not changed.
    schema
        JSON schema with a default for every setting (`config/schema.yaml`).

    Returns
    -------
    Settings
        A configuration in which every setting of the schema has a value.

    Raises
    ------
    ConfigError
        With one line for each thing wrong: the key, what it is, what is allowed.
    """
    from jsonschema import Draft202012Validator

    settings: Settings = _with_defaults(config, schema)
    problems = [
        _problem(error, schema)
        for error in sorted(
            Draft202012Validator(schema).iter_errors(settings), key=lambda e: list(map(str, e.path))
        )
    ]
    if not problems:
        problems = [*_contradictions(settings), *_ignored(settings, schema)]
    if problems:
        raise ConfigError("\n".join(f"configuration: {problem}" for problem in problems))
    return settings


def load_config(schema_path: Path, *config_paths: Path) -> Settings:
    """Read YAML files, later ones overriding earlier ones, and check the outcome.

    This is for use without Snakemake, which reads and merges the files itself.
    """
    import yaml

    merged: dict[str, Any] = {}
    for path in config_paths:
        merged = _merge(merged, yaml.safe_load(path.read_text()) or {})
    return check_config(merged, yaml.safe_load(schema_path.read_text()))


def _merge(low: dict[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(low)
    for key, value in high.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _with_defaults(value: Any, schema: Mapping[str, Any]) -> Any:
    if isinstance(value, list):
        return [_with_defaults(item, schema.get("items", {})) for item in value]
    if isinstance(value, str):
        return _typed(value, schema)
    if not isinstance(value, Mapping):
        # JSON schema counts 8.0 among the integers, Python does not
        whole = isinstance(value, float) and value.is_integer() and "integer" in _types(schema)
        return int(value) if whole else deepcopy(value)
    filled = {str(key): item for key, item in value.items()}
    for key, part in schema.get("properties", {}).items():
        given = filled.get(key, deepcopy(part.get("default")))
        if part.get("type") == "object" and given is None:  # `tiles:` with nothing below it
            given = {}
        filled[key] = _with_defaults(given, part)
    return filled


def _typed(text: str, schema: Mapping[str, Any]) -> Any:
    """Read a number, flag or null that came as text where the setting is no text.

    Snakemake gives `--config transfer='{attempts: 2}'` on as the text `2`.
    """
    import yaml

    enums = [form.get("enum", ()) for form in (schema, *schema.get("anyOf", ()))]
    if "string" in _types(schema) or any(text in enum for enum in enums):
        return text
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return text if isinstance(value, Mapping | list) else value


def _types(schema: Mapping[str, Any]) -> set[str]:
    """Names of the types that a setting may have, as JSON schema calls them."""
    found: set[str] = set()
    for form in (schema, *schema.get("anyOf", ())):
        kinds = form.get("type", ())
        found.update([kinds] if isinstance(kinds, str) else kinds)
    return found


def _problem(error: Any, schema: Mapping[str, Any]) -> str:
    """Say in one line which key is wrong and what may stand there."""
    if error.validator == "additionalProperties":
        known = list(error.schema["properties"])
        lines = []
        for key in sorted(set(error.instance) - set(known)):
            name = _dotted([*error.path, key])
            near = difflib.get_close_matches(key, known, 1)
            if name in REMOVED:
                lines.append(f"{name} is no setting any more: {REMOVED[name]}.")
            elif near:
                guess = _dotted([*error.path, near[0]])
                lines.append(f"unknown key {name}. Did you mean {guess}?")
            else:
                lines.append(f"unknown key {name}.")
        where = f"below {_dotted(error.path)}" if error.path else "at the top"
        return f"{' '.join(lines)} Allowed {where}: {', '.join(known)}."
    allowed = _allowed(error.schema, schema, error.path)
    return f"{_dotted(error.path)} is {error.instance!r}. Allowed: {allowed}."


def _allowed(part: Mapping[str, Any], schema: Mapping[str, Any], path: Iterable[Any]) -> str:
    """Describe what a setting allows: its values or its range, and the schema's own words."""
    setting: Mapping[str, Any] = schema
    for key in path:
        if isinstance(key, int):
            break
        setting = setting["properties"][key]
    words = [allowed_text(part), f"({setting['description']})" if "description" in setting else ""]
    return " ".join(filter(None, words))


def allowed_text(part: Mapping[str, Any]) -> str:
    """Describe what a part of the schema allows: values, types, a range."""
    words = []
    if "enum" in part:
        words.append(", ".join("null" if value is None else str(value) for value in part["enum"]))
    kinds = part.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds:
        words.append(" or ".join(kinds))
    low = part.get("minimum", part.get("exclusiveMinimum"))
    if low is not None:
        words.append(f"{'from' if 'minimum' in part else 'more than'} {low}")
    if "maximum" in part:
        words.append(f"up to {part['maximum']}")
    if "items" in part and "enum" in part["items"]:
        words.append(f"of {', '.join(part['items']['enum'])}")
    return " ".join(words)


def _dotted(path: Iterable[Any]) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text or "the configuration"


def _contradictions(settings: Settings) -> Iterable[str]:
    """Find what a schema cannot express, such as ranges upside down and files not there."""
    results = Path(settings["results"]).resolve()
    if results == Path(results.root) or results in Path.cwd().parents:
        yield (
            f"results is {settings['results']!r}, which holds the folder of this run. Allowed: a "
            "folder of its own."
        )
    texts = {"results": settings["results"]} | {
        f"archive.{key}": value for key, value in settings["archive"].items()
    }
    for name, text in texts.items():
        if isinstance(text, str) and text.endswith("\n"):  # which `$` of a pattern lets through
            yield f"{name} is {text!r}. Allowed: no line break at its end."
    for name, limits in (
        ("spectra.wavelength_range", settings["spectra"]["wavelength_range"]),
        ("selection.z", settings["selection"]["z"]),
        ("selection.deltachi2", settings["selection"]["deltachi2"]),
    ):
        if limits is not None and not limits[0] < limits[1]:
            yield f"{name} is {limits}. Allowed: the lower limit first, then the higher."
    if settings["spectra"]["mask_arms"] and settings["spectra"]["cameras"] == "separate":
        yield "spectra.mask_arms is true. Allowed: false where spectra.cameras is separate."
    if (
        settings["spectra"]["resolution"] == "matrix"
        and settings["spectra"]["cameras"] != "separate"
    ):
        yield (
            "spectra.resolution is matrix. Allowed: none or lsf where spectra.cameras is combined: "
            "the joined spectrum has no band matrix."
        )
    healpix = settings["tiles"]["healpix"]
    if isinstance(healpix, str):
        if Path(healpix).is_file():
            try:
                read_pixels(healpix)
            except ValueError as error:
                yield f"{error}."
        else:
            yield f"tiles.healpix names the file {healpix}, which is not there."
    try:
        fibermap_columns(settings["columns"]["fibermap"])
    except ValueError as error:
        yield f"{error}."
    for survey in settings["tiles"]["surveys"]:
        try:
            target_mask(survey, settings["selection"]["targets"])
        except ValueError as error:
            yield f"{error}."


IN_PLACE_OF: tuple[Literal["spectypes", "zwarn", "objtypes", "coadd_fiberstatus"], ...] = (
    "spectypes",
    "zwarn",
    "objtypes",
    "coadd_fiberstatus",
)
"""Settings of the selection that a preset stands for."""

OF_PRESET: tuple[Literal["qso_threshold", "qso_fiberstatus"], ...] = (
    "qso_threshold",
    "qso_fiberstatus",
)
"""Settings of the selection that the preset alone reads."""


def _ignored(settings: Settings, schema: Mapping[str, Any]) -> Iterable[str]:
    """Find settings that were given, for they are not the default, and that are ignored."""
    selection = settings["selection"]
    defaults = {
        key: part["default"]
        for key, part in schema["properties"]["selection"]["properties"].items()
    }
    if selection["preset"] is None:
        for name in OF_PRESET:
            if selection[name] != defaults[name]:
                yield (
                    f"selection.{name} is {json.dumps(selection[name])}, which nothing but "
                    f"selection.preset desi_qso reads. Allowed without it: {defaults[name]}."
                )
        return
    for key in IN_PLACE_OF:
        default = defaults[key]
        if selection[key] != default:
            yield (
                f"selection.{key} is {json.dumps(selection[key])}, which selection.preset "
                f"{selection['preset']} ignores. Take selection.{key} out (or set it to its "
                f"default, {json.dumps(default)}), or set selection.preset to null."
            )
