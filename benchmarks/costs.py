"""Estimate disk, hours and dollars for up to ten million images, from measured rates.

    python -m benchmarks.costs

Prints the tables of docs/scaling.md. Change RATES, MACHINES and the other constants to your own.
"""

from typing import NamedTuple

from benchmarks.measure import table

IMAGES = (10_000, 100_000, 1_000_000, 10_000_000)
VIEWS = 2  # VIEWS in params.yaml
EPOCHS = 24  # EPOCHS in params.yaml; early stopping ends sooner
HEADS = {"default": 15, "one fold": 1}  # FOLDS x REPEATS; a third share in SPLIT, REPEATS: 1
VIEW_BYTES = 203_264  # VGG16: 14 x 14 x 512 values of the map and 1,280 averages, float16
DOLLARS_PER_GB_MONTH = 0.023


class Rates(NamedTuple):
    """Images per second of one core; of features those of the whole machine where it has a GPU.

    Attributes:
        reading: files of 512 x 512 pixels, with their keypoints.
        features: views through the frozen layers of VGG16.
        heads: images in an epoch of one local head.
        scoring: files, VGG16 in int8.
    """

    reading: float
    features: float
    heads: float
    scoring: float


class Machine(NamedTuple):
    """What works, and what it costs.

    Attributes:
        name: as in the table.
        rates: of each core.
        cores: of one machine.
        count: number of machines.
        dollars: for one machine and hour; 0: one's own.
    """

    name: str
    rates: Rates
    cores: int
    count: int
    dollars: float


# Per second of processor time. `benchmarks.scale`: validation takes 10.6 ms for each of 10,000
# files, near-duplicates included, a view of VGG16 102.9 ms. A step of 15 heads and 16 images takes
# two cores 50.6 ms. `benchmarks.scoring`: 20.8 files a second.
NEAR_DUPLICATES_S, NEAR_DUPLICATES_POWER = 29.6, 1.2  # of 10,000 files, by one core; the growth
CPU = Rates(
    reading=1 / (0.0106 - NEAR_DUPLICATES_S / 10_000),
    features=1 / 0.1029,
    heads=15 * 16 / 0.0506 / 2,
    scoring=20.8,
)
# 1,515 views a second on one H100 with 16 cores, of `benchmarks.gpu`; heads on its cores.
GPU = CPU._replace(features=1_515 / 16)
# Of two Dask workers against threads, the largest of `benchmarks.scale --dask`.
OVERHEAD = 1.19
MACHINES = (
    Machine("laptop, 4 cores", CPU, 4, 1, 0),
    Machine("16 cores", CPU, 16, 1, 0.68),
    Machine("ten of these, Dask", CPU, 16, 10, 0.68),
    Machine("one H100, 16 cores", GPU, 16, 1, 3.0),
)


def main() -> None:
    """Print the tables."""
    print(f"{disk_table()}\n\n{step_table(1_000_000)}\n\n{total_table()}")


def disk_table() -> str:
    """Return the size of the feature cache."""
    rows = []
    for images in IMAGES:
        gigabytes = images * VIEWS * VIEW_BYTES / 1e9
        month = f"${gigabytes * DOLLARS_PER_GB_MONTH:,.2f}"
        rows.append([f"{images:,}", f"{gigabytes:,.0f} GB", month])
    return table(["images", f"{VIEWS} views of each", "a month in a bucket"], rows)


def hours_of(machine: Machine, images: int, heads: int) -> dict[str, float]:
    """Return the hours of each step."""
    seconds = {
        "reading": images / machine.rates.reading,
        "features": images * VIEWS / machine.rates.features,
        "heads": images * EPOCHS * heads / machine.rates.heads,
        "scoring all": images / machine.rates.scoring,
    }
    near_duplicates = NEAR_DUPLICATES_S * (images / 10_000) ** NEAR_DUPLICATES_POWER
    hours = {"near-duplicates": near_duplicates / 3600}
    for step, value in seconds.items():
        machines = 1 if step == "heads" else machine.count  # Dask doesn't train
        overhead = OVERHEAD if machines > 1 else 1
        hours[step] = value * overhead / machine.cores / machines / 3600
    return hours


def step_table(images: int) -> str:
    """Return the hours of each step for a number of images."""
    rows = []
    for machine in MACHINES:
        for name, heads in HEADS.items():
            hours = hours_of(machine, images, heads)
            rows.append([machine.name, name, *map(_hours, hours.values())])
    return table(["machine", "heads", *hours], rows)


def total_table() -> str:
    """Return hours and dollars of all steps but scoring, with one head, by number of images."""
    rows = []
    for machine in MACHINES:
        cells = []
        for images in IMAGES:
            hours = hours_of(machine, images, HEADS["one fold"])
            total = sum(hours.values()) - hours["scoring all"]
            dollars = total * machine.dollars * machine.count
            cells.append(_hours(total) + (f", ${dollars:,.2f}" if dollars else ""))
        rows.append([machine.name, *cells])
    return table(["machine", *(f"{images:,}" for images in IMAGES)], rows)


def _hours(value: float) -> str:
    if value < 1:
        return f"{max(1, 60 * value):.0f} min"
    return f"{value:,.0f} h" if value < 100 else f"{value / 24:,.0f} days"


if __name__ == "__main__":
    main()
