"""Makes the pictures in docs/images from the sample archive: `python docs/site/screenshots.py`; needs Chromium."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "kobold_reader" / "_samples" / "archive"
IMAGES = Path(__file__).parents[1] / "images"
VIEWS = {"search": ("/", "q=Lindqvist+1954")}
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def main() -> None:
    """Read the samples with RapidOCR, serve them, and take a picture of each view."""
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        sys.exit("No Chromium was found: install it, then run this again.")
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        kobold_reader = [sys.executable, "-m", "kobold_reader"]
        archive = Path(folder) / "archive"
        samples = Path(folder) / "scans"
        shutil.copytree(SAMPLES, samples)
        subprocess.run([*kobold_reader, "index", samples, "--archive", archive, "--engine", "rapidocr"], check=True)
        server = subprocess.Popen(
            [*kobold_reader, "web", "--archive", archive, "--port", "0"], stdout=subprocess.PIPE, text=True
        )
        assert server.stdout is not None
        address = urlsplit(server.stdout.readline().strip())
        try:
            for name, (path, query) in VIEWS.items():
                url = address._replace(path=path, query=f"{query}&{address.query}").geturl()
                picture = IMAGES / f"{name}.png"
                options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
                options += ["--window-size=1020,780", "--virtual-time-budget=8000", f"--screenshot={picture}"]
                subprocess.run([browser, *options, url], check=True, capture_output=True)
                print(picture)
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
