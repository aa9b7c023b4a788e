"""What a load needs: cores, machines, partitions and room, from costs measured on one core: `python -m bench.capacity`.

`--costs FILE` takes other costs than those below (JSON, see `Costs`), `--simulate` checks each plant by simulation.
"""

from __future__ import annotations

import argparse
from math import ceil
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from bench.queueing import Outage, Outcome, Plant, Traffic, simulate

DAY_S, YEAR_DAYS = 86_400, 365


class Costs(msgspec.Struct, frozen=True):
    """Measured on one core (docs/scaling.md says how). Seconds of processor time an instance, bytes an instance."""

    receive_s: float = 0.00085
    receive_mb_s: float = 0.0015
    index_s: float = 0.00015
    index_batch_s: float = 0.004
    record_s: float = 0.00003
    database_s: float = 0.0004
    broker_s: float = 0.00005
    broker_bytes: int = 5_000
    database_bytes: int = 4_000
    warehouse_bytes: int = 150


class Rules(msgspec.Struct, frozen=True):
    """How it is built: how busy anything may be, and what one machine has."""

    busy: float = 0.5
    cores: int = 16
    broker_days: int = 7
    partitions_a_consumer: int = 3
    fewest: int = 2


class Load(msgspec.Struct, frozen=True):
    """Instances a second at the peak, their mean size in bytes, and how many are kept in all."""

    peak_per_s: float
    mean_bytes: int
    kept: int


class Need(msgspec.Struct, frozen=True):
    """What a load needs."""

    storescps: int
    consumers: int
    recorders: int
    partitions: int
    machines: int
    database_cores: int
    database_bytes: int
    warehouse_bytes: int
    broker_bytes: int
    storage_bytes: int
    network_bytes_s: float


def need(load: Load, costs: Costs, rules: Rules, batch: int = 100) -> Need:
    """Return what `load` needs. Every process has one core; no role has fewer than `rules.fewest` of them."""
    receive_s = receive_seconds(load, costs)
    index_s = costs.index_s + costs.index_batch_s / batch
    storescps = _processes(load.peak_per_s * receive_s, rules)
    consumers = _processes(load.peak_per_s * index_s, rules)
    recorders = _processes(load.peak_per_s * costs.record_s * 2, rules)  # a row of its reception, one of its image
    broker_cores = ceil(load.peak_per_s * costs.broker_s / rules.busy)
    database_cores = max(rules.fewest, ceil(load.peak_per_s * costs.database_s / rules.busy))
    cores = storescps + consumers + recorders + broker_cores + database_cores
    return Need(
        storescps=storescps,
        consumers=consumers,
        recorders=recorders,
        partitions=max(12, consumers * rules.partitions_a_consumer),
        machines=max(rules.fewest, ceil(cores / rules.cores)),
        database_cores=database_cores,
        database_bytes=load.kept * costs.database_bytes,
        warehouse_bytes=load.kept * costs.warehouse_bytes,
        broker_bytes=round(load.peak_per_s / 4 * DAY_S * rules.broker_days) * costs.broker_bytes,
        storage_bytes=load.kept * load.mean_bytes,
        network_bytes_s=load.peak_per_s * load.mean_bytes,
    )


def receive_seconds(load: Load, costs: Costs) -> float:
    """Return the processor time of a storescp for one instance of `load`."""
    return costs.receive_s + costs.receive_mb_s * load.mean_bytes / 1e6


def check(load: Load, found: Need, costs: Costs, seconds: float, outage: Outage | None = None) -> Outcome:
    """Return what a simulation of the plant says."""
    plant = Plant(
        found.storescps,
        found.partitions,
        found.consumers,
        receive_seconds(load, costs),
        costs.index_s,
        costs.index_batch_s,
    )
    return simulate(Traffic(load.peak_per_s), plant, seconds, seed=20261121, outage=outage)


def _processes(cores: float, rules: Rules) -> int:
    return max(rules.fewest, ceil(cores / rules.busy))


LOADS = tuple(Load(peak, 300_000, kept) for peak, kept in ((10, 10**6), (100, 10**7), (1_000, 10**8), (10_000, 10**9)))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.capacity", description=__doc__)
    parser.add_argument("--costs", type=Path, help="JSON with measured costs")
    parser.add_argument("--simulate", action="store_true", help="check each plant by simulation, also after an outage")
    arguments = parser.parse_args()
    costs = msgspec.json.decode(arguments.costs.read_bytes(), type=Costs) if arguments.costs else Costs()
    console = Console()
    console.print(_needs(costs))
    if arguments.simulate:
        console.print(_simulated(costs))


def _needs(costs: Costs) -> Table:
    table = Table("", *(f"{load.peak_per_s:,.0f}/s, {load.kept:,} kept" for load in LOADS))
    found = [need(load, costs, Rules()) for load in LOADS]
    for field in Need.__struct_fields__:
        table.add_row(field, *(_said(field, getattr(one, field)) for one in found))
    return table


def _simulated(costs: Costs) -> Table:
    table = Table(
        "peak",
        "instances",
        "acknowledged p50 / p99 / most",
        "searchable p50 / p99 / most",
        "busiest",
        "after 60 s away",
    )
    for load in LOADS:
        found = need(load, costs, Rules())
        seconds = 60.0 if load.peak_per_s > 1_000 else 300.0
        usual = check(load, found, costs, seconds)
        away = check(load, found, costs, 180.0, Outage(20, 80))
        table.add_row(
            f"{load.peak_per_s:,.0f}/s",
            f"{usual.instances:,}",
            _times(usual.acknowledged),
            _times(usual.searchable),
            f"{usual.storescp_busy:.2f}, {usual.consumer_busy:.2f}",
            f"{away.most_waiting:,} waited, last after {away.searchable[2]:.0f} s",
        )
    return table


def _times(values: tuple[float, ...]) -> str:
    return " / ".join(f"{1000 * value:,.0f} ms" for value in values)


def _said(field: str, value: float) -> str:
    if "bytes" not in field:
        return f"{value:,.0f}"
    for unit in ("B", "KB", "MB", "GB"):
        if value < 1000:
            return f"{value:,.0f} {unit}"
        value /= 1000
    return f"{value:,.1f} TB"


if __name__ == "__main__":
    main()
