"""Read the files of a study when it is built: texts, the pictures in them, the questions."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.section import read_text
from tasks.files import OwnPicture, picture_names, read_picture
from tasks.language import Words
from tasks.questionnaire import BUILT_IN, Questionnaire
from tasks.questionnaire_file import read_questionnaire
from tasks.settings import TEXTS, StudySettings


@dataclass(frozen=True)
class StudyTexts:
    """The texts by name, and the pictures that they name."""

    texts: dict[str, str]
    pictures: dict[str, dict[str, OwnPicture]]


def read_texts(settings: StudySettings, values: Mapping[str, object]) -> StudyTexts:
    """Read all texts and insert `values` at the names in braces, such as {minutes}.

    Raises:
        ValueError: a file is missing, or a picture cannot be shown; the message names it.
    """
    words = Words(settings.language)
    texts, pictures = {}, {}
    for part in ("consent", "instructions", "debrief"):
        path = getattr(settings.texts, part)
        texts[part] = _load_text(part, path, words)
        for name, value in values.items():
            texts[part] = texts[part].replace(f"{{{name}}}", str(value))
        if path and (unknown := re.search(r"\{\w+\}", texts[part])):
            raise ValueError(
                f"texts.{part}: {path} contains {unknown[0]}, which participants would read as it "
                f"stands; inserted are {', '.join(f'{{{name}}}' for name in values)} (for a brace "
                f"itself, write &#123;)"
            )
        pictures[part] = {
            source: read_picture(source, Path(path).parent, path)
            for source in picture_names(texts[part])
        }
    return StudyTexts(texts, pictures)


def read_questions(settings: StudySettings) -> Questionnaire:
    """Return the researcher's questions, or the built-in ones translated.

    Raises:
        ValueError: as `read_questionnaire`, or a file is named although no questions are asked.
    """
    words, path = Words(settings.language), settings.texts.questionnaire
    if not settings.questions and path:
        raise ValueError(
            f"questions = false, but texts.questionnaire names {path}: leave one of the two out"
        )
    if not settings.questions:
        return Questionnaire()
    if path:
        return read_questionnaire(Path(path), words, settings.seed)
    return Questionnaire(tuple(q.translate(words) for q in BUILT_IN))


def _load_text(name: str, path: str, words: Words) -> str:
    """Return a Markdown text: the researcher's file unchanged, or the built-in one translated."""
    if not path:
        return words.markdown((TEXTS / f"{name}.md").read_text(encoding="utf-8"))
    content = read_text(Path(path), f"texts.{name}:")
    if not content.strip():
        raise ValueError(f"texts.{name}: {path} is empty; participants would see an empty page")
    return content
