"""Questions about a scene and their answers, in several wordings. Draws nothing and writes nothing."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from paddlemix.examples.llava.tiny.shapes import COLOURS, KINDS, Scene, Shape

NUMBERS = ("zero", "one", "two", "three", "four")
PLACES = {
    (0, 0): "top left",
    (1, 0): "top right",
    (0, 1): "bottom left",
    (1, 1): "bottom right",
}
COUNT_WORDINGS = (
    "How many {} are there?",
    "How many {} do you see?",
    "How many {} are in the picture?",
    "Count the {}.",
)
COLOUR_WORDINGS = (
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
NAME_BY_KIND, NAME_BY_COLOUR = 0.6, 0.15  # share of the places that are told of a shape named by this alone
TEXT_ONLY = (
    ("Hello", "Hello! Show me a picture of coloured shapes and ask me about it."),
    ("Hello!", "Hello! Show me a picture of coloured shapes and ask me about it."),
    ("Hi", "Hello! Show me a picture of coloured shapes and ask me about it."),
    ("Who are you?", "I am a tiny LLaVA model. I answer questions about pictures of coloured shapes."),
    ("What are you?", "I am a tiny LLaVA model. I answer questions about pictures of coloured shapes."),
    ("What can you do?", "I can count shapes, name their colours and places, and describe a picture."),
    ("What can I ask you?", "I can count shapes, name their colours and places, and describe a picture."),
    ("What shapes do you know?", "I know circles, squares, triangles and stars."),
    ("Which shapes do you know?", "I know circles, squares, triangles and stars."),
    ("What colours do you know?", "I know red, green, blue, yellow, pink, cyan and black."),
    ("What colors do you know?", "I know red, green, blue, yellow, pink, cyan and black."),
    ("Which colours do you know?", "I know red, green, blue, yellow, pink, cyan and black."),
    ("Thank you", "You are welcome."),
    ("Thank you!", "You are welcome."),
    ("Thanks", "You are welcome."),
    ("Goodbye", "Goodbye!"),
    ("Bye", "Goodbye!"),
)


@dataclass(frozen=True)
class QA:
    """A question of some kind (see ASKERS, and "text" for one that needs no picture) and its one right answer."""

    kind: str
    question: str
    answer: str


def caption(scene: Scene) -> str:
    """Name place, colour and kind of every shape, row by row: the text of stage 1."""
    return _sentence([f"{PLACES[shape.cell]} a {shape.colour} {shape.kind}" for shape in scene.shapes])


def ask_description(scene: Scene, rng: random.Random) -> QA:
    """Ask for all shapes in order, with their places."""
    return QA("description", rng.choice(DESCRIPTION_WORDINGS), caption(scene))


def ask_count(scene: Scene, rng: random.Random) -> QA:
    """Ask for the number of all shapes, of a colour or of a kind; the group is in the picture three times in four."""
    form = rng.choice(("all", "colour", "kind", "kind"))
    seen = rng.random() < 0.75
    shape = rng.choice(scene.shapes)
    if form == "all":
        group, num = "{}", len(scene.shapes)
        noun = "shape"
    elif form == "colour":
        colour = shape.colour if seen else rng.choice(tuple(COLOURS))
        group, num, noun = f"{colour} {{}}", sum(each.colour == colour for each in scene.shapes), "shape"
    else:
        noun = shape.kind if seen else rng.choice(KINDS)
        group, num = "{}", sum(each.kind == noun for each in scene.shapes)
    question = rng.choice(COUNT_WORDINGS).format(group.format(noun + "s"))
    return QA("count", question, f"The number of {group.format(noun + 's')} is {NUMBERS[num]}.")


def ask_colour(scene: Scene, rng: random.Random) -> QA | None:
    """Ask for the colour of a kind that stands in the picture exactly once; None if there is no such kind."""
    shape = _pick(rng, [shape for shape in scene.shapes if _count(scene, kind=shape.kind) == 1])
    if shape is None:
        return None
    return QA("colour", rng.choice(COLOUR_WORDINGS).format(shape.kind), f"The {shape.kind} is {shape.colour}.")


def ask_shape(scene: Scene, rng: random.Random) -> QA | None:
    """Ask for the kind of the only shape of a colour; None if no colour stands alone."""
    shape = _pick(rng, [shape for shape in scene.shapes if _count(scene, colour=shape.colour) == 1])
    if shape is None:
        return None
    return QA("shape", rng.choice(SHAPE_WORDINGS).format(shape.colour), f"The {shape.colour} shape is a {shape.kind}.")


def ask_place(scene: Scene, rng: random.Random) -> QA | None:
    """Ask where a shape is that exists once, by colour, by kind or by both; the answer says both.

    None if all are twins.
    """
    shape = _pick(rng, [shape for shape in scene.shapes if _count(scene, shape.kind, shape.colour) == 1])
    if shape is None:
        return None
    name = _name(scene, shape, rng)
    answer = f"The {shape.colour} {shape.kind} is {PLACES[shape.cell]}."
    return QA("place", rng.choice(PLACE_WORDINGS).format(name), answer)


def ask_corner(scene: Scene, rng: random.Random) -> QA:
    """Ask what stands in a corner; one time in four of any corner, which may be empty."""
    cells = tuple(PLACES) if rng.random() < 0.25 else [shape.cell for shape in scene.shapes]
    cell = rng.choice(cells)
    found = [f"a {shape.colour} {shape.kind}" for shape in scene.shapes if shape.cell == cell] or ["nothing"]
    answer = _sentence([f"{PLACES[cell]} is {found[0]}"])
    return QA("corner", rng.choice(CORNER_WORDINGS).format(PLACES[cell]), answer)


def ask_yes_no(scene: Scene, rng: random.Random) -> QA:
    """Ask whether a shape is there, yes as often as no; half of the absent ones differ in colour or kind alone."""
    shape = rng.choice(scene.shapes)
    is_there = rng.random() < 0.5
    name = f"{shape.colour} {shape.kind}"
    while not is_there and any(name == f"{each.colour} {each.kind}" for each in scene.shapes):
        keep = rng.choice(("colour", "kind", "none", "none"))
        colour = shape.colour if keep == "colour" else rng.choice(tuple(COLOURS))
        kind = shape.kind if keep == "kind" else rng.choice(KINDS)
        name = f"{colour} {kind}"
    answer = f"Yes, there is a {name}." if is_there else f"No, there is no {name}."
    return QA("yes_no", rng.choice(YES_NO_WORDINGS).format(name), answer)


ASKERS: dict[str, Callable[[Scene, random.Random], QA | None]] = {
    "count": ask_count,
    "colour": ask_colour,
    "shape": ask_shape,
    "place": ask_place,
    "corner": ask_corner,
    "yes_no": ask_yes_no,
    "description": ask_description,
}


def ask_all(scene: Scene, rng: random.Random) -> list[QA]:
    """Ask one question of every kind that the scene allows, in the order of ASKERS."""
    return [qa for asker in ASKERS.values() if (qa := asker(scene, rng)) is not None]


def facts(scene: Scene, rng: random.Random) -> str:
    """Tell each shape's place and the colour of each single kind, and up to MAX_FACTS other things: a text of stage 1.

    Whatever a sentence asks of the picture stands right before the word that answers it.
    """
    places = [f"The {shape.colour} {shape.kind} is {PLACES[shape.cell]}." for shape in scene.shapes]
    alone = [shape for shape in scene.shapes if _count(scene, kind=shape.kind) == 1]
    colours = [f"The {shape.kind} is {shape.colour}." for shape in alone]
    askers = (ask_count, ask_count, ask_count, ask_shape, ask_corner)
    others = sorted({qa.answer for asker in askers if (qa := asker(scene, rng)) is not None})
    sentences = places + colours + rng.sample(others, rng.randint(0, min(MAX_FACTS, len(others))))
    return " ".join(rng.sample(sentences, len(sentences)))


def text_only() -> list[QA]:
    """List the questions that need no picture."""
    return [QA("text", question, answer) for question, answer in TEXT_ONLY]


def _sentence(items: list[str]) -> str:
    """Join items with commas and "and", start with a capital letter and end with a full stop."""
    text = items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
    return f"{text[0].upper()}{text[1:]}."


def _count(scene: Scene, kind: str | None = None, colour: str | None = None) -> int:
    return sum(kind in (None, shape.kind) and colour in (None, shape.colour) for shape in scene.shapes)


def _name(scene: Scene, shape: Shape, rng: random.Random) -> str:
    """Name a shape by its kind or its colour where that is enough, else by both; mostly by both in any case."""
    form = rng.random()
    if form < NAME_BY_KIND and _count(scene, kind=shape.kind) == 1:
        return shape.kind
    if form > 1 - NAME_BY_COLOUR and _count(scene, colour=shape.colour) == 1:
        return f"{shape.colour} shape"
    return f"{shape.colour} {shape.kind}"


def _pick(rng: random.Random, shapes: list[Shape]) -> Shape | None:
    return rng.choice(shapes) if shapes else None
