"""Pages by pdf2image, which runs poppler's pdftoppm: `with_pdf2image.py prepare PDF PX`."""

import base64
import io
import json
import os
import sys

from pdf2image import convert_from_path

QUALITY = 90


def spent_s() -> float:
    """Processor seconds, those of pdftoppm included."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


if __name__ == "__main__":
    before_s = spent_s()
    images = convert_from_path(sys.argv[2], size=int(sys.argv[3]))
    sent = 0
    for image in images:
        data = io.BytesIO()
        image.save(data, "JPEG", quality=QUALITY)
        sent += len(base64.b64encode(data.getvalue()))
    cpu_s = spent_s() - before_s
    print(json.dumps({"pages": len(images), "cpu_s": cpu_s, "bytes": sent * 3 // 4, "size": "JPEG 90, RGB"}))
