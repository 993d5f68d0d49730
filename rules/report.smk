rule report:
    input:
        tiles=f"{RESULTS}/tiles.csv",
        markers=all_markers,
    output:
        REPORT_TABLES,
        touch(f"{RESULTS}/{REPORTED}"),
        [
            report(
                f"{RESULTS}/report/{page.file}",
                caption=f"../report/{page.caption}",
                category=page.category,
                labels={"content": page.title},
            )
            for page in PAGES
        ],
    log:
        f"{RESULTS}/logs/report.log",
    localrule: True
    conda:
        "../envs/environment.yaml"
    params:
        settings=REPORT_SETTINGS,
    message:
        "Summing up all tiles in {RESULTS}/report"
    script:
        "../scripts/report.py"
