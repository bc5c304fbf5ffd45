"""Values computed from one study, each once, for its tables, figures, report and release pack."""

from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from analysis.exhibits.phrases import name_parts
from analysis.statistics.claims import judge
from analysis.statistics.classes import find_bins
from analysis.study.analysed_study import AnalysedStudy, Settings, stack
from analysis.study.family import PLANNED, add_missing
from analysis.study.planned_tests import STUDY_TESTS
from analysis.study.thresholds import specifications

__all__ = ["Results", "Settings"]

#: The table of a study that plans no test.
NO_TESTS = pd.DataFrame(columns=["question", "task", "what", "value", "low", "high", "null", "p"])


@dataclass(frozen=True)
class Results(AnalysedStudy):
    """A study's responses and the values computed from them, each when it is first needed."""

    @cached_property
    def _tests(self) -> dict[str, pd.DataFrame]:
        """Return the table of each kind of question, with unadjusted tests."""
        tables = {kind: STUDY_TESTS.get(kind)(self) for kind in STUDY_TESTS}
        return {kind: table for kind, table in tables.items() if len(table)}

    @cached_property
    def claims(self) -> pd.DataFrame:
        """Return every estimate of `STUDY_TESTS` and every planned test that could not be
        computed, with p-values adjusted together (see `analysis.statistics.claims`)."""
        kinds = dict.fromkeys([*self._tests, *PLANNED])
        tables = {kind: add_missing(self, kind, self._tests.get(kind, stack([]))) for kind in kinds}
        tables = {kind: table for kind, table in tables.items() if len(table)}
        return judge(
            pd.concat(tables or {"": NO_TESTS}), self.plan.primary, self.plan.primary_share
        )

    @property
    def tests(self) -> pd.DataFrame:
        """Return the planned tests and control tests: `claims` without mere descriptions."""
        return self.claims[self.claims["question"] != ""]

    def tests_of(self, kind: str) -> pd.DataFrame:
        """Return the table of a kind of question: p (adjusted over the study), p_alone, claimed."""
        if kind not in self._tests:
            return pd.DataFrame()
        p_values = self.claims.loc[kind, ["p", "p_alone", "claimed"]]
        return self._tests[kind].drop(columns="p").join(p_values)

    @cached_property
    def specifications(self) -> pd.DataFrame:
        """Return the tests of the primary hypothesis under other exclusion rules."""
        return specifications(self)

    @cached_property
    def other_shares(self) -> dict[str, pd.DataFrame]:
        """Return other estimates of the shares correct, by method: crossed, binomial."""
        methods = {"crossed": "crossed_effects", "binomial": "exact_binomial"}
        chance = self.responses.study.chance
        return {
            name: self.by_task(self.choice_tasks, statistic, ["condition"], chance=chance)
            for name, statistic in methods.items()
        }

    @property
    def observed_trials(self) -> pd.DataFrame:
        """Return the trials with a key that the machine observer answered, one row each."""
        if self.joined_trials is None:
            return pd.DataFrame(columns=["trial", "task", "condition", "observer_correct"])
        return self.joined_trials.drop_duplicates("trial").dropna(subset=["observer_correct"])

    @property
    def bins(self) -> list[str]:
        """Return the bins by importance of the run's reversion study, most important first."""
        return [] if self.reversion is None else find_bins(list(self.reversion["arm"].unique()))

    @property
    def part(self) -> str:
        """Return the name of one of these bins; "part" without a reversion study."""
        return name_parts(len(self.bins))[0] if self.bins else "part"

    @property
    def held_out_changes(self) -> pd.DataFrame | None:
        """Return the run's changes of accuracy on held-out images, if it has any."""
        if self.reversion is None:
            return None
        table = self.reversion[self.reversion["split"] == "heldout"]
        return None if table.empty else table
