"""Write Markdown as PDF, by markdown-it-py and fpdf2 (the extra `pdf`)."""

from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

import matplotlib
from markdown_it import MarkdownIt

from harness.files import whole_file

#: The date of creation in the file; it is fixed so that equal documents have equal bytes.
DATE = datetime(1980, 1, 1, tzinfo=UTC)
FACES = {"": "DejaVuSans", "B": "DejaVuSans-Bold", "I": "DejaVuSans-Oblique",
         "BI": "DejaVuSans-BoldOblique"}  # fmt: skip


def can_write_pdf() -> bool:
    """Return whether fpdf2 is installed."""
    return find_spec("fpdf") is not None


def write_pdf(path: Path, markdown: str) -> None:
    """Write a document with headings, paragraphs, lists, tables and pictures.

    Args:
        markdown: the text; paths of pictures are relative to the folder of `path`.
    """
    from fpdf import FPDF
    from fpdf.fonts import FontFace, TextStyle

    page = FPDF(format="A4")
    page.set_creation_date(DATE)
    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    for style, file in FACES.items():
        page.add_font("DejaVu", style, fonts / f"{file}.ttf")
    page.add_page()
    page.set_font("DejaVu", size=9)
    html = MarkdownIt().enable("table").render(markdown)
    html = html.replace('<img src="', f'<img width="480" src="{path.parent}/')
    heading = {
        f"h{level}": TextStyle("DejaVu", "B", size, t_margin=4, b_margin=1)
        for level, size in ((1, 15), (2, 12), (3, 10))
    }
    code = {"code": FontFace("DejaVu")}
    page.write_html(html, tag_styles={**heading, **code}, table_line_separators=True)
    with whole_file(path) as temporary:
        page.output(str(temporary))
