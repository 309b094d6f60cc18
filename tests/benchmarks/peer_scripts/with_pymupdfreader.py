"""Texts by LlamaIndex's PyMuPDFReader: `with_pymupdfreader.py PDF...`."""

import json
import sys
import time

from llama_index.readers.file import PyMuPDFReader

if __name__ == "__main__":
    reader = PyMuPDFReader()
    before_s, began_s = time.process_time(), time.perf_counter()
    texts = [document.text for path in sys.argv[1:] for document in reader.load_data(path)]
    cpu_s, took_s = time.process_time() - before_s, time.perf_counter() - began_s
    print(json.dumps({"pages": len(texts), "characters": sum(map(len, texts)), "cpu_s": cpu_s, "took_s": took_s}))
