# A measurement to be named on the command line; it changes nothing else.


rule benchmark_archive:
    log:
        f"{RESULTS}/logs/benchmark_archive.log",
    localrule: True
    conda:
        "../envs/environment.yaml"
    message:
        f"Measuring {config['archive']['prefix']} in {ARCHIVE}"
    script:
        "../scripts/benchmark_archive.py"
