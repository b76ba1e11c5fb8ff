"""Draw a terminal transcript and its image side by side: `draw_chat.py IMAGE TRANSCRIPT OUTPUT.png`"""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from paddlemix.output import replacing

WIDTH, PADDING, LINE, SIZE = 78, 24, 27, 19
BACKGROUND, TEXT, QUESTION, ANSWER = (24, 26, 32), (222, 224, 230), (130, 200, 255), (160, 226, 150)


def main() -> None:
    """Run the command line."""
    image, transcript, output = (Path(name) for name in sys.argv[1:4])
    draw(Image.open(image).convert("RGB"), transcript.read_text(encoding="utf-8"), output)


def draw(image: Image.Image, transcript: str, output: Path) -> None:
    """Write a PNG with the transcript on the left and the image on the right."""
    font = ImageFont.load_default(SIZE)
    lines = [
        (part, QUESTION if line.startswith("USER:") else ANSWER if line.startswith("ASSISTANT:") else TEXT)
        for line in transcript.splitlines()
        for part in textwrap.wrap(line, WIDTH) or [""]
    ]
    text_width = max(int(font.getlength(line)) for line, _ in lines)
    height = max(len(lines) * LINE, image.height) + 2 * PADDING
    canvas = Image.new("RGB", (text_width + image.width + 3 * PADDING, height), BACKGROUND)
    pen = ImageDraw.Draw(canvas)
    for number, (line, color) in enumerate(lines):
        pen.text((PADDING, PADDING + number * LINE), line, font=font, fill=color)
    canvas.paste(image, (text_width + 2 * PADDING, (height - image.height) // 2))
    with replacing(output) as file:
        canvas.save(file, "PNG", optimize=True)


if __name__ == "__main__":
    main()
