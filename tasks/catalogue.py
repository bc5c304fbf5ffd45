"""Maintain the translation catalogues: collect marked texts, list those that lack a translation."""

from pathlib import Path

from babel.messages import Catalog
from babel.messages.extract import extract_from_dir
from babel.messages.pofile import write_po

from harness.files import whole_file
from tasks.language import LOCALES, SOURCE, languages, read_catalogue

ROOT = Path(__file__).parent.parent
FOLDERS = ("tasks", "survey_app")
METHODS = [("**.py", "python"), ("templates/**.html", "jinja2.ext:babel_extract")]
MARKS = ("words", "N_")


def marked_texts() -> list[str]:
    """Return all texts marked in the code and lines of the built-in Markdown texts, sorted."""
    texts: set[str] = set()
    for folder in FOLDERS:
        marked = extract_from_dir(ROOT / folder, METHODS, keywords=dict.fromkeys(MARKS))
        texts.update(str(text) for _, _, text, *_ in marked)
    for path in (ROOT / "tasks/texts").glob("*.md"):
        texts.update(filter(None, path.read_text(encoding="utf-8").splitlines()))
    return sorted(texts)


def update(language: str) -> list[str]:
    """Update a language's file to the texts of the code; return those that are not translated."""
    catalogue = read_catalogue(language)
    catalogue.locale = language
    template = Catalog(creation_date=catalogue.creation_date)
    for text in marked_texts():
        template.add(text)
    catalogue.update(template, no_fuzzy_matching=True)
    catalogue.obsolete.clear()
    with whole_file(LOCALES / f"{language}.po") as temporary, temporary.open("wb") as file:
        write_po(file, catalogue, width=100, sort_output=True, no_location=True)
    return [str(m.id) for m in catalogue if m.id and (not m.string or m.fuzzy)]


if __name__ == "__main__":
    for language in languages():
        if language != SOURCE:
            for text in update(language):
                print(f"{language}.po lacks {text!r}")
