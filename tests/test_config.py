"""A wrong setting must be named before any job runs, with what is allowed in its place."""

from copy import deepcopy

import pytest
import yaml
from conftest import REPOSITORY

from desi_fits_to_parquet.archive.benchmark import LIMIT_BYTES
from desi_fits_to_parquet.archive.link import ALL_CONNECTIONS
from desi_fits_to_parquet.config import REMOVED, ConfigError, check_config, load_config
from desi_fits_to_parquet.record.schema import record_fields
from desi_fits_to_parquet.record.selection import ZWARN_BITS
from desi_fits_to_parquet.target_bits import target_mask
from desi_fits_to_parquet.tile import N_HEALPIX, PROGRAMS, SURVEYS

SCHEMA_PATH = REPOSITORY / "config/schema.yaml"
SCHEMA = yaml.safe_load(SCHEMA_PATH.read_text())


@pytest.mark.parametrize(
    ("config", "key", "allowed"),
    [
        ({"selction": {}}, "selction", "Did you mean selection?"),
        ({"selection": {"zwarm": 0}}, "selection.zwarm", "Did you mean selection.zwarn?"),
        ({"transfer": {"speed": 9}}, "transfer.speed", "downloads"),
        ({"sample": "many"}, "sample", "integer from 1"),
        ({"sample": 0}, "sample", "integer from 1"),
        ({"tiles": {"surveys": ["boss"]}}, "tiles.surveys[0]", "sv3"),
        ({"tiles": {"surveys": "main"}}, "tiles.surveys", "array"),
        ({"tiles": {"programs": []}}, "tiles.programs", "dark, bright"),
        ({"tiles": {"healpix": [49152]}}, "tiles.healpix[0]", "up to 49151"),
        ({"tiles": {"healpix": "no/such.txt"}}, "no/such.txt", "not there"),
        ({"selection": {"spectypes": ["QUASAR"]}}, "selection.spectypes[0]", "GALAXY"),
        ({"selection": {"zwarn": ["ODD"]}}, "selection.zwarn", "by name"),
        ({"selection": {"z": [3, 2]}}, "selection.z", "lower limit first"),
        ({"spectra": {"wavelength_range": [9000, 4000]}}, "spectra.wavelength_range", "lower"),
        ({"spectra": {"wavelength_range": [100, 4000]}}, "spectra.wavelength_range[0]", "3600"),
        ({"precision": {"flux_tolerance": 0}}, "precision.flux_tolerance", "more than 0"),
        ({"precision": {"ivar_bits": 25}}, "precision.ivar_bits", "up to 24"),
        ({"archive": {"endpoint": "somewhere"}}, "archive.endpoint", "URL"),
        ({"archive": {"prefix": "../up"}}, "archive.prefix", "folder"),
        ({"columns": {"fibermap": ["FLUX_G", "FLUX_Q"]}}, "columns.fibermap", "FLUX_R"),
        ({"selection": {"targets": ["QUAZAR"]}}, "selection.targets", "LRG"),
        ({"selection": {"zwarn": False}}, "selection.zwarn", "null for any"),
        ({"selection": {"zwarn": "off"}}, "selection.zwarn", "null for any"),
        (
            {"selection": {"preset": "desi_qso", "spectypes": ["GALAXY"]}},
            "selection.spectypes",
            "selection.preset to null",
        ),
        (
            {"selection": {"preset": "desi_qso", "zwarn": "null"}},
            "selection.zwarn is null",
            "its default, 0",
        ),
        ({"spectra": {"resolution": "matrix"}}, "spectra.resolution", "none or lsf"),
        (
            {"spectra": {"cameras": "separate", "mask_arms": True}},
            "spectra.mask_arms",
            "false where spectra.cameras is separate",
        ),
        (
            {"selection": {"preset": "desi_qso", "objtypes": ["SKY"]}},
            "selection.objtypes",
            "selection.preset desi_qso",
        ),
        (
            {"selection": {"preset": "desi_qso", "coadd_fiberstatus": [0]}},
            "selection.coadd_fiberstatus",
            "default, null",
        ),
    ],
)
def test_wrong_setting_is_named_with_what_is_allowed(config, key, allowed):
    with pytest.raises(ConfigError) as caught:
        check_config(config, SCHEMA)
    message = str(caught.value)
    assert key in message
    assert allowed in message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize("survey", SURVEYS)
