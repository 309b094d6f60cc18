"""Read an archive on a Ray cluster, past one machine: rows to Parquet, vectors to a Chroma server.

    ray start --head                       # on one machine, and on the others: ray start --address=HEAD:6379
    chroma run --path vectors              # wherever the vectors are to lie
    python examples/ray_archive.py s3://bucket/scans pages.parquet --ray auto \
        --api-url http://gpu1.lan:5001 --api-url http://gpu2.lan:5001 --chroma-url http://store.lan:8000

Killed, it goes on where it stood: this process writes each page into the archive's ledger as it comes in.
"""

import argparse
import functools
import sys

from kobold_reader import Archive, KoboldReader, cluster
from kobold_reader.errors import KoboldReaderError


def main() -> None:
    """Do what is said above."""
    parser = argparse.ArgumentParser(description="Read and index scans on a Ray cluster.")
    parser.add_argument(
        "paths", nargs="+", help="files, folders or URLs; local ones lie under the same path everywhere"
    )
    parser.add_argument("parquet", help="folder or URL for the rows")
    parser.add_argument("--archive", default="ray-archive", help="folder of the archive, on this machine")
    parser.add_argument("--ray", default="local", help="HOST:6379, auto, or local: a cluster on this machine")
    parser.add_argument("--api-url", action="append", required=True, help="a KoboldCpp; may be repeated")
    parser.add_argument("--chroma-url", help="a Chroma server; left out: vectors lie in the archive's folder")
    parser.add_argument("--engine", default="koboldcpp", help="rapidocr reads printed text without a server")
    arguments = parser.parse_args()

    reader = KoboldReader(api_url=arguments.api_url, engine=arguments.engine, on_error="skip", outage_patience_s=600)
    with cluster.session(), Archive.open(arguments.archive, create=True, chroma_url=arguments.chroma_url) as archive:
        report = archive.sync(
            arguments.paths,
            reader=reader,
            make_transcriber=functools.partial(cluster.transcriber, address=arguments.ray),
            on_page=lambda page: print(f"{page.source.name} page {page.page_number}: {page.status}"),
        )
        print(f"{report.indexed_pages} pages indexed, {len(report.errors)} errors")
        # The readings are in the archive's ledger now: nothing is asked again for the rows.
        rows = cluster.read_pages(
            arguments.paths,
            arguments.api_url,
            reader=reader.model_copy(update={"ledger": f"{arguments.archive}/ledger.sqlite"}),
            address=arguments.ray,
        )
        rows.write_parquet(arguments.parquet)
        print(f"{rows.count()} rows in {arguments.parquet}")


if __name__ == "__main__":
    try:
        main()
    except (KoboldReaderError, OSError) as err:
        sys.exit(str(err))
