"""Read a large archive night by night: each run goes on where the last one stood.

    python examples/resuming.py /mnt/scans --archive my-archive --hours 7

Kill it, let the power fail, unplug the server: every page that was read is kept, and nothing is asked twice. Run it
again until it says that no page was due.
"""

import argparse
import sys

from kobold_reader import Archive, KoboldReader
from kobold_reader.errors import KoboldReaderError, ServerError


def main() -> None:
    """Do what is said above."""
    parser = argparse.ArgumentParser(description="Read an archive, some hours a night.")
    parser.add_argument("folder")
    parser.add_argument("--archive", required=True, help="where readings and index are kept")
    parser.add_argument("--hours", type=float, default=7.0)
    parser.add_argument("--api-url", default="http://127.0.0.1:5001", help="where KoboldCpp listens")
    parser.add_argument("--engine", default="koboldcpp", help="rapidocr reads printed text without a server")
    arguments = parser.parse_args()

    stop_after_s = arguments.hours * 3600
    reader = KoboldReader(
        api_url=arguments.api_url, engine=arguments.engine, on_error="skip", stop_after_s=stop_after_s
    )
    with Archive.open(arguments.archive, create=True, api_url=arguments.api_url) as archive:
        due: list[int] = []
        try:
            report = archive.sync(
                arguments.folder,
                reader=reader,
                on_start=lambda _session, outlook: due.append(outlook.to_read_pages),
            )
        except ServerError as err:
            sys.exit(f"{err}\nWhat was read is kept: run it again when the server is back.")
        for error in report.errors:
            print(f"failed, and tried again next time: {error}")
        print(f"{due[0]} pages were due, {report.read_pages} were read; {report.pages.total()} are in the archive")


if __name__ == "__main__":
    try:
        main()
    except (KoboldReaderError, OSError) as err:
        sys.exit(str(err))
