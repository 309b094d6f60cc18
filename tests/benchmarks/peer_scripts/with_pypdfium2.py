"""Pages by pypdfium2, as docling and others use it: `with_pypdfium2.py prepare PDF PX`."""

import base64
import io
import json
import sys
import time

import pypdfium2

QUALITY = 90


def encoded(page: "pypdfium2.PdfPage", most_px: int) -> bytes:
    image = page.render(scale=most_px / max(page.get_size())).to_pil()
    data = io.BytesIO()
    image.save(data, "JPEG", quality=QUALITY)
    return data.getvalue()


if __name__ == "__main__":
    document = pypdfium2.PdfDocument(sys.argv[2])
    side_px = int(sys.argv[3])
    encoded(document[0], side_px)
    document.close()
    document = pypdfium2.PdfDocument(sys.argv[2])
    before_s = time.process_time()
    sent = sum(len(base64.b64encode(encoded(document[at], side_px))) for at in range(len(document)))
    cpu_s = time.process_time() - before_s
    print(json.dumps({"pages": len(document), "cpu_s": cpu_s, "bytes": sent * 3 // 4, "size": "JPEG 90, RGB"}))
