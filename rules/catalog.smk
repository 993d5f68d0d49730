# The partitions of the catalogue are no outputs: those of which no tile has changed stay.
rule catalog:
    input:
        tiles=f"{RESULTS}/tiles.csv",
        markers=all_markers,
    output:
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
        "Making {RESULTS} a HATS collection"
    script:
        "../scripts/catalog.py"
