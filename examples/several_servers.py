"""Read with several KoboldCpp servers at once, all running the same model.

    python examples/several_servers.py scans pages.jsonl --api-url http://127.0.0.1:5001 --api-url http://desk.lan:5001

One server reads one page at a time; results come in page order. A server that goes away is left out, its page goes to
another one, and it is used again when it is back.
"""

import argparse
import json
import logging
import sys
from pathlib import Path

from kobold_reader import KoboldReader
from kobold_reader.errors import KoboldReaderError


def main() -> None:
    """Do what is said above."""
    parser = argparse.ArgumentParser(description="Read a folder of scans with several servers.")
    parser.add_argument("folder")
    parser.add_argument("output", type=Path)
    parser.add_argument("--api-url", action="append", help="a KoboldCpp; may be repeated")
    parser.add_argument("--engine", default="koboldcpp", help="rapidocr reads printed text without a server")
    arguments = parser.parse_args()

    logging.basicConfig(level=logging.WARNING)  # a server that goes away or comes back is said here
    servers = arguments.api_url or ["http://127.0.0.1:5001"]
    reader = KoboldReader(
        api_url=servers, engine=arguments.engine, on_error="skip", outage_patience_s=600, show_progress=True
    )
    print(", ".join(servers) if arguments.engine == "koboldcpp" else arguments.engine)

    by_status: dict[str, int] = {}
    with arguments.output.open("w", encoding="utf-8") as file:
        for page in reader.read_pages(arguments.folder):
            by_status[page.status] = by_status.get(page.status, 0) + 1
            if page.error:
                if not page.is_due:  # the error that ends the run says why
                    print(page.error)
                continue
            record = {"file": page.source.name, "page": page.page_number, "status": page.status, "text": page.text}
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    print(", ".join(f"{count} {status}" for status, count in by_status.items()))


if __name__ == "__main__":
    try:
        main()
    except (KoboldReaderError, OSError) as err:
        sys.exit(str(err))
