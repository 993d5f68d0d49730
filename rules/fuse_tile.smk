rule fuse_tile:
    input:
        fits=f"{RESULTS}/fits/{TILE}",
    output:
        parquet=directory(f"{RESULTS}/parquet/{HIVE}"),
    log:
        f"{RESULTS}/logs/fuse_tile/{TILE}.log",
    # above downloading, so that fetched FITS do not pile up
    priority: 10
    conda:
        "../envs/environment.yaml"
    resources:
        **on_cluster(mem_mb=tile_memory, runtime=1),
    params:
        sources=tile_version,
        content=CONTENT_SETTINGS,
    script:
        "../scripts/fuse_tile.py"
