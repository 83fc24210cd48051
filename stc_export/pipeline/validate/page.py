"""A page of sections as one HTML file that needs nothing else: no script, no file, no network."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

_TEMPLATE = "page.html.jinja"


@dataclass(frozen=True)
class Table:
    """Rows of text.

    Attributes:
        header: Names of the columns.
        rows: One text per column.
        numbers: Columns that are aligned at the right.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: tuple[int, ...] = ()


@dataclass(frozen=True)
class Picture:
    """A picture with what it shows.

    Attributes:
        caption: What is shown.
        png: The PNG file.
    """

    caption: str
    png: bytes

    @property
    def address(self) -> str:
        """The picture itself as an address."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode("ascii")


@dataclass(frozen=True)
class Section:
    """A part of the page; what is empty is left out.

    Attributes:
        title: Heading.
        paragraphs: Text at the beginning.
        tables: Then these.
        pictures: And these.
    """

    title: str
    paragraphs: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()


def render_page(title: str, sections: Sequence[Section]) -> str:
    """Return the page; whatever comes from names and machines is escaped.

    Args:
        title: Heading of the page.
        sections: Its parts, in order.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("stc_export.pipeline.validate", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(_TEMPLATE).render(title=title, sections=sections)
