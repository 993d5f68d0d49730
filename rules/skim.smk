# The selected targets as FITS, to be named on the command line: a small production in DESI's own
# layout, which can be the archive of another run.

SKIMMED_TILE = f"{RESULTS}/{SKIMMED}/{TILE}.json"


def all_skims(wildcards):
    """The markers of all discovered tiles' skims."""
    listed = checkpoints.discover_tiles.get().output.tiles
    if refusal := refuse_own_skim(config):
        raise WorkflowError(refusal)
    try:
        tiles = list_tiles(listed)
        if workflow.is_main_process:
            stale = find_stale_skims_once(Path(listed).stat().st_mtime_ns)
            for tile, _ in stale:
                force(workflow, str(skim_marker_path(Path(RESULTS), tile)))
    except ValueError as error:
        raise WorkflowError(str(error))
    return [str(skim_marker_path(Path(RESULTS), tile)) for tile in tiles]


@cache
def find_stale_skims_once(version):
    """The tiles whose skim is to be made anew, said once a list."""
    stale = find_stale_skims(Path(RESULTS), config)
    for line in stale_text(stale):
        logger.warning(line)
    return stale


# The folder of the FITS is no output: it is written beside its place and renamed, and a tile without
# selected targets has none.
rule skim_tile:
    output:
        marker=SKIMMED_TILE,
    log:
        f"{RESULTS}/logs/skim_tile/{TILE}.log",
    conda:
        "../envs/environment.yaml"
    resources:
        **on_cluster(mem_mb=tile_memory, runtime=download_minutes),
        download=1,
    params:
        layout=layout,
        sources=tile_sources,
        settings=skim_settings(config),
    script:
        "../scripts/skim_tile.py"


rule skim:
    input:
        markers=all_skims,
    log:
        f"{RESULTS}/logs/skim.log",
    localrule: True
    conda:
        "../envs/environment.yaml"
    message:
        f"Summing up the skim in {RESULTS}/{SKIM}"
    script:
        "../scripts/skim.py"
