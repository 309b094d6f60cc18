"""What Ray costs where one machine would do: `python -m tests.benchmarks.ray_overhead [--pages 40] [--service-ms 500]`.

The same pages, read with the same two simulated servers, each of which takes exactly the service time for a page: once
by KoboldReader, once through a Ray cluster that is started here. Printed side by side: start, time a page, and what the
servers missed of the best there could be.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from kobold_reader import KoboldReader, cluster
from kobold_reader.pages import select
from kobold_reader.reading.results import PageResult
from tests.benchmarks.scans import jpeg, letter
from tests.benchmarks.server_utilisation import servers


@dataclass(frozen=True)
class Run:
    """One run over all pages."""

    joining_s: float
    first_page_s: float
    """From the call to the first result, joining left out."""
    rest_s: float
    """From the first result to the last."""


def measure(results: Iterable[PageResult], joining_s: float, pages: int) -> Run:
    """Take the time of a run."""
    began_s = time.monotonic()
    moments_s = []
    for result in results:
        assert result.status == "ok", result.error
        moments_s.append(time.monotonic())
    assert len(moments_s) == pages
    return Run(joining_s, moments_s[0] - began_s, moments_s[-1] - moments_s[0])


def show(name: str, run: Run, pages: int, service_s: float) -> None:
    """Print one line."""
    best_s = pages * service_s / 2
    total_s = run.first_page_s + run.rest_s
    print(
        f"{name:<14} {run.joining_s:>8.1f} s {run.first_page_s:>10.1f} s {run.rest_s / (pages - 1) * 1000:>10.0f} ms "
        f"{total_s:>8.1f} s {best_s / total_s:>10.0%}"
    )


def main() -> None:
    """Measure both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pages", type=int, default=40)
    parser.add_argument("--service-ms", type=int, default=500)
    arguments = parser.parse_args()
    service_s = arguments.service_ms / 1000
    with tempfile.TemporaryDirectory() as folder, servers(2, service_s) as (urls, _):
        for number in range(arguments.pages):
            Path(folder, f"{number:03}.jpg").write_bytes(jpeg(letter(number)))
        files = select([folder]).files
        reader = KoboldReader(api_url=urls, tasks=["ocr"], rotate=0, ledger="none")
        print(f"{arguments.pages} pages, two servers, {arguments.service_ms} ms a page")
        print(f"{'':<14} {'joining':>10} {'first page':>12} {'a page then':>13} {'all':>10} {'servers busy':>12}")
        with reader.open_ledger() as ledger:
            plain = measure(reader.transcriber(ledger).run(files), 0.0, arguments.pages)
        show("KoboldReader", plain, arguments.pages, service_s)
        with reader.open_ledger() as ledger, cluster.session():
            began_s = time.monotonic()
            cluster.connect()
            joining_s = time.monotonic() - began_s
            on_ray = measure(cluster.transcriber(reader.session, ledger).run(files), joining_s, arguments.pages)
        show("on Ray", on_ray, arguments.pages, service_s)
        totals = [run.joining_s + run.first_page_s + run.rest_s for run in (plain, on_ray)]
        print(f"on Ray it takes {totals[1] / totals[0]:.1f} times as long, {totals[1] - totals[0]:.1f} s more")


if __name__ == "__main__":
    main()
