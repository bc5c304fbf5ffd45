"""Settings of recruitment: recruitment.toml, beside the frozen study.

They are not part of the study's hash, which covers what participants see and how responses are
analysed: places are added and codes are changed while a study runs, and all responses belong to one
study.
"""

from __future__ import annotations

import json
import re
import secrets
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field, field_validator, model_validator

from harness.files import write_text
from harness.section import DISTINCT, Section

Platform = Literal["prolific", "mturk", "open"]
PLATFORMS: tuple[Platform, ...] = get_args(Platform)
FILE = "recruitment.toml"
LONGEST_LEASE = 100_000  # minutes
MOST_PLACES = 100_000
#: Codes that stand in examples: whoever has read one could claim to have taken part.
PUBLIC_CODES = ("COMPLETED", "SCREENED-OUT", "COMPLETED-A")
_ALPHABET = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"  # nothing that is read as something else


#: A code that the platforms accept and that an address contains without escapes.
Code = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{0,64}$")]


#: A platform's own id of a study.
StudyId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class Codes(Section):
    """The completion codes with which participants return to the platform; drawn at random if
    empty.

    Attributes:
        completed: all trials answered.
        attention: all trials answered, but attention trials failed.
        screened_out: ended by the study (practice not passed, earlier participation).
        declined: no consent.
        withdrawn: ended by the participant.
        full: no place was free, or the study was paused or closed.
        expired: the place was given to another participant.
    """

    completed: Code = ""
    attention: Code = ""
    screened_out: Code = ""
    declined: Code = ""
    withdrawn: Code = ""
    full: Code = ""
    expired: Code = ""

    @model_validator(mode="after")
    def _check_distinct(self) -> Codes:
        codes = [code for code in self.model_dump().values() if code]
        if len(codes) != len(set(codes)):
            raise ValueError("two ways to leave have the same code; give each its own")
        return self

    def with_random_codes(self) -> Codes:
        """Return these codes, with random ones where none was chosen."""
        return self.model_copy(
            update={
                name: "".join(secrets.choice(_ALPHABET) for _ in range(8))
                for name, code in self
                if not code
            }
        )


class Entry(Section):
    """Which participants are admitted.

    Attributes:
        platforms: where participants come from; links of other kinds are refused.
        studies: the platform's own ids of this study (STUDY_ID, hitId); any where empty.
        ids: regular expression of the platform's ids of people; the platform's own form by default.
        signed: only links that Prolific has signed (its secured URLs).
        audience: the domain that signed links are made for, e.g. "survey.example.org".
    """

    platforms: Annotated[tuple[Platform, ...], DISTINCT] = Field(default=("open",), min_length=1)
    studies: Annotated[tuple[StudyId, ...], DISTINCT] = ()
    ids: str = ""
    signed: bool = False
    audience: str = Field(default="", pattern=r"^[A-Za-z0-9.-]*(:\d+)?$")
    codes: Codes = Codes()

    @field_validator("ids")
    @classmethod
    def _check_pattern(cls, ids: str) -> str:
        try:
            re.compile(ids)
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        return ids

    @model_validator(mode="after")
    def _check_signed(self) -> Entry:
        if self.signed and (self.platforms != ("prolific",) or not self.audience):
            raise ValueError(
                'signed = true needs platforms = ["prolific"], which alone signs links, and '
                "audience, the domain of the survey"
            )
        return self


class Recruitment(Entry):
    """The contents of recruitment.toml.

    Attributes:
        places: with how many the study begins; `conceptevo study places` adds more.
        lease_minutes: so long after a response, a place may be given to the next participant.
    """

    places: int = Field(default=260, ge=1, le=MOST_PLACES)
    lease_minutes: float = Field(default=60, ge=1, le=LONGEST_LEASE)


_TEXT = """\
# Recruitment and completion codes. Not part of the study's hash: this file may be changed while
# the study runs; then restart the survey. Changes are logged.

places = {places}     # to begin with; afterwards: conceptevo study places STUDY +40
lease_minutes = {lease_minutes}     # this long after a response, others may get the place
platforms = {platforms}     # prolific, mturk, open; links of other kinds are refused
studies = {studies}     # the platform's own ids of this study (STUDY_ID, hitId); any if empty
ids = {ids}     # regular expression for ids (of A-Z a-z 0-9 _ -); the platform's own if empty
signed = {signed}     # only links signed by Prolific (its secured links)
audience = {audience}     # for signed links: this survey's domain

# Completion codes, with which participants return to the platform. Register each there.
[codes]
{codes}
"""


def write_recruitment(folder: Path, recruitment: Recruitment) -> None:
    values = recruitment.model_dump(mode="json", exclude={"codes"})
    lines = [f"{name} = {json.dumps(code)}" for name, code in recruitment.codes]
    texts = {name: json.dumps(value, ensure_ascii=False) for name, value in values.items()}
    write_text(folder / FILE, _TEXT.format(**texts, codes="\n".join(lines)))


def load_recruitment(folder: Path) -> Recruitment:
    """Read the settings beside a study; the defaults if there are none, as in a published study.

    Raises:
        ValueError: unreadable, naming the parameter, its value and what is allowed.
    """
    path = folder / FILE
    return Recruitment.read(path, "settings") if path.exists() else Recruitment()
