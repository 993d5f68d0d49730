# To be named on the command line, with the setting compare_with; it reads what is there.


rule compare_releases:
    log:
        f"{RESULTS}/logs/compare_releases.log",
    localrule: True
    conda:
        "../envs/environment.yaml"
    message:
        f"Comparing with the release in {config['compare_with']}"
    script:
        "../scripts/compare_releases.py"
