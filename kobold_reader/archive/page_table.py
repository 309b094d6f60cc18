"""What stands in an archive's catalog of its pages: by id, by file, by metadata, by content."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from kobold_reader.archive import corrections, facets
from kobold_reader.archive.catalog_file import CatalogFile
from kobold_reader.archive.rows import PAGE_COLUMNS, PageRow, to_json, to_page
from kobold_reader.archive.where import Filter

__all__ = ["ORPHANED", "PageTable"]

ORPHANED: Final = (
    "sha256 IN (SELECT sha256 FROM pages EXCEPT SELECT sha256 FROM places EXCEPT SELECT former_sha256 FROM places)"
)
"""Of a content that lies nowhere any more; told by the index of contents, without a look at any page."""


class PageTable(CatalogFile):
    """The table `pages`, read."""

    def page(self, page_id: str) -> PageRow | None:
        """Return one page."""
        return next(iter(self.pages([page_id])), None)

    def pages(self, page_ids: Sequence[str]) -> list[PageRow]:
        """Return pages by id, unknown ones left out, in the order of the ids."""
        rows = self._select("page_id IN (SELECT value FROM json_each(?))", to_json(list(page_ids)))
        found = {row.page_id: row for row in rows}
        return [found[page_id] for page_id in page_ids if page_id in found]

    def pages_of(self, sha256: str) -> list[PageRow]:
        """Return the pages of a file's content in page order."""
        return self._select("sha256 = ? ORDER BY page_number", sha256)

    def uris_of_pages(self) -> list[str]:
        """Return the URIs at which pages are shown."""
        with self._guard("read"):
            return [row[0] for row in self.db.execute("SELECT DISTINCT uri FROM pages")]

    def pages_at(self, uri: str) -> list[PageRow]:
        """Return the pages that are shown at a place, in page order."""
        return self._select("uri = ? ORDER BY sha256, page_number", uri)

    def every_page(self) -> Iterator[PageRow]:
        """Yield all pages by file and page number."""
        yield from self._select("1 ORDER BY uri, page_number")

    def unfinished(self) -> list[PageRow]:
        """Return pages whose indexing was begun and not ended, as they stand now."""
        with self._guard("read"):
            rows = self._select("indexed_as IS NULL ORDER BY sha256, page_number")
            return [corrections.as_it_stands(self.db, row) for row in rows]

    def unfinished_of(self, page_ids: Sequence[str]) -> list[PageRow]:
        """Return the unfinished pages that show the same as these."""
        rows = self.pages(page_ids)
        wanted = {row.content_sha256 for row in rows if row.content_sha256}
        return [row for row in self.unfinished() if row.content_sha256 in wanted]

    def orphans(self) -> list[PageRow]:
        """Return pages of contents that lie nowhere any more."""
        return self._select(ORPHANED)

    def shown_nowhere(self) -> list[PageRow]:
        """Return the pages that are shown as lying at a place that is known no more."""
        return self._select("uri NOT IN (SELECT uri FROM places)")

    def failed(self) -> list[PageRow]:
        """Return the pages that failed at the last try, those that keep an earlier reading too."""
        return self._select("error IS NOT NULL ORDER BY uri, page_number")

    def nodes(self) -> Iterator[tuple[str, list[str], bool]]:
        """Yield page id, node ids, and whether the page is finished, without loading any text."""
        with self._guard("read"):
            rows = self.db.execute("SELECT page_id, node_ids, indexed_as IS NOT NULL FROM pages").fetchall()
        for page_id, node_ids, is_finished in rows:
            yield page_id, json.loads(node_ids), bool(is_finished)

    def node_ids(self, numbers: Iterable[int]) -> list[str]:
        """Return the ids of all nodes that Chroma may hold of these pages."""
        found = self._column(
            "SELECT node_ids FROM pages WHERE id IN (SELECT value FROM json_each(?))", to_json(sorted(numbers))
        )
        return [node_id for ids in found for node_id in json.loads(ids)]

    def numbers(self, page_ids: Iterable[str]) -> dict[str, int]:
        """Return the numbers of pages by id, unknown ones left out."""
        with self._guard("read"):
            return dict(
                self.db.execute(
                    "SELECT page_id, id FROM pages WHERE page_id IN (SELECT value FROM json_each(?))",
                    (to_json(list(page_ids)),),
                )
            )

    def count_pages(self) -> int:
        """Count all pages."""
        with self._guard("read"):
            return int(self.db.execute("SELECT count(*) FROM pages").fetchone()[0])

    def count_by_status(self) -> dict[str, int]:
        """Count pages by status."""
        with self._guard("read"):
            return dict(self.db.execute("SELECT status, count(*) FROM pages GROUP BY status ORDER BY 1").fetchall())

    def meant(self, filter_: Filter) -> set[int] | None:
        """Return the numbers of the pages that a filter means; None: all."""
        with self._guard("read"):
            return facets.meant(self.db, filter_)

    def metadata_keys(self) -> set[str]:
        """Return the keys that any page has."""
        with self._guard("read"):
            return facets.keys(self.db)

    def metadata_values(self, key: str) -> list[str]:
        """Return the different values of one key, as text."""
        with self._guard("read"):
            return [str(value) for value in facets.values(self.db, key)]

    def values_of_pages(self, key: str) -> list[tuple[str, Any]]:
        """Return the id of each page that has this key in its metadata, with the value."""
        with self._guard("read"):
            numbered = list(facets.pages_by_value(self.db, key))
            ids = dict(
                self.db.execute(
                    "SELECT id, page_id FROM pages WHERE id IN (SELECT value FROM json_each(?))",
                    (to_json([number for _, number in numbered]),),
                )
            )
        return [(ids[number], value) for value, number in numbered]

    def with_contents_of(self, page_ids: Sequence[str]) -> list[str]:
        """Return the ids of all pages that hold, byte for byte, what one of these holds."""
        return self._column(
            "SELECT page_id FROM pages WHERE content_sha256 IN "
            "(SELECT content_sha256 FROM pages WHERE page_id IN (SELECT value FROM json_each(?)) "
            "AND content_sha256 != '')",
            to_json(list(page_ids)),
        )

    def equal_contents(self) -> list[list[str]]:
        """Return the ids of pages that hold the same byte for byte, in lists of two and more."""
        found = self._column(
            "SELECT json_group_array(page_id) FROM pages WHERE content_sha256 != '' "
            "GROUP BY content_sha256 HAVING count(*) > 1"
        )
        return [json.loads(ids) for ids in found]

    def copied(self) -> list[str]:
        """Return the id of the first page of every content that lies in several places."""
        return self._column(
            "SELECT page_id FROM pages JOIN (SELECT sha256, min(page_number) AS page_number FROM pages "
            "WHERE sha256 IN (SELECT sha256 FROM places WHERE sha256 != '' GROUP BY sha256 HAVING count(*) > 1) "
            "GROUP BY sha256) USING (sha256, page_number)"
        )

    def correction(self, content_sha256: str) -> corrections.Correction | None:
        """Return the correction of a page's content."""
        with self._guard("read"):
            return corrections.find(self.db, content_sha256)

    def count_corrections(self) -> int:
        """Count the contents that were corrected."""
        with self._guard("read"):
            return corrections.count(self.db)

    def as_it_stands(self, row: PageRow) -> PageRow:
        """Return a page with its correction, if there is one now, else as it was read."""
        with self._guard("read"):
            return corrections.as_it_stands(self.db, row)

    def _select(self, where: str, *values: object) -> list[PageRow]:
        with self._guard("read"):
            rows = self.db.execute(f"SELECT {PAGE_COLUMNS} FROM pages WHERE {where}", values).fetchall()  # noqa: S608
        return [to_page(row) for row in rows]
