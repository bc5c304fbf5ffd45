"""Pieces of pages as HTML: headings, pictures, fields, questions. Text is escaped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from typing import Any

from markdown_it import MarkdownIt

from tasks.base import TEXT_LIMIT, Field
from tasks.questionnaire import Question

IMAGES = "img"  # relative to the page, so that any path prefix works
_DIGITS = "1234567890"


def _own_picture(renderer, tokens, index, options, env) -> str:
    """A picture of the researcher's, from where it is kept; of one that is not, its description."""
    token = tokens[index]
    kept = env.get("files", {}).get(token.attrGet("src"))
    if kept is None:
        return escape(token.content)
    token.attrSet("src", f"{IMAGES}/{kept}")
    return renderer.image(tokens, index, options, env)


_MARKDOWN = MarkdownIt("commonmark", {"html": False})
_MARKDOWN.add_render_rule("image", _own_picture)


def markdown(text: str, files: Mapping[str, str] | None = None) -> str:
    """A researcher's text; `files` says where the pictures that it names are kept."""
    return _MARKDOWN.render(text, {"files": files or {}})


def inline(text: str) -> str:
    return _MARKDOWN.renderInline(text)


class Keys:
    """The number keys of one page: each belongs to one answer, which shows it."""

    def __init__(self) -> None:
        self._next = 0

    def take(self, count: int) -> list[str]:
        """The next `count` keys; none for a field that does not fit on the rest of them."""
        if self._next + count > len(_DIGITS):
            return [""] * count
        self._next += count
        return list(_DIGITS[self._next - count : self._next])


def heading(text: str) -> str:
    return f'<h1 tabindex="-1">{escape(text)}</h1>'


def paragraph(text: str, kind: str = "") -> str:
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def go_on(text: str) -> str:
    return (
        f'<div class="actions"><button class="primary" type="submit">{escape(text)}</button></div>'
    )


def image(name: str, alt: str, kind: str = "") -> str:
    """`kind` `data-stimulus`: nobody answers before it is there."""
    more = f" {kind}" if kind else ""
    return f'<img src="{IMAGES}/{escape(name)}" alt="{escape(alt)}" draggable="false"{more}>'


def stimulus(name: str, alt: str) -> str:
    return image(name, alt, "data-stimulus")


def enlarge(text: str) -> str:
    """A button that shows the picture beside it larger."""
    return (
        f'<button type="button" class="zoom" aria-label="{escape(text)}" title="{escape(text)}">'
        '<svg viewBox="0 0 16 16" aria-hidden="true"><circle cx="6.5" cy="6.5" r="4.5"/>'
        '<path d="M10 10l4.5 4.5M4.5 6.5h4M6.5 4.5v4"/></svg></button>'
    )


def badge(key: str) -> str:
    return f'<span class="key" aria-hidden="true">{key}</span>' if key else ""


def radio(name: str, value: str, key: str = "", need: str = " required") -> str:
    shortcut = f' data-key="{key}" aria-keyshortcuts="{key}"' if key else ""
    return f'<input type="radio" name="{escape(name)}" value="{escape(value)}"{need}{shortcut}>'


def choices(name: str, shown: tuple[tuple[str, str], ...], keys: Keys, need: str) -> str:
    return "".join(
        f'<label class="choice">{radio(name, value, key, need)}{badge(key)}'
        f'<span dir="auto">{escape(label)}</span></label>'
        for (value, label), key in zip(shown, keys.take(len(shown)), strict=True)
    )


def scale(f: Field, keys: Keys) -> str:
    return (
        f'<fieldset class="scale"><legend>{escape(f.label)}</legend>'
        f'<div class="row n{len(f.choices)}">{choices(f.name, f.choices, keys, " required")}</div>'
        f"</fieldset>"
    )


def text_field(f: Field) -> str:
    name = escape(f.name)
    none = (
        f'<label class="none"><input type="checkbox" data-none="{name}">'
        f"<span>{escape(f.none_label)}</span></label>"
        if f.none_label
        else ""
    )
    need = " required" if f.none_label else ""
    return (
        f'<div class="text"><label><span>{escape(f.label)}</span><input type="text" name="{name}" '
        f'maxlength="{TEXT_LIMIT}" autocomplete="off"{need}></label>{none}</div>'
    )


def question(q: Question, keys: Keys, on_page: bool) -> str:
    """One question; `on_page`: what it depends on is on the same page, which then decides."""
    need = " required" if q.required else ""
    pictured = image(q.picture, q.label) if q.picture else ""
    condition = (
        f' data-if="{escape(q.shown_if.question)}" '
        f'data-among="{escape(json.dumps(q.shown_if.answers))}"'
        if q.shown_if and on_page
        else ""
    )
    return (
        f'<fieldset class="question asks-{q.kind}"{condition}>'
        f'<legend dir="auto">{escape(q.label)}</legend>'
        f"{pictured}{_reply(q, keys, need)}</fieldset>"
    )


def _reply(q: Question, keys: Keys, need: str) -> str:
    name, label = escape(q.name), escape(q.label)
    if q.kind == "text":
        return (
            f'<input type="text" name="{name}" aria-label="{label}" maxlength="{TEXT_LIMIT}" '
            f'autocomplete="off"{need}>'
        )
    if q.kind == "number":
        least, most = q.limits
        return (
            f'<input type="number" name="{name}" aria-label="{label}" min="{least:g}" '
            f'max="{most:g}" step="any" autocomplete="off"{need}>'
        )
    if q.kind == "several":
        boxes = "".join(
            f'<label class="choice"><input type="checkbox" name="{name}" value="{escape(value)}" '
            f'data-several><span dir="auto">{escape(shown)}</span></label>'
            for value, shown in q.choices
        )
        return f'<div class="row">{boxes}</div>'
    row = f'<div class="row n{len(q.choices)}">{choices(q.name, q.choices, keys, need)}</div>'
    if not (q.low or q.high):
        return row
    return f'{row}<p class="anchors"><span>{escape(q.low)}</span><span>{escape(q.high)}</span></p>'


def code(label: str, text: str) -> str:
    return f'<p>{escape(label)} <code class="code">{escape(text)}</code></p>'


def hidden(values: Mapping[str, Any]) -> str:
    return "".join(
        f'<input type="hidden" name="{escape(name)}" value="{escape(str(value))}">'
        for name, value in values.items()
    )
