"""The texts that participants read, in the language of the study, from one catalogue.

English texts are marked in the code: `words("…")` where a text is shown, `N_("…")` where it is kept
for later. `locale/<language>.po` holds the translations; `python -m tasks.catalogue` brings them up
to date after a text was added or changed.
"""

from __future__ import annotations

from functools import cache, cached_property
from io import StringIO
from pathlib import Path
from string import Formatter
from typing import Literal

from babel import Locale, UnknownLocaleError
from babel.messages import Catalog, Message
from babel.messages.pofile import PoFileError, PoFileParser
from babel.numbers import format_decimal, get_decimal_symbol
from babel.units import format_unit

from harness.section import read_text

LOCALES = Path(__file__).parent / "locale"
SOURCE = "en"


def N_(text: str) -> str:
    """Mark a text for the catalogue without translating it yet."""
    return text


def languages() -> tuple[str, ...]:
    return tuple(sorted({SOURCE, *(file.stem for file in LOCALES.glob("*.po"))}))


class Words:
    """Texts in one language; a text that is not in the catalogue (a researcher's own) is not
    changed.

    Raises:
        ValueError: a language without a catalogue, or a catalogue that cannot be used.
    """

    def __init__(self, language: str = SOURCE) -> None:
        if language not in languages():
            raise ValueError(
                f"there is no catalogue of language {language!r}; "
                f"choose one of {', '.join(languages())}, or add {LOCALES / language}.po"
            )
        self.language = language
        try:
            self._locale = Locale.parse(language.replace("-", "_"))
        except (UnknownLocaleError, ValueError) as error:  # ValueError: it is no code at all
            raise ValueError(
                f"language = {language!r}: Unicode's CLDR has no such language; name the catalogue "
                f"by a code that it has, such as fr or pt_BR"
            ) from error
        self.tag = language.replace("_", "-")  # as HTML has it
        self.direction = self._locale.text_direction
        self.name = self._locale.display_name or language  # none where Babel has no name for it
        self.decimal_mark = get_decimal_symbol(self._locale)
        self._texts = _translations(language)

    def __call__(self, text: str, **values: object) -> str:
        translation = self._texts.get(text, text)
        return translation.format(**values) if values else translation

    def duration(self, number: float, unit: Literal["minute", "second"]) -> str:
        """Return a duration with its unit in the form that the number requires: 1 minute, 2,5
        Minuten."""
        return format_unit(number, f"duration-{unit}", locale=self._locale)

    def number(self, number: float) -> str:
        """Return a number with the language's decimal mark, and no marks between thousands."""
        return format_decimal(
            number, locale=self._locale, group_separator=False, decimal_quantization=False
        )

    def markdown(self, text: str) -> str:
        """Translate a built-in Markdown text line by line."""
        return "\n".join(self(line) for line in text.splitlines())

    def translate_into(self, other: Words, text: str) -> str:
        """Translate a text of this language; what is not in the catalogue is not changed."""
        return "\n".join(other(self._sources.get(line, line)) for line in text.splitlines())

    def untranslated(self) -> list[str]:
        """Return the texts that another language has and this one lacks, which stay English."""
        if self.language == SOURCE:
            return []
        return sorted(set().union(*map(_translations, languages())) - self._texts.keys())

    @cached_property
    def _sources(self) -> dict[str, str]:
        return {translation: source for source, translation in self._texts.items()}


class Refusal(ValueError):
    """The message to a participant whose address or answer cannot be used.

    Args:
        text: of the catalogue.
        values: of the names in braces: texts of the catalogue or of the researcher, or numbers.
    """

    def __init__(self, text: str, **values: str | float) -> None:
        self.text, self.values = text, values
        super().__init__(self.message(Words(SOURCE)))

    def message(self, words: Words) -> str:
        values = {
            name: words(value) if isinstance(value, str) else words.number(value)
            for name, value in self.values.items()
        }
        return words(self.text, **values)


class _DistinctCatalogue(Catalog):
    """A catalogue that refuses a second translation of a text; Babel ignores it."""

    def __setitem__(self, id, message: Message) -> None:
        if id in self:
            text = f"{id!r} has two translations, the second"
            raise PoFileError(text, self, "", message.lineno or 0)
        super().__setitem__(id, message)


def read_catalogue(language: str) -> Catalog:
    """Return the stored catalogue of a language.

    Raises:
        ValueError: it is not in UTF-8, not in the format of .po files, or has a text twice.
    """
    path = LOCALES / f"{language}.po"
    catalogue = _DistinctCatalogue()
    try:
        PoFileParser(catalogue, abort_invalid=True).parse(StringIO(read_text(path, "catalogue")))
        return catalogue
    except PoFileError as error:
        raise ValueError(f"catalogue {path} cannot be read: {error}") from error


@cache
def _translations(language: str) -> dict[str, str]:
    if language == SOURCE:
        return {}
    catalogue = read_catalogue(language)
    if unusable := [m for m in catalogue if m.id and (m.pluralizable or m.context)]:
        raise ValueError(
            f"{LOCALES / language}.po: {unusable[0].id!r} has msgid_plural or msgctxt, which are "
            f"not used; translate the texts that `python -m tasks.catalogue` collects"
        )
    translated = (m for m in catalogue if m.id and str(m.string).strip() and not m.fuzzy)
    texts = {str(m.id): str(m.string) for m in translated}
    for text, translation in texts.items():
        if _names(text) != _names(translation):
            raise ValueError(
                f"{LOCALES / language}.po: in the translation {translation!r}, the names in braces "
                f"must be those of {text!r}"
            )
    return texts


def _names(text: str) -> set[tuple[str | None, ...]]:
    """Return the contents of the braces (name, format, conversion), or the text itself if its
    braces do not match."""
    try:
        return {tuple(parts) for _, *parts in Formatter().parse(text) if parts[0] is not None}
    except ValueError:
        return {(text,)}
