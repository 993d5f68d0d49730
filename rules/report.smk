rule report:
    input:
        tiles=f"{RESULTS}/tiles.csv",
        markers=all_markers,
    output:
        REPORT_TABLES,
        touch(f"{RESULTS}/{REPORTED}"),
        f"{RESULTS}/report/{LANDING}",
        directory(f"{RESULTS}/report/{FIGURES_FOLDER}"),
        f"{RESULTS}/report/{PAGE}",
    log:
        f"{RESULTS}/logs/report.log",
    localrule: True
    conda:
        "../envs/environment.yaml"
    params:
        settings=REPORT_SETTINGS,
    message:
        f"Summing up all tiles in {RESULTS}/report"
    script:
        "../scripts/report.py"
