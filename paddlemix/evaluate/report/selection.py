"""Choose the items that a report shows: mostly those that went wrong, evenly over categories and the file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from ..item import Question
from ..results import Answered

# What became of a question, with the words for it, in the order in which items are shown.
STATES: Mapping[str, str] = MappingProxyType(
    {
        "failed": "nothing read",
        "wrong": "wrong",
        "partly": "partly right",
        "problem": "not asked",
        "unscored": "not scored alone",
        "right": "right",
    }
)
MISSED = ("failed", "wrong", "partly", "problem")
SHARE_OF_OTHERS = 0.2  # of the items shown, kept for right ones, so that both can be seen
# Keys of the fields whose values are categories, the first that is there.
_CATEGORY_KEYS = ("category", "subject", "question_type", "capabilities", "structural", "answer_type", "l2-category")


def state_of(one: Answered) -> str:
    """Return what became of a question, a key of STATES."""
    if one.output is None:
        return "problem"
    if one.credit is None:
        return "unscored"
    if one.is_failed:
        return "failed"
    return "right" if one.credit >= 1 else "partly" if one.credit > 0 else "wrong"


def categories_of(question: Question) -> tuple[str, ...]:
    """Return the categories of a question, () if its files have none."""
    found = next((question.fields[key] for key in _CATEGORY_KEYS if question.fields.get(key)), ())
    return tuple(str(one) for one in found) if isinstance(found, list | tuple) else (str(found),)


def chosen(answered: Sequence[Answered], limit: int) -> list[Answered]:
    """Return at most `limit` items, by state and then in the order of the file.

    At least four in five are of those that were not right, if there are so many. Each state and category gets as many
    as any other, as long as it has them.
    """
    missed = [one for one in answered if state_of(one) in MISSED]
    others = [one for one in answered if state_of(one) not in MISSED]
    num_missed = min(len(missed), max(limit - len(others), limit - int(limit * SHARE_OF_OTHERS)))
    shown = [*_spread(missed, num_missed), *_spread(others, limit - num_missed)]
    order = list(STATES)
    return sorted(shown, key=lambda one: order.index(state_of(one)))  # a stable sort


def counts_of(answered: Iterable[Answered]) -> dict[str, int]:
    """Return how many items there are of each state, in the order of STATES; none is left out."""
    states = [state_of(one) for one in answered]
    return {state: states.count(state) for state in STATES if state in states}


def _spread(answered: Sequence[Answered], limit: int) -> list[Answered]:
    """Return items in their order: the same number of each group, and within it from the whole length."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for place, one in enumerate(answered):
        groups.setdefault((state_of(one), *categories_of(one.question)), []).append(place)
    places = []
    for members, count in zip(groups.values(), _quotas([len(one) for one in groups.values()], limit), strict=True):
        places += [members[number * len(members) // count] for number in range(count)]
    return [answered[place] for place in sorted(places)]


def _quotas(sizes: Sequence[int], limit: int) -> list[int]:
    """Return how many each group gives: equal shares, and what small groups leave goes to the larger ones."""
    quotas, left = [0] * len(sizes), limit
    by_size = sorted(range(len(sizes)), key=lambda place: sizes[place])
    for number, place in enumerate(by_size):
        quotas[place] = min(sizes[place], left // (len(sizes) - number))
        left -= quotas[place]
    return quotas
