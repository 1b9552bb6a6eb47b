"""Who is asked what, in which order and on which side."""

from collections import Counter

from b4m.apps.vote.ballot import ballot, sides
from b4m.apps.vote.questions import CHECK, Option, Question, Study


def study(questions: int = 10, votes: int = 4, checks: int = 1, key: str = "key") -> Study:
    def one(name: str, asked: str, number: int) -> Question:
        options = tuple(Option(method, (method,)) for method in ("ours", "one", "two"))
        right = "ours" if asked == CHECK else None
        return Question(f"{name}-{asked}-{number}", name, asked, "pair", "", ("c",), ("s",), options, right)

    every = [one(name, name, i) for name in ("success", "consistency") for i in range(questions)]
    every += [one(name, CHECK, i) for name in ("success", "consistency") for i in range(3)]
    return Study("t", "c", key, "ours", ("ours", "one", "two"), votes, checks, tuple(every), {})


def test_every_question_is_asked_as_often_as_any_other():
    asked = Counter(q.id for voter in range(15) for q in ballot(study(), voter) if q.asked != CHECK)
    assert len(asked) == 20 and set(asked.values()) == {15 * 8 // 20}


def test_a_voter_is_asked_each_question_once_and_the_same_ones_every_time():
    for voter in range(20):
        ids = [q.id for q in ballot(study(), voter)]
        assert len(set(ids)) == len(ids) == study().length == 10
        assert ids == [q.id for q in ballot(study(), voter)]
        assert Counter(q.asked for q in ballot(study(), voter))[CHECK] == 2
    few = ballot(study(questions=2, votes=50, checks=0), 7)
    assert len({q.id for q in few}) == len(few) == 4


def test_studies_come_one_after_the_other_and_a_check_never_first():
    firsts = Counter()
    for voter in range(40):
        names = [q.study for q in ballot(study(), voter)]
        assert names in (["success"] * 5 + ["consistency"] * 5, ["consistency"] * 5 + ["success"] * 5)
        assert ballot(study(), voter)[0].asked != CHECK and ballot(study(), voter)[5].asked != CHECK
        firsts[names[0]] += 1
    assert min(firsts.values()) >= 8  # fair to p > 0.0001


def test_sides_are_random_by_voter_and_by_question_and_stay():
    question = study().questions[0]
    seen = Counter(tuple(o.method for o in sides(study(), voter, question)) for voter in range(600))
    assert len(seen) == 6 and min(seen.values()) > 60  # 100 each expected, four standard deviations below: 63
    by_question = {tuple(o.method for o in sides(study(), 0, q)) for q in study().questions}
    assert len(by_question) > 3
    assert sides(study(), 3, question) == sides(study(), 3, question)


def test_without_the_key_nobody_can_tell_the_sides():
    """The order in which a study holds its options (ours first) must not show, whatever is public of it."""
    question = study().questions[0]
    one, other = (
        [sides(study(key=key), voter, question)[0].method for voter in range(60)] for key in ("a", "b")
    )
    assert sum(x == y for x, y in zip(one, other, strict=True)) < 40
    assert ballot(study(key="a"), 0) != ballot(study(key="b"), 0)
