"""The plain script that goes round for KoboldCpp: pictures in a folder, one after the other, a text file beside each.

Written anew from its description: no PDF; sides rounded up to multiples of 224, so pages are distorted; no retry; every
prompt is a run of its own, which prepares and sends every picture again.

    plain.py read URL FOLDER PDF    |    plain.py prepare FOLDER PX
"""

import base64
import io
import json
import sys
import time
from pathlib import Path

import requests
from PIL import Image

STEP_PX = 224
MOST_PX = 896
PROMPTS = ("Transcribe any text on the image.", "Describe the image in detail.")


def encoded(path: Path, most_px: int, step_px: int) -> bytes:
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    scale = most_px / max(image.size)
    width, height = (-(-round(side * scale) // step_px) * step_px for side in image.size)
    data = io.BytesIO()
    image.resize((width, height), Image.Resampling.LANCZOS).save(data, "JPEG", quality=95)
    return data.getvalue()


def prepare(folder: Path, most_px: int) -> None:
    files = sorted(folder.glob("*.jpg"))
    encoded(files[0], most_px, 1)
    before_s = time.process_time()
    sent = sum(len(base64.b64encode(encoded(path, most_px, 1))) for path in files)
    cpu_s = time.process_time() - before_s
    print(json.dumps({"pages": len(files), "cpu_s": cpu_s, "bytes": sent * 3 // 4, "size": "JPEG 95, RGB"}))


def read(url: str, folder: Path) -> None:
    files = sorted(folder.glob("*.jpg"))
    began_s = time.perf_counter()
    done = 0
    for prompt in PROMPTS:
        for path in files:
            body = {
                "prompt": f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n",
                "images": [base64.b64encode(encoded(path, MOST_PX, STEP_PX)).decode()],
                "max_length": 2048,
                "temp": 0.1,
                "min_p": 0.1,
                "rep_pen": 1,
            }
            answer = requests.post(f"{url}/api/v1/generate", json=body).json()  # noqa: S113 - it has none
            path.with_suffix(".txt").write_text(answer["results"][0]["text"], encoding="utf-8")
            done += 1
    print(json.dumps({"requests": done, "took_s": time.perf_counter() - began_s}))


if __name__ == "__main__":
    if sys.argv[1] == "prepare":
        prepare(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        read(sys.argv[2], Path(sys.argv[3]))
