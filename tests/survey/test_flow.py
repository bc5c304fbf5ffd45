"""The state machine: every path ends, no step is lost, nothing leads backwards."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from survey_app import flow
from survey_app.flow import Course, Progress, Stage

FIRST = (Stage.BEFORE, Stage.INSTRUCTIONS, Stage.QUIZ)
courses = st.builds(
    Course,
    practice=st.integers(0, 4),
    practice_pass=st.sampled_from([0.0, 0.5, 1.0]),
    keyed=st.just(0),
    trials=st.integers(0, 6),
    questions=st.booleans(),
    practice_begins=st.sampled_from([(0,), (0, 1)]),
    begins=st.sampled_from([(0,), (0, 2, 3)]),
    first_pages=st.sampled_from([FIRST, FIRST[:2], FIRST[1:2], FIRST[1:]]),
)


def step(progress: Progress, course: Course, right: bool) -> Progress:
    match flow.stage(progress, course):
        case Stage.CONSENT:
            return flow.consent(progress)
        case Stage.INTRODUCTION:
            return flow.introduce(progress, course)
        case Stage.BEFORE | Stage.INSTRUCTIONS | Stage.QUIZ:
            return flow.turn_page(progress, course)
        case Stage.PRACTICE:
            return flow.practise(progress, right)
        case Stage.FEEDBACK:
            return flow.acknowledge(progress, course)
        case Stage.TRIAL:
            return flow.answer(progress, course)
    return flow.end(progress, "finished")


@given(courses, st.lists(st.booleans(), min_size=0, max_size=12))
def test_everyone_who_learns_arrives(course, first):
    """Wrong practice answers repeat the practice; right ones from some point on always lead out."""
    course = replace(
        course,
        keyed=course.practice,
        questions=True,
        practice_begins=tuple(b for b in course.practice_begins if b < course.practice),
        begins=tuple(b for b in course.begins if b < course.trials),
    )
    progress, answers, steps, seen = Progress(), iter(first), 0, []
    while (stage := flow.stage(progress, course)) not in flow.ENDS:
        seen.append(stage)
        after = step(progress, course, next(answers, True))
        assert after.version == progress.version + 1
        assert after.done >= progress.done
        progress, steps = after, steps + 1
        assert steps < 100
    assert progress.status == "finished"
    assert progress.done == course.trials
    assert seen.count(Stage.TRIAL) == course.trials and seen.count(Stage.QUESTIONS) == 1
    begun = sum(b < course.trials for b in course.begins)
    practised = sum(b < course.practice for b in course.practice_begins)
    assert seen.count(Stage.INTRODUCTION) == begun + practised
    order = [s for s in seen if s not in (Stage.FEEDBACK, Stage.PRACTICE, Stage.INTRODUCTION)]
    assert order == sorted(order, key=list(Stage).index)


def test_practice_is_repeated_until_passed():
    course = Course(practice=2, practice_pass=0.5, keyed=2, trials=1, questions=False)
    progress = flow.turn_page(flow.consent(Progress()), course)
    for right in (False, False, True, False):
        progress = flow.acknowledge(flow.practise(progress, right), course)
    assert (progress.status, progress.practice_attempts) == ("active", 2)
    assert not progress.feedback
    assert flow.answer(progress, course).status == "finished"


def test_after_a_failed_quiz_the_instructions_are_read_again():
    course, progress = Course(0, 0.5, 0, 1, first_pages=FIRST), flow.consent(Progress())
    for _ in FIRST[1:]:
        progress = flow.turn_page(progress, course)
    assert flow.stage(progress, course) is Stage.QUIZ
    again = flow.read_again(progress, course)
    assert flow.stage(again, course) is Stage.INSTRUCTIONS
    assert (again.quiz_attempts, again.version) == (1, progress.version + 1)


def test_a_share_of_practice_trials_is_passed_exactly():
    for correct, status in ((11, "active"), (10, "practising")):
        course = Course(practice=20, practice_pass=0.55, keyed=20, trials=1)
        progress = Progress("practising", practice_done=20, practice_right=correct, feedback=True)
        assert flow.acknowledge(progress, course).status == status
