# The table of the report stands for the markers that it was made of: to name 30,000 of them once more
# would cost Snakemake 45 MB of memory. The partitions of the catalogue are no outputs: those of which
# no tile has changed stay.
rule catalog:
    input:
        tiles=f"{RESULTS}/tiles.csv",
        table=f"{RESULTS}/report/tiles.parquet",
    output:
        touch(f"{RESULTS}/{COLLECTED}"),
        collection=f"{RESULTS}/{COLLECTION}",
        catalogs=[
            f"{RESULTS}/{name}/hats.properties" for name in (CATALOG, MARGIN, INDEX)
        ],
    log:
        f"{RESULTS}/logs/catalog.log",
    localrule: True
    conda:
        "../envs/environment.yaml"
    params:
        settings=REPORT_SETTINGS,
    message:
        f"Making {RESULTS} a HATS collection"
    script:
        "../scripts/catalog.py"
