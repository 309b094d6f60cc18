"""Run the notebooks and keep their outputs: `python -m tests.notebook_outputs [NOTEBOOK...]`.

The simulator stands in for KoboldCpp, with a model that really looks at the pages: its transcriptions are RapidOCR's of
the very pixels that reach it, its doubtful words those that a second look from further away reads in another way, its
captions facts measured on the picture, its answers sentences of the pages it is given.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, Final

import nbclient
import nbformat
from PIL import Image
from typing_extensions import override

from kobold_reader import MiniLMEmbedding
from tests.kobold_simulator import Answer, BrainRequest, EyesBrain, KoboldSimulator

ROOT: Final = Path(__file__).parent.parent
PORT: Final = 5001
MODEL: Final = "koboldcpp/simulated-Qwen2.5-VL"
HOME: Final = "/home/you/kobold"
FURTHER: Final = 0.55
RIVAL: Final = 0.6
ANSWERED: Final = 2


class LookingBrain(EyesBrain):
    """Reads, doubts, describes and answers by what it is shown."""

    @override
    def answer(self, request: BrainRequest) -> Any:
        if not request.images:
            return answer(request.prompt)
        said = super().answer(request)
        if request.task_hint != "ocr" or said == self.NOTHING or request.so_far:
            return said
        image = request.images[-1]
        size = (round(image.width * FURTHER), round(image.height * FURTHER))
        return with_doubts(said, self.read(image.resize(size, Image.Resampling.LANCZOS)))


def with_doubts(text: str, other: str) -> Answer:
    """The text with a rival for each word that is another one in the second reading."""
    pieces = re.findall(r"\s*\S+", text)
    words, others = [piece.strip() for piece in pieces], other.split()
    rivals = {}
    for kind, start, end, start_2, end_2 in SequenceMatcher(None, words, others, autojunk=False).get_opcodes():
        if kind == "replace" and end - start == end_2 - start_2:
            for place, rival in zip(range(start, end), others[start_2:end_2], strict=True):
                rivals[place] = (pieces[place].replace(words[place], rival), RIVAL)
    return Answer(pieces, rivals=rivals)


def answer(prompt: str) -> str:
    """The sentences of the pages in the prompt that are nearest to its question."""
    found = re.search(r"-{5,}\n(.*)\n-{5,}.*?Query: (.*?)\n", prompt, re.DOTALL)
    pages, question = found.groups() if found else (prompt, prompt)
    plain = re.sub(r"^\w+: .*$", "", pages, flags=re.MULTILINE)  # metadata
    sentences = list(dict.fromkeys(" ".join(one.split()) for one in re.split(r"(?<=[.!?])\s+", plain)))
    model = MiniLMEmbedding()
    wanted = model.get_query_embedding(question)
    near = [model.similarity(wanted, vector) for vector in model.get_text_embedding_batch(sentences)]
    best = sorted(range(len(sentences)), key=lambda place: -near[place])[:ANSWERED]
    return " ".join(sentences[place] for place in sorted(best))


def run(path: Path, folder: Path) -> None:
    """Run one notebook from top to bottom in a folder, and keep what it put out."""
    book = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(book, timeout=1200, resources={"metadata": {"path": str(folder)}}).execute()
    for cell in _code(book):
        cell.metadata.pop("execution", None)  # times of day
        for output in cell.outputs:
            for data in (output.get("data", {}), output):
                for kind in ("text/html", "text/plain", "text"):
                    if isinstance(data.get(kind), str):
                        data[kind] = data[kind].replace(str(folder), HOME)
    nbformat.write(book, path)


def _code(book: Any) -> Iterator[Any]:
    yield from (cell for cell in book.cells if cell.cell_type == "code")


def main(names: Sequence[str]) -> None:
    """Run the notebooks that are named, or all."""
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    os.environ["KOBOLD_READER_URL"] = f"http://127.0.0.1:{PORT}"
    with KoboldSimulator(brain=LookingBrain(), model_name=MODEL, port=PORT):
        for path in [Path(name) for name in names] or sorted((ROOT / "notebooks").glob("*.ipynb")):
            with tempfile.TemporaryDirectory() as folder:
                run(path, Path(folder).resolve())
            print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
