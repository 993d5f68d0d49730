# Targets to be named on the command line; each acts on what is there and leaves no file.


rule retry_failed:
    log:
        f"{RESULTS}/logs/retry_failed.log",
    localrule: True
    conda:
        "../envs/environment.yaml"
    message:
        "Clearing the tiles that failed, so that the next run does them again"
    script:
        "../scripts/retry_failed.py"


rule verify:
    log:
        f"{RESULTS}/logs/verify.log",
    localrule: True
    conda:
        "../envs/environment.yaml"
    message:
        "Comparing every Parquet with the checksum in its marker"
    script:
        "../scripts/verify.py"


# Snakemake begins nothing, and so calls nobody, where no job is to be done. This one is to be done
# where a killed run left FITS; they are removed as each run begins, below.
rule remove_leftovers:
    output:
        temp(touch(f"{RESULTS}/{LEFTOVERS}")),
    localrule: True
