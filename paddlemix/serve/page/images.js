// Images of the reader: read, made small enough for the server, kept, and their tokens counted.

import { fetchImageTokens } from "./api.js";
import { newId } from "./dom.js";

const SERVER_TYPES = ["image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp"]; // the rest becomes PNG
const SHRUNK_EDGE = 2048; // px; far above what the model sees

/** Return a kept image {id, blob, name, width, height, original}. original: what it was, if it was made smaller.
 *
 * Raises Error if the browser cannot read it as an image.
 */
export async function readImage(file, limits) {
  const bitmap = await createImageBitmap(file);
  const { width, height } = bitmap;
  const maxBytes = Math.floor((limits.max_body_bytes * 0.7) / limits.max_images); // base64 adds a third
  const isLarge = file.size > maxBytes || width * height > limits.max_image_pixels;
  const image = { id: newId(), blob: file, name: file.name || "image", width, height, original: null };
  if (isLarge || !SERVER_TYPES.includes(file.type)) await encodeAgain(image, bitmap, { isLarge, maxBytes });
  bitmap.close();
  return image;
}

async function encodeAgain(image, bitmap, { isLarge, maxBytes }) {
  const original = { width: image.width, height: image.height, bytes: image.blob.size };
  let edge = isLarge ? SHRUNK_EDGE : Math.max(bitmap.width, bitmap.height);
  let type = isLarge ? "image/jpeg" : "image/png";
  for (;;) {
    const scale = Math.min(1, edge / Math.max(bitmap.width, bitmap.height));
    image.width = Math.max(1, Math.round(bitmap.width * scale));
    image.height = Math.max(1, Math.round(bitmap.height * scale));
    image.blob = await drawn(bitmap, image.width, image.height, type);
    if (image.blob.size <= maxBytes || edge < 64) break;
    edge = Math.floor(edge * 0.7);
    type = "image/jpeg";
  }
  image.original = isLarge ? original : null;
}

function drawn(bitmap, width, height, type) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext("2d");
  if (type === "image/jpeg") {
    context.fillStyle = "white"; // under transparent parts, which JPEG does not have
    context.fillRect(0, 0, width, height);
  }
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  return new Promise((resolve, reject) => {
    canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("the image could not be encoded"))), type, 0.92);
  });
}

/** Return a blob as a data URI. */
export function dataUri(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}

/** The kept images, with a URL for each that is shown, and their counts of tiles and tokens. */
export class ImageShelf {
  constructor(store) {
    this.store = store;
    this.urls = new Map();
    this.counts = new Map();
    this.model = "";
  }

  get(id) {
    return this.store.get("images", id);
  }

  keep(image) {
    return this.store.put("images", image);
  }

  async uri(id) {
    const image = await this.get(id);
    if (!image) throw new Error("an image of this conversation is gone from the browser");
    return dataUri(image.blob);
  }

  url(image) {
    if (!this.urls.has(image.id)) this.urls.set(image.id, URL.createObjectURL(image.blob));
    return this.urls.get(image.id);
  }

  async remove(id) {
    URL.revokeObjectURL(this.urls.get(id));
    this.urls.delete(id);
    await this.store.remove("images", id);
  }

  /** Forget counts: another model has other tiles. */
  serve(model) {
    if (model !== this.model) this.counts.clear();
    this.model = model;
  }

  /** Return the counts of an image as `fetchImageTokens` has them, null if the server does not say. */
  async count({ width, height }) {
    const key = `${width}x${height}`;
    if (!this.counts.has(key))
      this.counts.set(
        key,
        fetchImageTokens(width, height).catch(() => null),
      );
    const count = await this.counts.get(key);
    if (count === null) this.counts.delete(key); // asked again next time
    return count;
  }
}
