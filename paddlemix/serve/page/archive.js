// Conversations as one JSON file, and back.

import { newId } from "./dom.js";
import { dataUri } from "./images.js";
import { standardOptions } from "./chat_request.js";
import { imageIds } from "./conversation.js";

const FORMAT = "paddlemix-conversations";
const ROLES = ["user", "assistant"];
const FINISHES = ["stop", "length", "stopped", "lost", "failed"];
const IMAGE_URI = /^data:image\/(?:png|jpeg|webp|gif|bmp);base64,[A-Za-z0-9+/]+={0,2}$/;

/** Return conversations with their images as a text of JSON. */
export async function exported(conversations, shelf) {
  const images = {};
  for (const id of new Set(conversations.flatMap((conversation) => [...imageIds(conversation)]))) {
    const image = await shelf.get(id);
    if (!image) continue;
    const { name, width, height, original } = image;
    images[id] = { name, width, height, original, data: await dataUri(image.blob) };
  }
  return JSON.stringify(
    { format: FORMAT, version: 1, exportedAt: new Date().toISOString(), conversations, images },
    null,
    1,
  );
}

/** Return {conversations, images} of a file, with new ids. Raises Error with the place of what is wrong. */
export async function imported(text) {
  const file = parse(text);
  const names = new Map(Object.keys(file.images).map((id) => [id, newId()]));
  const images = await Promise.all(
    Object.entries(file.images).map(([id, row]) => readImageRow(row, names.get(id), id)),
  );
  return {
    conversations: file.conversations.map((row, at) => readConversation(row, names, `conversations[${at}]`)),
    images,
  };
}

function parse(text) {
  let file;
  try {
    file = JSON.parse(text);
  } catch {
    throw new Error("not JSON");
  }
  check(file?.format === FORMAT && file.version === 1, `no "format": "${FORMAT}", "version": 1`);
  check(Array.isArray(file.conversations), "conversations is no list");
  check(file.images !== null && typeof file.images === "object", "images is no object");
  return file;
}

function check(isGood, message) {
  if (!isGood) throw new Error(message);
}

const isText = (value) => typeof value === "string";
const isCount = (value) => Number.isSafeInteger(value) && value >= 0;
const numberOrNull = (value) => (Number.isFinite(value) ? value : null);

async function readImageRow(row, id, name) {
  check(isText(row?.data) && IMAGE_URI.test(row.data), `images.${name}: data is no image as a data URI`);
  check(
    row.width >= 1 && row.height >= 1 && isCount(row.width) && isCount(row.height),
    `images.${name}: no width and height`,
  );
  const [head, data] = row.data.split(",");
  const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
  const blob = new Blob([bytes], { type: head.slice(5, -7) });
  const { width: fromWidth, height: fromHeight, bytes: fromBytes } = row.original ?? {};
  const original =
    isCount(fromWidth) && isCount(fromHeight)
      ? { width: fromWidth, height: fromHeight, bytes: numberOrNull(fromBytes) }
      : null;
  return { id, blob, name: isText(row.name) ? row.name : "image", width: row.width, height: row.height, original };
}

function readConversation(row, imageNames, place) {
  check(
    isText(row?.title) && isCount(row.createdAt) && isCount(row.updatedAt),
    `${place}: no title, createdAt and updatedAt`,
  );
  check(Array.isArray(row.turns) && row.turns.length, `${place}: turns is no list with a turn`);
  const names = new Map(row.turns.map((turn) => [turn?.id, newId()]));
  check(names.size === row.turns.length, `${place}: two turns have the same id`);
  names.set("", "");
  const turns = row.turns.map((turn, at) =>
    readTurn(turn, row.turns.slice(0, at), names, imageNames, `${place}.turns[${at}]`),
  );
  const chosen = Object.fromEntries(
    Object.entries(row.chosen ?? {})
      .map(([key, id]) => [names.get(key), names.get(id)])
      .filter(([key, id]) => turns.some((turn) => turn.id === id && turn.parent === key)),
  );
  const options = readOptions(row.options ?? {});
  const { title, createdAt, updatedAt } = row;
  return { id: newId(), title, isNamed: row.isNamed === true, createdAt, updatedAt, options, turns, chosen };
}

function readTurn(turn, earlier, names, imageNames, place) {
  check(isText(turn?.id) && ROLES.includes(turn.role) && isText(turn.text), `${place}: no id, role and text`);
  const parent = earlier.find((other) => other.id === turn.parent);
  check(turn.parent === "" || parent, `${place}: its parent is no turn before it`);
  check(turn.role !== parent?.role && (parent || turn.role === "user"), `${place}: a ${turn.role} cannot follow here`);
  const ids = turn.images ?? [];
  check(Array.isArray(ids) && ids.every((id) => imageNames.has(id)), `${place}: an image is not in the file`);
  const read = {
    id: names.get(turn.id),
    parent: names.get(turn.parent),
    role: turn.role,
    text: turn.text,
    images: ids.map((id) => imageNames.get(id)),
    createdAt: isCount(turn.createdAt) ? turn.createdAt : 0,
  };
  return turn.role === "user" ? read : { ...read, ...readAnswer(turn) };
}

function readAnswer(turn) {
  const { prompt_tokens: prompt, completion_tokens: completion, prompt_tokens_details: details } = turn.usage ?? {};
  const isCounted = isCount(prompt) && isCount(completion);
  return {
    finish: FINISHES.includes(turn.finish) && !(turn.finish === "failed" && !turn.error) ? turn.finish : "lost",
    error: isText(turn.error?.message)
      ? {
          status: numberOrNull(turn.error.status) ?? 500,
          message: turn.error.message,
          code: isText(turn.error.code) ? turn.error.code : null,
        }
      : null,
    usage: isCounted
      ? {
          prompt_tokens: prompt,
          completion_tokens: completion,
          total_tokens: prompt + completion,
          prompt_tokens_details: { cached_tokens: isCount(details?.cached_tokens) ? details.cached_tokens : 0 },
        }
      : null,
    seconds: numberOrNull(turn.seconds),
    firstSeconds: numberOrNull(turn.firstSeconds),
    model: isText(turn.model) ? turn.model : "",
  };
}

function readOptions(row) {
  return Object.fromEntries(
    Object.entries(standardOptions()).map(([name, standard]) => {
      const isGood = isText(standard) ? isText(row[name]) : row[name] === null || Number.isFinite(row[name]);
      return [name, isGood ? row[name] : standard];
    }),
  );
}
