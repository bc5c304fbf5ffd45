"""Where a participant stands, as far as a page needs it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from survey_app.flow import Stage


@dataclass(frozen=True)
class Standing:
    """Of one participant, or of somebody who may not begin.

    `part` of `parts`: of the tasks in practice, or in the trials. `answers`: to questions.
    `elapsed`: seconds since the page was first served.
    """

    stage: Stage
    position: int = 0
    total: int = 0
    placed: list[dict[str, Any]] = field(default_factory=list)
    feedback: dict[str, Any] | None = None
    key: Any = None
    attempt: int = 1
    reason: str = ""
    platform: str = "open"
    identity: dict[str, Any] = field(default_factory=dict)
    code: str = ""  # with which a person leaves
    practising: bool = False
    part: int = 1
    parts: int = 1
    quiz_attempts: int = 0
    answers: dict[str, Any] = field(default_factory=dict)
    elapsed: float = 0
