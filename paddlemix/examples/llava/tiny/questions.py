"""Questions about a scene and their answers, in several wordings."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from paddlemix.examples.llava.tiny.shapes import COLORS, KINDS, Scene, Shape

NUMBERS = ("zero", "one", "two", "three", "four")
PLACES = {(0, 0): "top left", (1, 0): "top right", (0, 1): "bottom left", (1, 1): "bottom right"}
COUNT_WORDINGS = (
    "How many {} are there?",
    "How many {} do you see?",
    "How many {} are in the picture?",
    "Count the {}.",
)
COLOR_WORDINGS = (
    "What colour is the {}?",
    "What color is the {}?",
    "Which colour does the {} have?",
    "Tell me the colour of the {}.",
)
SHAPE_WORDINGS = (
    "What shape is {}?",
    "Which shape is {}?",
    "What is the {} shape?",
    "What kind of shape is the {} one?",
)
PLACE_WORDINGS = ("Where is the {}?", "Where is the {} in the picture?", "In which part of the picture is the {}?")
CORNER_WORDINGS = ("What is at the {}?", "What do you see at the {}?", "Which shape is in the {} corner?")
YES_NO_WORDINGS = ("Is there a {}?", "Do you see a {}?", "Is there a {} in the picture?", "Does the picture show a {}?")
DESCRIPTION_WORDINGS = (
    "Describe the picture.",
    "Describe this image in detail.",
    "What is in the picture?",
    "What do you see?",
    "Where are the shapes?",
    "List the shapes.",
)
MAX_FACTS = 3
NAME_BY_KIND, NAME_BY_COLOR = 0.6, 0.15  # share of the questions for a place that name the shape by this alone
TEXT_ONLY = {  # answer -> questions
    "Hello! Show me a picture of coloured shapes and ask me about it.": ("Hello", "Hello!", "Hi"),
    "I am a tiny LLaVA model. I answer questions about pictures of coloured shapes.": ("Who are you?", "What are you?"),
    "I can count shapes, name their colours and places, and describe a picture.": (
        "What can you do?",
        "What can I ask you?",
    ),
    "I know circles, squares, triangles and stars.": ("What shapes do you know?", "Which shapes do you know?"),
    "I know red, green, blue, yellow, pink, cyan and black.": (
        "What colours do you know?",
        "What colors do you know?",
        "Which colours do you know?",
    ),
    "You are welcome.": ("Thank you", "Thank you!", "Thanks"),
    "Goodbye!": ("Goodbye", "Bye"),
}


@dataclass(frozen=True)
class QA:
    """A question and its only correct answer. kind: a key of ASKERS, or "text" for a question without an image."""

    kind: str
    question: str
    answer: str


def caption(scene: Scene) -> str:
    """Return the text of stage 1: place, color and kind of every shape, row by row."""
    return _sentence([f"{PLACES[shape.cell]} a {shape.color} {shape.kind}" for shape in scene.shapes])


def ask_description(scene: Scene, rng: random.Random) -> QA:
    """Return a question for all shapes in order, with their places."""
    return QA("description", rng.choice(DESCRIPTION_WORDINGS), caption(scene))


def ask_count(scene: Scene, rng: random.Random) -> QA:
    """Return a question for the number of shapes, or of those of a color or kind; three of four are in the image."""
    form = rng.choice(("all", "colour", "kind", "kind"))
    seen = rng.random() < 0.75
    shape = rng.choice(scene.shapes)
    if form == "all":
        group, num = "{}", len(scene.shapes)
        noun = "shape"
    elif form == "colour":
        color = shape.color if seen else rng.choice(tuple(COLORS))
        group, num, noun = f"{color} {{}}", sum(each.color == color for each in scene.shapes), "shape"
    else:
        noun = shape.kind if seen else rng.choice(KINDS)
        group, num = "{}", sum(each.kind == noun for each in scene.shapes)
    question = rng.choice(COUNT_WORDINGS).format(group.format(noun + "s"))
    return QA("count", question, f"The number of {group.format(noun + 's')} is {NUMBERS[num]}.")


def ask_color(scene: Scene, rng: random.Random) -> QA | None:
    """Return a question for the color of a kind that occurs exactly once, None if no kind does."""
    shape = _pick(rng, [shape for shape in scene.shapes if _count(scene, kind=shape.kind) == 1])
    if shape is None:
        return None
    return QA("colour", rng.choice(COLOR_WORDINGS).format(shape.kind), f"The {shape.kind} is {shape.color}.")


def ask_shape(scene: Scene, rng: random.Random) -> QA | None:
    """Return a question for the kind of a color that occurs exactly once, None if no color does."""
    shape = _pick(rng, [shape for shape in scene.shapes if _count(scene, color=shape.color) == 1])
    if shape is None:
        return None
    return QA("shape", rng.choice(SHAPE_WORDINGS).format(shape.color), f"The {shape.color} shape is a {shape.kind}.")


def ask_place(scene: Scene, rng: random.Random) -> QA | None:
    """Return a question for the place of a shape that occurs exactly once, None if no shape does.

    The question names its color, its kind or both, the answer both.
    """
    shape = _pick(rng, [shape for shape in scene.shapes if _count(scene, shape.kind, shape.color) == 1])
    if shape is None:
        return None
    name = _name(scene, shape, rng)
    answer = f"The {shape.color} {shape.kind} is {PLACES[shape.cell]}."
    return QA("place", rng.choice(PLACE_WORDINGS).format(name), answer)


def ask_corner(scene: Scene, rng: random.Random) -> QA:
    """Return a question for the shape in a corner; one of four is about any corner, which may be empty."""
    cells = tuple(PLACES) if rng.random() < 0.25 else [shape.cell for shape in scene.shapes]
    cell = rng.choice(cells)
    found = [f"a {shape.color} {shape.kind}" for shape in scene.shapes if shape.cell == cell] or ["nothing"]
    answer = _sentence([f"{PLACES[cell]} is {found[0]}"])
    return QA("corner", rng.choice(CORNER_WORDINGS).format(PLACES[cell]), answer)


def ask_yes_no(scene: Scene, rng: random.Random) -> QA:
    """Return a yes-no question for a shape; half of the absent shapes differ only in color or kind from one there."""
    shape = rng.choice(scene.shapes)
    is_there = rng.random() < 0.5
    name = f"{shape.color} {shape.kind}"
    while not is_there and any(name == f"{each.color} {each.kind}" for each in scene.shapes):
        keep = rng.choice(("colour", "kind", "none", "none"))
        color = shape.color if keep == "colour" else rng.choice(tuple(COLORS))
        kind = shape.kind if keep == "kind" else rng.choice(KINDS)
        name = f"{color} {kind}"
    answer = f"Yes, there is a {name}." if is_there else f"No, there is no {name}."
    return QA("yes_no", rng.choice(YES_NO_WORDINGS).format(name), answer)


ASKERS: dict[str, Callable[[Scene, random.Random], QA | None]] = {
    "count": ask_count,
    "colour": ask_color,
    "shape": ask_shape,
    "place": ask_place,
    "corner": ask_corner,
    "yes_no": ask_yes_no,
    "description": ask_description,
}


def ask_all(scene: Scene, rng: random.Random) -> list[QA]:
    """Return one question of every kind that the scene allows, in the order of ASKERS."""
    return [qa for asker in ASKERS.values() if (qa := asker(scene, rng)) is not None]


def facts(scene: Scene, rng: random.Random) -> str:
    """Return a text of stage 1: the places of the shapes, the colors of unique kinds, and up to MAX_FACTS other facts.

    In each sentence, the words that need the image come last.
    """
    places = [f"The {shape.color} {shape.kind} is {PLACES[shape.cell]}." for shape in scene.shapes]
    alone = [shape for shape in scene.shapes if _count(scene, kind=shape.kind) == 1]
    colors = [f"The {shape.kind} is {shape.color}." for shape in alone]
    askers = (ask_count, ask_count, ask_count, ask_shape, ask_corner)
    others = sorted({qa.answer for asker in askers if (qa := asker(scene, rng)) is not None})
    sentences = places + colors + rng.sample(others, rng.randint(0, min(MAX_FACTS, len(others))))
    return " ".join(rng.sample(sentences, len(sentences)))


def text_only() -> list[QA]:
    """Return the questions that need no image."""
    return [QA("text", question, answer) for answer, questions in TEXT_ONLY.items() for question in questions]


def _sentence(items: list[str]) -> str:
    """Return the items joined with commas and "and", with a capital letter and a period."""
    text = items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
    return f"{text[0].upper()}{text[1:]}."


def _count(scene: Scene, kind: str | None = None, color: str | None = None) -> int:
    return sum(kind in (None, shape.kind) and color in (None, shape.color) for shape in scene.shapes)


def _name(scene: Scene, shape: Shape, rng: random.Random) -> str:
    """Return the name of a shape: often its kind or color if that is unique, otherwise both."""
    form = rng.random()
    if form < NAME_BY_KIND and _count(scene, kind=shape.kind) == 1:
        return shape.kind
    if form > 1 - NAME_BY_COLOR and _count(scene, color=shape.color) == 1:
        return f"{shape.color} shape"
    return f"{shape.color} {shape.kind}"


def _pick(rng: random.Random, shapes: list[Shape]) -> Shape | None:
    return rng.choice(shapes) if shapes else None