def test_targets_are_checked_as_the_selection_reads_them(survey):
    config = {"tiles": {"surveys": [survey]}, "selection": {"targets": ["QSO"]}}
    assert target_mask(survey, ["QSO"])[1]
    assert check_config(config, SCHEMA)["selection"]["targets"] == ["QSO"]
    with pytest.raises(ConfigError, match=f"QSO_NEAR is no bit.*in survey {survey}"):
        check_config(config | {"selection": {"targets": ["QSO_NEAR"]}}, SCHEMA)


def test_preset_goes_with_every_setting_that_it_does_not_ignore():
    production = load_config(SCHEMA_PATH, REPOSITORY / "config/config.yaml")
    selection = production["selection"] | {"preset": "desi_qso", "z": [2, 4], "targets": ["QSO"]}
    assert check_config(production | {"selection": selection}, SCHEMA)["selection"] == selection


def test_every_wrong_setting_is_named_at_once():
    with pytest.raises(ConfigError) as caught:
        check_config({"sample": -1, "colour": "red"}, SCHEMA)
    assert len(str(caught.value).splitlines()) == 2


def test_empty_configuration_gets_every_default_and_stays_unchanged():
    config: dict[str, object] = {"tiles": None}
    before = deepcopy(config)
    settings = check_config(config, SCHEMA)
    assert config == before
    assert set(settings) == set(SCHEMA["properties"])
    for section, part in SCHEMA["properties"].items():
        if part.get("type") == "object":
            assert set(settings[section]) == set(part["properties"])


@pytest.mark.parametrize("name", REMOVED)
def test_a_setting_that_is_gone_is_named_with_what_became_of_it(name):
    section, _, key = name.partition(".")
    with pytest.raises(ConfigError) as caught:
        check_config({section: {key: 1} if key else {"limit_mb": 1}}, SCHEMA)
    message = str(caught.value)
    assert message.startswith(f"configuration: {name} is no setting any more: {REMOVED[name]}.")
    assert "unknown" not in message
    assert f"`{name}`" in (REPOSITORY / "CHANGELOG.md").read_text()


def test_the_most_requests_of_all_tiles_are_what_the_texts_say():
    connections = SCHEMA["properties"]["transfer"]["properties"]["connections"]
    assert str(ALL_CONNECTIONS) in connections["description"]
    assert connections["maximum"] == ALL_CONNECTIONS
    assert str(ALL_CONNECTIONS) in REMOVED["transfer.max_connections"]
    assert f"{LIMIT_BYTES // 10**6} MB" in REMOVED["benchmark"]


def test_text_from_the_command_line_is_read_as_the_number_flag_or_null_that_it_stands_for():
    settings = check_config(
        {
            "sample": "40",
            "tiles": {"healpix": ["100", "7"]},
            "selection": {"zwarn": "null", "z": ["1.5", "4"], "preset": "null"},
            "transfer": {"attempts": "2", "limit_mb_s": "null"},
            "columns": {"scores": "true"},
            "archive": {"bucket": "123"},
        },
        SCHEMA,
    )
    assert settings["sample"] == 40
    assert settings["tiles"]["healpix"] == [100, 7]
    assert settings["selection"]["zwarn"] is None
    assert settings["selection"]["z"] == [1.5, 4]
    assert settings["selection"]["preset"] is None
    assert settings["transfer"]["attempts"] == 2
    assert settings["transfer"]["limit_mb_s"] is None
    assert settings["columns"]["scores"] is True
    assert settings["archive"]["bucket"] == "123"


def test_a_whole_number_is_an_integer_however_it_is_written():
    settings = check_config(
        {"sample": 40.0, "tiles": {"healpix": [7.0]}, "selection": {"zwarn": 4.0}}, SCHEMA
    )
    assert [type(value) for value in (settings["sample"], settings["tiles"]["healpix"][0],
                                      settings["selection"]["zwarn"])] == [int] * 3  # fmt: skip


def test_every_setting_says_what_it_is_and_has_a_default_that_it_allows():
    for section, part in SCHEMA["properties"].items():
        for key, setting in part.get("properties", {section: part}).items():
            assert "default" in setting, f"{section}.{key}"
            assert "description" in setting, f"{section}.{key}"
    check_config({}, SCHEMA)


def test_production_configuration_is_what_the_defaults_are():
    # config.yaml repeats defaults to be readable alone; a difference would mean two truths
    assert load_config(SCHEMA_PATH, REPOSITORY / "config/config.yaml") == check_config({}, SCHEMA)


