rule fuse_tile:
    input:
        fits=tile_fits,
    output:
        parquet=directory(f"{RESULTS}/parquet/{PARTITION}"),
    log:
        f"{RESULTS}/logs/fuse_tile/{PARTITION}.log",
    # above downloading, so that fetched FITS do not pile up
    priority: 10
    conda:
        "../envs/environment.yaml"
    resources:
        **on_cluster(mem_mb=tile_memory, runtime=1),
    params:
        layout=layout,
        sources=tile_version,
        content=CONTENT_SETTINGS,
    shell:
        tile_command(
            "fuse_tile",
            "--order {wildcards.order} --pixel {wildcards.pixel}",
            "--fits {input.fits:q} --parquet {output.parquet:q}",
        )
