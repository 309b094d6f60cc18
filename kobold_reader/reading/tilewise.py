"""A page that was cut: its tiles are read one after another, and what they say is joined."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from kobold_reader.errors import ServerError, TranscriptionError
from kobold_reader.reading.asking import Asking, ask
from kobold_reader.reading.engine import PageJob
from kobold_reader.reading.joining import join_readings
from kobold_reader.reading.results import Reading

__all__ = ["read_tiles"]


def read_tiles(asking: Asking, instruction: str, finished: dict[int, Reading]) -> Reading:
    """Read a page's tiles one after another, and join what they say.

    Args:
        asking: Server, family and page.
        instruction: What the user's turn says.
        finished: Tiles that were read before a server was lost, by number; what is read here is added.

    Raises:
        KoboldReaderError: As `ask` says, naming the tile: a page of which a part is missing is not read.
    """
    tiles = asking.job.images.tiles
    for number, tile in enumerate(tiles):
        before = finished.get(number)
        if before is not None and (before.model, before.family) == (asking.info.model, asking.family.name):
            continue  # one text is by one model
        job = replace(asking.job, on_progress=_counting_on(asking.job, finished, number))
        try:
            finished[number] = ask(replace(asking, job=job), "ocr", instruction, tile)
        except (TranscriptionError, ServerError) as err:
            err.message = f"part {number + 1} of {len(tiles)} of the page: {err.message}"
            raise
    return join_readings(tiles, [finished[number] for number in range(len(tiles))])


def _counting_on(job: PageJob, finished: Mapping[int, Reading], number: int) -> Callable[[str, int], None] | None:
    """Progress that does not fall back to nothing with each tile."""
    on_progress = job.on_progress
    if on_progress is None:
        return None
    read = sum(len(finished[tile].text) for tile in range(number) if tile in finished)
    return lambda task, characters: on_progress(task, read + characters)
