checkpoint discover_tiles:
    output:
        # kept until the new list is complete, so that a failed listing loses nothing
        tiles=update(f"{RESULTS}/tiles.csv"),
    log:
        f"{RESULTS}/logs/discover_tiles.log",
    localrule: True
    conda:
        "../envs/environment.yaml"
    params:
        archive=REPORT_SETTINGS["archive"],
        tiles=config["tiles"],
        sample=config["sample"],
    message:
        f"Listing {config['archive']['prefix']} in {ARCHIVE}"
    script:
        "../scripts/discover_tiles.py"
