// An image with the tiles that the model sees drawn over it, and what they cost.

import { iconButton, make, makeSvg } from "./dom.js";
import { number, text as say } from "./language.js";

/** Return the lines of a grid over an image, in percent of its width and height.
 *
 * The grid covers a canvas of square tiles; the image is scaled to fit and centered in it, so some lines may lie
 * outside the image: these are left out.
 */
export function gridLines(width, height, [columns, rows]) {
  const scale = Math.min(columns / width, rows / height);
  const lines = (number, length) => {
    const margin = (number - length * scale) / 2; // in tiles
    const places = Array.from({ length: number - 1 }, (_, at) => ((at + 1 - margin) / (length * scale)) * 100);
    return places.filter((place) => place > 0.5 && place < 99.5);
  };
  return { columns: lines(columns, width), rows: lines(rows, height) };
}

function gridOver(image, grid) {
  const { columns, rows } = gridLines(image.width, image.height, grid);
  const path = [...columns.map((x) => `M${x} 0V100`), ...rows.map((y) => `M0 ${y}H100`)].join("");
  return makeSvg(
    "svg",
    { class: "grid", viewBox: "0 0 100 100", preserveAspectRatio: "none", "aria-hidden": "true" },
    makeSvg("path", { d: path, class: "under" }),
    makeSvg("path", { d: path }),
  );
}

/** Return what an image costs as a text: "2 x 2 tiles and the whole · 2,880 tokens". */
export function countText({ num_tiles: tiles, num_tokens: tokens, grid }) {
  const shape = grid ? say("gridTiles", { columns: grid[0], rows: grid[1] }) : say("tiles", { n: tiles });
  return `${shape} · ${say("tokens", { n: number(tokens) })}`;
}

/** Return a figure of an image. onRemove: has a button to remove it; onOpen: opens it large. */
export function imageTile(image, shelf, { onRemove = null, onOpen = null } = {}) {
  const picture = make("img", { src: shelf.url(image), alt: image.name, width: image.width, height: image.height });
  const size = `${image.width} × ${image.height}`;
  const frame = onOpen
    ? make(
        "button",
        {
          type: "button",
          class: "image-frame",
          click: () => onOpen(image),
          title: say("openImage"),
          "aria-label": `${say("openImage")}: ${image.name}`,
        },
        picture,
      )
    : make("div", { class: "image-frame" }, picture);
  const caption = make("figcaption", {}, size);
  const remove =
    onRemove && iconButton("close", `${say("removeImage")}: ${image.name}`, () => onRemove(image), { kind: "remove" });
  const figure = make("figure", { class: "image-tile" }, make("div", { class: "image-place" }, frame, remove), caption);
  if (image.original) figure.append(shrunkNote(image));
  shelf.count(image).then((count) => {
    if (!count) return;
    caption.textContent = countText(count);
    caption.title = `${image.name}, ${size}`;
    if (count.grid) frame.append(gridOver(image, count.grid));
  });
  return figure;
}

function shrunkNote({ width, height, original }) {
  const values = { from: `${original.width} × ${original.height}`, to: `${width} × ${height}` };
  return make("p", { class: "shrunk", title: say("shrunkWhy", values) }, say("shrunk", values));
}