def test_later_file_overrides_single_settings_of_an_earlier_one():
    settings = load_config(
        SCHEMA_PATH, REPOSITORY / "config/config.yaml", REPOSITORY / "config/demo.yaml"
    )
    assert settings["results"] == "results/demo"
    assert settings["archive"]["bucket"] == "desidata"


LINES = {f"{line}_flux" for line in ("oii", "hdelta", "hgamma", "hbeta", "oiii", "halpha")}

CLASSES = {
    "quasars": ({"tsnr2_lya", "tsnr2_qso", "qso_maskbits", "c_lya", "lsf", "exposures"}, LINES),
    "galaxies": ({"tsnr2_elg", *LINES}, {"qso_maskbits", "c_lya"}),
    "stars": ({"tsnr2_gpbdark", "pmra"}, {"qso_maskbits", *LINES}),
    "everything": ({"tsnr2_lya_b", "integ_coadd_flux_b", "c_lya", "desiname", *LINES}, set()),
}
"""Of each class's configuration, columns that it has and such that it leaves out."""


@pytest.mark.parametrize("name", CLASSES)
def test_the_configuration_of_a_class_gives_the_columns_that_it_says(name):
    path = REPOSITORY / f"config/{name}.yaml"
    settings = load_config(SCHEMA_PATH, REPOSITORY / "config/config.yaml", path)
    assert settings["results"] == f"results/{name}"
    columns = {field.name for field in record_fields(settings)}
    there, left_out = CLASSES[name]
    assert there <= columns
    assert not left_out & columns
    assert f"config/{name}.yaml" in (REPOSITORY / "README.md").read_text()


@pytest.mark.parametrize("key", ["qso_threshold", "qso_fiberstatus"])
def test_the_version_of_the_quasar_rule_is_refused_without_the_rule(key):
    version = {"qso_threshold": 0.99, "qso_fiberstatus": [0, 8]}[key]
    selection = {key: version}
    settings = check_config({"selection": selection | {"preset": "desi_qso"}}, SCHEMA)
    assert settings["selection"][key] == version
    with pytest.raises(ConfigError, match=f"selection.{key} is .*preset desi_qso"):
        check_config({"selection": selection}, SCHEMA)


RELEASES = sorted((REPOSITORY / "config/releases").glob("*.yaml"))


@pytest.mark.parametrize("path", RELEASES, ids=lambda path: path.stem)
def test_a_release_is_named_by_a_file_that_needs_nothing_beside_it(path):
    settings = load_config(SCHEMA_PATH, REPOSITORY / "config/config.yaml", path)
    assert settings["results"] == f"results/{path.stem}"
    release, *folders, production = settings["archive"]["prefix"].split("/")
    assert (release, folders) == (path.stem, ["spectro", "redux"])
    assert settings["archive"]["layout"] == ("uniqpix" if release == "dr3" else "healpix")
    text = (REPOSITORY / "docs/releases.md").read_text()
    assert f"`{production}`" in text
    assert f"config/releases/{path.name}" in text


@pytest.mark.parametrize("results", ["/", "..", "../..", "//", "results/../.."])
def test_a_results_folder_that_holds_the_runs_own_is_refused(results: str):
    with pytest.raises(ConfigError, match=r"results is .* which holds the folder of this run"):
        check_config({"results": results}, SCHEMA)


@pytest.mark.parametrize("results", ["results", ".", "../beside", "/elsewhere/results"])
def test_a_results_folder_may_lie_anywhere_else(results: str):
    assert check_config({"results": results}, SCHEMA)["results"] == results


def test_releases_differ_from_the_production_run_in_where_and_which_tiles_alone():
    assert [path.stem for path in RELEASES] == ["dr1", "dr2", "dr3", "edr"]
    for path in RELEASES:
        assert set(yaml.safe_load(path.read_text())) == {"results", "archive", "tiles"}


def test_schema_knows_the_same_names_as_the_library():
    tiles = SCHEMA["properties"]["tiles"]["properties"]
    assert tuple(tiles["surveys"]["items"]["enum"]) == SURVEYS
    assert tuple(tiles["programs"]["items"]["enum"]) == PROGRAMS
    assert tiles["healpix"]["items"]["maximum"] == N_HEALPIX - 1
    zwarn = SCHEMA["properties"]["selection"]["properties"]["zwarn"]["anyOf"]
    names = next(form["items"]["enum"] for form in zwarn if "items" in form)
    assert names == list(ZWARN_BITS)
