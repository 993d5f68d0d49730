rule download_tile:
    output:
        fits=temp(directory(f"{RESULTS}/fits/{TILE}")),
    log:
        f"{RESULTS}/logs/download_tile/{TILE}.log",
    conda:
        "../envs/environment.yaml"
    resources:
        **on_cluster(mem_mb=tile_memory, runtime=download_minutes),
        download=1,
    params:
        layout=layout,
        sources=tile_sources,
        selection=config["selection"],
        columns=config["columns"],
    shell:
        tile_command(
            "download_tile",
            "--healpix {wildcards.healpix} --sources {params.sources:q}",
            "--fits {output.fits:q}",
        )
