"""Images that rows name together are in one group, compared with a search through the whole graph."""

from __future__ import annotations

import random

from data_sets import row

from paddlemix.prepare.groups import IMAGE, group_of, links_in
from paddlemix.prepare.row import Problem


def reached(start: str, rows: list[list[str]]) -> set[str]:
    """Return all images that are named with an image, directly or through others."""
    found, size = {start}, 0
    while len(found) > size:
        size = len(found)
        for images in rows:
            if found.intersection(images):
                found.update(images)
    return found


def test_groups_are_those_of_a_search_and_do_not_depend_on_the_order():
    numbers = random.Random(0)
    for _ in range(60):
        names = [f"{number}.jpg" for number in range(14)]
        rows = [numbers.sample(names, numbers.choice((1, 2, 2, 3))) for _ in range(9)]
        values = [{**row(1), "image": images} for images in rows]
        links = links_in(values)
        numbers.shuffle(values)
        again = links_in(values)
        for name in names:
            assert links.name(name) == again.name(name) == min(reached(name, rows))


def test_rows_without_images_are_alone_and_unreadable_ones_link_nothing():
    links = links_in([Problem("x"), {"image": 5}, row(1), row(2, "a.jpg")])
    groups = [group_of(row(1), number, IMAGE, links) for number in (0, 1)]
    assert groups[0] != groups[1]
    assert group_of(row(2, "a.jpg"), 0, IMAGE, links) == group_of(row(3, "a.jpg"), 1, IMAGE, links)
