rule validate_tile:
    input:
        fits=f"{RESULTS}/fits/{TILE}",
        parquet=tile_parquet,
    output:
        marker=f"{RESULTS}/validated/{TILE}.json",
    log:
        f"{RESULTS}/logs/validate_tile/{TILE}.log",
    # above all else: only what is validated may have its FITS deleted
    priority: 20
    conda:
        "../envs/environment.yaml"
    resources:
        **on_cluster(mem_mb=tile_memory, runtime=1),
    params:
        layout=layout,
    shell:
        tile_command(
            "validate_tile",
            "--healpix {wildcards.healpix}",
            "--fits {input.fits:q} --parquet {input.parquet:q} --marker {output.marker:q}",
        )


# Every tile, without the report: to be named on the command line.
rule tiles:
    input:
        all_markers,
        leftovers,
    localrule: True
