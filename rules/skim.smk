# The selected targets as FITS, to be named on the command line: a small production in DESI's own
# layout, which can be the archive of another run.

SKIMMED_TILE = f"{RESULTS}/{SKIMMED}/{TILE}.json"


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
    shell:
        tile_command(
            "skim_tile",
            "--healpix {wildcards.healpix} --sources {params.sources:q}",
            "--marker {output.marker:q}",
        )


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
