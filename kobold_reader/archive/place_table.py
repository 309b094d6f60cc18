"""Which paths were read, which files lie there, and where each content lies."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from kobold_reader.archive.catalog_file import CatalogFile
from kobold_reader.archive.rows import PLACE_COLUMNS, Place, to_json, to_place

__all__ = ["PlaceTable"]


class PlaceTable(CatalogFile):
    """The tables `roots` and `places`."""

    def roots(self) -> dict[str, dict[str, Any]]:
        """Return the paths of past runs with the settings they were read with."""
        with self._guard("read"):
            rows = self.db.execute("SELECT path, settings FROM roots ORDER BY path").fetchall()
        return {path: json.loads(settings) for path, settings in rows}

    def remember_root(self, path: str, settings: Mapping[str, Any]) -> None:
        """Remember a path and the settings it is read with."""
        with self.transaction() as db:
            db.execute("INSERT OR REPLACE INTO roots VALUES (?, ?)", (path, to_json(settings)))

    def forget_root(self, path: str) -> None:
        """Forget that this path was ever read."""
        with self.transaction("forget") as db:
            db.execute("DELETE FROM roots WHERE path = ?", (path,))

    def places(self) -> dict[str, Place]:
        """Return all places by URI, in the order in which they came."""
        with self._guard("read"):
            rows = self.db.execute(f"SELECT {PLACE_COLUMNS} FROM places ORDER BY id").fetchall()  # noqa: S608
        return {row[0]: to_place(row) for row in rows}

    def put_place(self, place: Place) -> None:
        """Record where a content lies; a place keeps its rank among the places of its content."""
        with self.transaction() as db:
            db.execute(
                f"INSERT INTO places ({PLACE_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?) "  # noqa: S608
                "ON CONFLICT (uri) DO UPDATE SET sha256 = excluded.sha256, metadata = excluded.metadata, "
                "is_missing = excluded.is_missing, error = excluded.error, former_sha256 = excluded.former_sha256, "
                "settled = ''",
                (
                    place.uri,
                    place.sha256,
                    to_json(place.metadata),
                    place.is_missing,
                    place.error,
                    place.former_sha256,
                ),
            )

    def mark_missing(self, uris: Iterable[str]) -> None:
        """Mark places as missing; they are still found."""
        with self.transaction() as db:
            db.executemany("UPDATE places SET is_missing = 1, settled = '' WHERE uri = ?", [(uri,) for uri in uris])
            self._next_generation(db)

    def stamps(self) -> dict[str, str]:
        """Return the stamps of the files of which nothing is left to do, by URI."""
        with self._guard("read"):
            return dict(self.db.execute("SELECT uri, settled FROM places WHERE settled != ''").fetchall())

    def put_stamps(self, stamps: Mapping[str, str]) -> None:
        """Stamp files; whatever is recorded of their place takes the stamp away."""
        with self.transaction() as db:
            db.executemany("UPDATE places SET settled = ? WHERE uri = ?", [(text, uri) for uri, text in stamps.items()])

    def remove_places(self, uris: Iterable[str]) -> None:
        """Remove places; pages whose last place went are orphans from then on."""
        with self.transaction() as db:
            db.executemany("DELETE FROM places WHERE uri = ?", [(uri,) for uri in uris])

    def first_place(self, sha256: str) -> Place | None:
        """Return the place by which a content is shown: the oldest that is not missing, else the oldest."""
        with self._guard("read"):
            row = self.db.execute(
                f"SELECT {PLACE_COLUMNS} FROM places WHERE sha256 = ? ORDER BY is_missing, id LIMIT 1",  # noqa: S608
                (sha256,),
            ).fetchone()
        return to_place(row) if row else None

    def places_of(self, sha256: str) -> list[Place]:
        """Return the places of a content, that by which it is shown first."""
        with self._guard("read"):
            rows = self.db.execute(
                f"SELECT {PLACE_COLUMNS} FROM places WHERE sha256 = ? ORDER BY is_missing, id",  # noqa: S608
                (sha256,),
            ).fetchall()
        return [to_place(row) for row in rows]
