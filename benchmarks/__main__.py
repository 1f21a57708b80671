"""List the benchmarks, or run those that the README's figures come from."""

import subprocess
import sys

MODULES = {
    "training": "training against the usual recipe, on the pipeline's data",
    "serving": "the server against the usual app, on the pipeline's bundle",
    "endurance": "ten minutes of 16 clients, one request in ten rubbish, three swaps of the model",
    "hostile_uploads": "time and memory of uploads made to take much of them (five minutes)",
    "scoring": "score against the server, and killed three times (five minutes)",
    "backbones": "size and speed of each backbone, in floating point and in int8 (ten minutes)",
    # begin: medical projects
    "gpu": "decoding, the frozen layers, the feature cache and training on a GPU (five minutes)",
    # end: medical projects
    "head_settings": "settings of the heads, out-of-fold and on the test split (ten minutes)",
    "scale": "validation, features and scoring of 1,000 to 50,000 files, and on Dask (an hour)",
    "interval_coverage": "coverage of the interval of proportions, by simulation (a minute)",
    "costs": "disk, hours and dollars for up to ten million images, from measured rates",
    "page": "100 images on the page against 100 requests one after the other",
    "drift": "how often drift is reported, without drift and with it, by simulation (a minute)",
    # begin: medical projects
    "drift_phantoms": "the same of phantoms in other windows, on the pipeline's bundle (3 minutes)",
    "pictures": "the README's pictures",
    # end: medical projects
}
USUAL = ("training", "serving")


def main() -> None:
    """Run what is named, or training and serving."""
    wanted = sys.argv[1:] or USUAL
    unknown = sorted(set(wanted) - set(MODULES))
    if unknown or "--help" in wanted:
        listed = "\n".join(f"  {name:<18}{what}" for name, what in MODULES.items())
        sys.exit(f"python -m benchmarks [NAME …]; without a name: {', '.join(USUAL)}\n{listed}")
    for name in wanted:
        print(f"\n== {name}: {MODULES[name]}", flush=True)
        code = subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=False).returncode
        if code:
            sys.exit(code)


if __name__ == "__main__":
    main()
