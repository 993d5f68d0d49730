# To be named on the command line, with the setting publish.destination; it reads what is there.


rule publish:
    log:
        f"{RESULTS}/logs/publish.log",
    localrule: True
    conda:
        "../envs/environment.yaml"
    message:
        "Publishing the collection to {config[publish][destination]}"
    script:
        "../scripts/publish.py"
