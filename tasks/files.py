"""A researcher's own pictures: named in a text, checked and copied when the study is built."""

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from html import escape
from pathlib import Path
from urllib.parse import unquote

from markdown_it import MarkdownIt
from markupsafe import Markup
from PIL import Image, UnidentifiedImageError

#: Formats that every browser shows, and how their files end.
FORMATS = {"PNG": ".png", "JPEG": ".jpg", "GIF": ".gif", "WEBP": ".webp"}
LARGEST = 4_000_000  # bytes: participants wait for it


@dataclass(frozen=True)
class OwnPicture:
    """A picture, named by a hash of its content."""

    name: str
    data: bytes


def content_name(data: bytes, suffix: str = ".jpg") -> str:
    """Return a file name that consists of a hash of the content and the format."""
    return hashlib.sha256(data).hexdigest()[:32] + suffix


def _render_picture(renderer, tokens, index, options, env) -> str:
    """Render a researcher's picture from its file, or its description if it is not one."""
    token = tokens[index]
    file = env["files"].get(token.attrGet("src"))
    if file is None:
        return escape(token.content)
    token.attrSet("src", f"{env['folder']}/{file}")
    return renderer.image(tokens, index, options, env)


def _render_link(renderer, tokens, index, options, env) -> str:
    """Render a link that opens beside the page: a platform's frame may not show other sites."""
    tokens[index].attrSet("target", "_blank")
    return renderer.renderToken(tokens, index, options, env)


_MARKDOWN = MarkdownIt("commonmark", {"html": False})
_MARKDOWN.add_render_rule("image", _render_picture)
_MARKDOWN.add_render_rule("link_open", _render_link)


def render_markdown(
    text: str, folder: str = "", files: Mapping[str, str] | None = None, inline: bool = False
) -> Markup:
    """Render a researcher's Markdown as HTML; raw HTML in it is escaped.

    Args:
        text: the Markdown. folder: where pictures are kept. files: picture as named in the text ->
            its file there. inline: without paragraphs.
    """
    return _render(text, folder, tuple((files or {}).items()), inline)


@lru_cache(maxsize=4096)  # each page shows texts of the study that others have shown
def _render(text: str, folder: str, files: tuple[tuple[str, str], ...], inline: bool) -> Markup:
    render = _MARKDOWN.renderInline if inline else _MARKDOWN.render
    return Markup(render(text, {"files": dict(files), "folder": folder}))


def picture_names(markdown: str) -> list[str]:
    """Return the pictures that a Markdown text names, in order, each once."""
    tokens = [child for t in MarkdownIt().parse(markdown) for child in t.children or ()]
    sources = [str(token.attrGet("src")) for token in tokens if token.type == "image"]
    return list(dict.fromkeys(sources))


def read_picture(source: str, folder: Path, where: str) -> OwnPicture:
    """Read and check a researcher's picture.

    Args:
        source: as it is named. folder: which relative names begin at. where: that names it.

    Raises:
        ValueError: an address instead of a file, no such file, not a picture that browsers show, or
            one that is too large.
    """
    rule = f"name a {', '.join(suffix[1:].upper() for suffix in FORMATS.values())} file beside it"
    if "://" in source or source.startswith(("//", "data:")):
        raise ValueError(
            f"{where}: picture {source[:80]!r} is an address: another server would learn who takes "
            f"part, and could change the study; {rule}"
        )
    path = folder / unquote(source)
    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            kind = str(image.format)
            image.load()  # all of it: what was cut off would be shown grey
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        system_reason = isinstance(error, OSError) and error.strerror  # none of what Pillow raises
        unidentified = isinstance(error, UnidentifiedImageError)
        reason = "not a picture" if unidentified else system_reason or str(error)
        raise ValueError(f"{where}: picture {path} cannot be read ({reason}); {rule}") from error
    if kind not in FORMATS:
        raise ValueError(
            f"{where}: picture {path} is {kind}, which not every browser shows; {rule}"
        )
    if len(data) > LARGEST:
        raise ValueError(
            f"{where}: picture {path} has {len(data)} bytes; at most {LARGEST} are allowed, as "
            f"participants wait for it: save it smaller"
        )
    return OwnPicture(content_name(data, FORMATS[kind]), data)
