"""docling with a remote vision model, as its documentation shows it, a run a prompt.

docling_vlm.py read URL FOLDER PDF
"""

import json
import sys
import time

from docling.datamodel.base_models import InputFormat
from docling.datamodel.pipeline_options import VlmPipelineOptions
from docling.datamodel.pipeline_options_vlm_model import ApiVlmOptions, ResponseFormat
from docling.document_converter import DocumentConverter, PdfFormatOption
from docling.pipeline.vlm_pipeline import VlmPipeline

PROMPTS = ("Convert this page to markdown.", "Describe the image in detail.")


def read(url: str, pdf: str) -> None:
    began_s = time.perf_counter()
    pages = 0
    for prompt in PROMPTS:
        options = VlmPipelineOptions(enable_remote_services=True)
        options.vlm_options = ApiVlmOptions(
            url=f"{url}/v1/chat/completions",
            params={"model": "koboldcpp", "max_tokens": 2048},
            prompt=prompt,
            timeout=300,
            concurrency=4,
            response_format=ResponseFormat.MARKDOWN,
        )
        way = PdfFormatOption(pipeline_cls=VlmPipeline, pipeline_options=options)
        found = DocumentConverter(format_options={InputFormat.PDF: way}).convert(pdf)
        pages += len(found.document.pages)
    print(json.dumps({"requests": pages, "took_s": time.perf_counter() - began_s}))


if __name__ == "__main__":
    read(sys.argv[2], sys.argv[4])
