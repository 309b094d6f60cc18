"""py-zerox as its README shows it, one run a prompt: `zerox.py read URL FOLDER PDF`.

It refuses every model whose name it does not know as one that sees, so the server is called gpt-4o-mini.
"""

import asyncio
import json
import os
import sys
import tempfile
import time

os.environ["OPENAI_API_KEY"] = "none"
os.environ["OPENAI_API_BASE"] = f"{sys.argv[2]}/v1"

from pyzerox import zerox

PROMPTS = ("Transcribe any text on the image.", "Describe the image in detail.")


async def read(pdf: str) -> None:
    began_s = time.perf_counter()
    pages = 0
    for prompt in PROMPTS:
        with tempfile.TemporaryDirectory() as folder:
            found = await zerox(
                file_path=pdf, model="gpt-4o-mini", output_dir=folder, custom_system_prompt=prompt, max_tokens=2048
            )
        pages += sum(bool(page.content) for page in found.pages)
    print(json.dumps({"requests": pages, "took_s": time.perf_counter() - began_s}))


if __name__ == "__main__":
    asyncio.run(read(sys.argv[4]))
