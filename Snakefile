# The DESI archive, tile by tile, from FITS on S3 to Parquet: see README.md.
import os

from snakemake.utils import min_version

min_version("9.27")


# that of the present folder, else the one beside this file
CONFIGFILE = "config/config.yaml"
if not os.path.exists(CONFIGFILE):
    CONFIGFILE = os.path.join(str(workflow.current_basedir), CONFIGFILE)


configfile: CONFIGFILE


include: "rules/common.smk"
include: "rules/run.smk"


report: "report/workflow.rst"


include: "rules/discover_tiles.smk"
include: "rules/download_tile.smk"
include: "rules/fuse_tile.smk"
include: "rules/validate_tile.smk"
include: "rules/catalog.smk"
include: "rules/report.smk"
include: "rules/repair.smk"
include: "rules/skim.smk"
include: "rules/compare_releases.smk"
include: "rules/publish.smk"
include: "rules/watch.smk"


# Report and collection are told to be up to date by a file of each, which a run that does a tile
# removes as it begins: not by times, which a clock that is set makes nonsense of.
# The markers are named here, not only as inputs of the report: Snakemake does not make a missing
# intermediate file again while what was made from it is there.
rule all:
    default_target: True
    input:
        f"{RESULTS}/{COLLECTION}",
        f"{RESULTS}/report/summary.json",
        f"{RESULTS}/{REPORTED}",
        f"{RESULTS}/{COLLECTED}",
        all_markers,
        leftovers,
