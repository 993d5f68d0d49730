"""The command `desi-fits-to-parquet`: it does what it says, and what goes wrong is a sentence."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import REPOSITORY
from fusion_tiles import TILE, write_tile
from reader_trees import TILES, collect, simulate

from desi_fits_to_parquet.cli import EXIT_CODES, SHELLS, main, make_parser
from desi_fits_to_parquet.command.convert import find_tile
from desi_fits_to_parquet.command.snakemake import complete, target_arguments
from desi_fits_to_parquet.command.stopped import Stopped
from desi_fits_to_parquet.files import sha256_of
from desi_fits_to_parquet.paths import parquet_folder, parquet_path
from desi_fits_to_parquet.reader.catalog import open_catalog
from desi_fits_to_parquet.tile import Tile
from desi_fits_to_parquet.tiles_csv import write_tiles

COMMANDS = (
    *("demo", "run", "status", "verify", "retry-failed", "serve", "show", "info"),
    *("convert-tile", "completion"),
)

Printed = Callable[..., str]


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Printed:
    """Runs the command; gives what it printed, on stderr where it fails."""

    def run(*arguments: str, code: int = 0) -> str:
        assert main(arguments) == code
        out, err = capsys.readouterr()
        assert (out if code else err) == ""
        return err if code else out

    return run


def code_of(*arguments: str) -> object:
    """Return the exit code of a command that prints its help, or that argparse refuses."""
    try:
        return main(arguments)
    except SystemExit as ended:
        return ended.code


@pytest.fixture(scope="module")
def fits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tile(tmp_path_factory.mktemp("tile"))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from desi_fits_to_parquet.config import load_config

    settings = load_config(REPOSITORY / "config/schema.yaml")
    settings["columns"] |= {"emline": False, "rrdetails": False}
    folder = tmp_path_factory.mktemp("results")
    return collect(simulate(folder / "fits", TILES[:1]), folder / "out", settings, TILES[:1])


# ------------------------------------------------------------------------------------------- help


def test_all_commands_are_there_and_say_how_they_are_used(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert code_of("--help") == 0
    text = capsys.readouterr().out
    assert EXIT_CODES in text
    for name in COMMANDS:
        assert f"\n    {name}" in text
        assert code_of(name, "--help") == 0
        assert f"examples:\n  desi-fits-to-parquet {name}" in capsys.readouterr().out


def test_examples_of_the_help_are_commands_that_the_parser_takes() -> None:
    parser = make_parser()
    (commands,) = (each for each in parser._actions if each.dest == "run" or each.choices)
    for name, command in commands.choices.items():  # type: ignore[union-attr]
        for line in command.epilog.partition("examples:")[2].strip().splitlines():
            words = line.partition(" > ")[0].split()
            assert words[:2] == ["desi-fits-to-parquet", name]
            if "--where" not in words:  # whose value is quoted for a shell
                parser.parse_args(words[1:])


def test_exit_codes_are_documented_as_the_help_says_them() -> None:
    text = (REPOSITORY / "docs/command.md").read_text()
    for name in COMMANDS:
        assert f"| `{name}" in text
    for code in ("0", "1", "2", "130", "143"):
        assert f"| {code} |" in text


def test_a_wrong_command_line_ends_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of("convert") == 2
    assert "convert-tile" in capsys.readouterr().err


def test_help_and_version_import_nothing_that_starts_slowly() -> None:
    slow = {"numpy", "pyarrow", "duckdb", "matplotlib", "astropy", "snakemake", "shtab", "yaml"}
    code = (
        "import sys\n"
        "from desi_fits_to_parquet.cli import make_parser\n"
        "make_parser().format_help()\n"
        f"print(*sorted({slow!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_of_each_shell_names_all_commands(shell: str, printed: Printed) -> None:
    script = printed("completion", shell)
    assert all(name in script for name in COMMANDS)


def test_bash_completes_commands_and_options(printed: Printed, tmp_path: Path) -> None:
    script = tmp_path / "completion"
    script.write_text(printed("completion", "bash"))
    asked = (
        f"source {script}; COMP_WORDS=(desi-fits-to-parquet show --sm); COMP_CWORD=2; "
        "_shtab_desi_fits_to_parquet; echo ${COMPREPLY[@]}"
    )
    done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "--smooth"


# ------------------------------------------------------------------------------------- Snakemake


def test_run_gives_everything_on_to_snakemake_with_our_snakefile() -> None:
    typed = ["--cores", "8", "all", "--config", "sample=40"]
    assert complete(typed, REPOSITORY) == ["--snakefile", f"{REPOSITORY}/Snakefile", *typed]
    assert vars(make_parser().parse_args(["run", *typed]))["arguments"] == typed


def test_another_snakefile_is_left_to_the_user() -> None:
    for own in (["-s", "x"], ["--snakefile", "x"], ["--snakefile=x"]):
        assert complete(own, REPOSITORY) == own


def test_a_configuration_that_is_not_here_is_that_of_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("config").mkdir()
    Path("config/stars.yaml").write_text("{}")
    packed = f"{REPOSITORY}/config/galaxies.yaml"
    typed = ["--configfile", "config/galaxies.yaml", "config/stars.yaml", "mine.yaml", "-n"]
    assert complete(typed, REPOSITORY)[2:] == [
        "--configfile", packed, "config/stars.yaml", "mine.yaml", "-n",
    ]  # fmt: skip
    assert complete(["--configfile=config/galaxies.yaml"], REPOSITORY)[-1].endswith(packed)


@pytest.mark.parametrize(
    ("typed", "given"),
    [
        ([], ["verify"]),
        (["-n"], ["verify", "-n"]),
        (["out"], ["verify", "--config", "results=out"]),
        (["out", "-C", "a=1", "-n"], ["verify", "-C", "results=out", "a=1", "-n"]),
    ],
)
def test_a_target_takes_the_results_folder_first(typed: list[str], given: list[str]) -> None:
    assert target_arguments("verify", typed) == given


def test_verify_of_an_empty_folder_far_from_the_checkout_runs_the_workflow(tmp_path: Path) -> None:
    write_tiles(tmp_path / "out/tiles.csv", {})
    done = subprocess.run(
        [sys.executable, "-m", "desi_fits_to_parquet", "verify", "out", "--cores", "1"],
        cwd=tmp_path, text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "verify: every Parquet is as its marker says" in done.stderr
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("command", ["verify", "retry-failed"])
def test_a_folder_without_a_run_is_refused_before_snakemake_starts(
    command: str, tmp_path: Path, printed: Printed
) -> None:
    assert printed(command, str(tmp_path), code=1).startswith(f"{tmp_path} holds no run")
    assert list(tmp_path.iterdir()) == []


def test_status_of_no_folder_is_a_sentence(tmp_path: Path, printed: Printed) -> None:
    assert "no such folder" in printed("status", str(tmp_path / "none"), code=1)


def test_status_tells_of_a_folder(results: Path, printed: Printed) -> None:
    assert printed("status", str(results)).startswith("run ")


# ------------------------------------------------------------------------------------- show, info


def test_show_draws_a_spectrum_as_wide_as_the_terminal(
    results: Path, printed: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = open_catalog(results).where("spectype = 'QSO' and z > 2").to_arrow(["targetid", "z"])
    targetid, z = (row[name][0].as_py() for name in ("targetid", "z"))
    monkeypatch.setenv("COLUMNS", "72")
    text = printed("show", str(targetid), "--results", str(results))
    drawing, _, told = text.rstrip().rpartition("\n")
    assert told.startswith(f"{targetid}, main dark: QSO, z {z:.4f}")
    assert "C III]" in drawing
    assert max(map(len, drawing.splitlines()[1:-2])) <= 72


def test_show_writes_a_picture(results: Path, printed: Printed, tmp_path: Path) -> None:
    targetid = open_catalog(results).head(1).to_arrow(["targetid"])["targetid"][0].as_py()
    picture = tmp_path / "spectrum.png"
    assert str(picture) in printed(
        "show", str(targetid), "--results", str(results), "--png", str(picture)
    )
    assert picture.read_bytes().startswith(b"\x89PNG")
    failed = printed(
        "show", str(targetid), "--results", str(results), "--png", str(tmp_path / "a.xyz"), code=1
    )
    assert "a.xyz" in failed


def test_show_names_a_target_or_results_that_are_not_there(
    results: Path, printed: Printed, tmp_path: Path
) -> None:
    assert printed("show", "7", "--results", str(results), code=1) == f"{results} has no target 7\n"
    assert str(tmp_path) in printed("show", "7", "--results", str(tmp_path), code=1)


def test_info_tells_rows_origin_and_sums(results: Path, printed: Printed) -> None:
    tile = TILES[0]
    path = parquet_path(tile, parquet_folder(results, tile))
    told = json.loads(printed("info", str(path), "--json"))
    assert (told["bytes"], told["sha256"]) == (path.stat().st_size, sha256_of(path))
    assert told["rows"] == sum(told["counts"]["spectype"].values()) > 0
    assert told["columns"]["z"]["type"] == "double"
    assert told["provenance"]["settings"]["selection"]["spectypes"] == ["QSO"]
    text = printed("info", str(path), "--columns")
    assert f"Tile {tile.name} (order 6, pixel 10000)" in text
    assert told["sha256"] in text
    assert "10**-17 erg/(s cm2 Angstrom)" in text


def test_info_of_another_file_is_a_sentence(tmp_path: Path, printed: Printed) -> None:
    (tmp_path / "text").write_text("no Parquet")
    for name in ("text", "none"):
        assert f"{tmp_path / name} is no Parquet file" in printed(
            "info", str(tmp_path / name), code=1
        )


# ----------------------------------------------------------------------------------- convert-tile


def test_convert_tile_makes_a_validated_parquet(
    fits: Path, tmp_path: Path, printed: Printed
) -> None:
    text = printed("convert-tile", str(fits), "--output", str(tmp_path))
    path = tmp_path / f"{TILE.name}.parquet"
    assert text.startswith(f"{TILE.name}: converted")
    assert f"sha256 {sha256_of(path)}" in text
    assert [path] == list(tmp_path.iterdir())
    sources = json.loads(printed("info", str(path), "--json"))["provenance"]["sources"]
    redrock = TILE.file_name("redrock")
    assert sources["redrock"]["sha256"] == sha256_of(fits / redrock)
    assert sources["redrock"]["key"] == redrock


def test_convert_tile_takes_settings(fits: Path, tmp_path: Path, printed: Printed) -> None:
    path = tmp_path / "mine.parquet"
    printed(
        "convert-tile", str(fits), "-o", str(path), "--configfile", "config/galaxies.yaml",
        "--set", "precision.mode=lossless", "columns.rrdetails=false",
    )  # fmt: skip
    told = json.loads(printed("info", str(path), "--json"))
    assert told["counts"]["spectype"].keys() == {"GALAXY"}
    assert told["provenance"]["settings"]["precision"]["mode"] == "lossless"
    assert "rrdetails" not in told["columns"]


@pytest.mark.parametrize("word", ["precision.mode=bad", "precision", "results=/", "nothing=1"])
def test_a_setting_that_does_not_fit_is_named(
    word: str, fits: Path, tmp_path: Path, printed: Printed
) -> None:
    assert word.partition("=")[0] in printed(
        "convert-tile", str(fits), "-o", str(tmp_path), "--set", word, code=1
    )


def test_a_broken_tile_ends_with_its_outcome_and_leaves_what_was_there(
    fits: Path, tmp_path: Path, printed: Printed
) -> None:
    broken, kept = tmp_path / "fits", tmp_path / "out/kept.parquet"
    broken.mkdir()
    kept.parent.mkdir()
    kept.write_text("of an earlier conversion")
    for path in fits.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    redrock = broken / TILE.file_name("redrock")
    data = bytearray(redrock.read_bytes())
    data[-2000] ^= 1
    redrock.write_bytes(data)
    text = printed("convert-tile", str(broken), "-o", str(kept), code=1)
    assert text.startswith(f"{TILE.name}: corrupt_source: {redrock.name}")
    assert kept.read_text() == "of an earlier conversion"
    assert list(kept.parent.iterdir()) == [kept]


def test_the_list_of_checksums_beside_the_files_is_believed(
    fits: Path, tmp_path: Path, printed: Printed
) -> None:
    for path in fits.iterdir():
        (tmp_path / path.name).symlink_to(path)
    listed = tmp_path / TILE.checksum_name("iron")
    listed.unlink(missing_ok=True)
    listed.write_text(f"{'0' * 64}  {TILE.file_name('coadd')}\n")
    text = printed("convert-tile", str(tmp_path), "-o", str(tmp_path / "out"), code=1)
    assert f"{TILE.file_name('coadd')}: its sha256 is not that of {listed.name}" in text


def test_a_folder_that_holds_no_tile_or_two_is_named(tmp_path: Path) -> None:
    with pytest.raises(Stopped, match="no such folder"):
        find_tile(tmp_path / "none")
    with pytest.raises(Stopped, match="found none"):
        find_tile(tmp_path)
    (tmp_path / "redrock-main-dark-1.fits").touch()
    (tmp_path / "coadd-main-dark-2.fits").touch()
    with pytest.raises(Stopped, match="files of 2 tiles: main-dark-1, main-dark-2"):
        find_tile(tmp_path)


def test_the_layout_of_a_tile_is_that_of_its_header(tmp_path: Path) -> None:
    for layout, number in (("healpix", 27247), ("uniqpix", 27247)):
        tile = Tile("main", "dark", number, layout)
        folder = write_tile(tmp_path / layout, tile, 4, kinds=("redrock",))
        assert find_tile(folder) == tile


def test_an_output_that_cannot_be_written_is_named(
    fits: Path, tmp_path: Path, printed: Printed
) -> None:
    (tmp_path / "file").touch()
    text = printed("convert-tile", str(fits), "-o", str(tmp_path / "file/out"), code=1)
    assert str(tmp_path / "file/out") in text
    assert "nothing was written" in text


def test_a_reader_that_ends_early_is_no_error(results: Path) -> None:
    path = parquet_path(TILES[0], parquet_folder(results, TILES[0]))
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{sys.executable} -m desi_fits_to_parquet info "
         f"--columns {' '.join([str(path)] * 20)} | head -1"],
        text=True, capture_output=True, check=False, env=dict(os.environ),
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
