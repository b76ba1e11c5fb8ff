// A conversation as a tree: each turn has a parent, and each parent one chosen child. Plain data that IndexedDB keeps.
//
// Conversation: {id, title, isNamed, createdAt, updatedAt, options, turns, chosen}. chosen: parent's id ("" at the top)
// -> id of the child that is shown.
// Turn: {id, parent, role: "user" | "assistant", text, images: ids, createdAt}, and of an assistant: finish, null while
// it is written, "stop", "length", "stopped" (by the reader), "lost" (the page went away) or "failed"; error, usage,
// seconds, firstSeconds, model.

import { newId } from "./dom.js";

const MAX_TITLE = 60;

export function newConversation(options) {
  const now = Date.now();
  return {
    id: newId(),
    title: "",
    isNamed: false,
    createdAt: now,
    updatedAt: now,
    options: { ...options },
    turns: [],
    chosen: {},
  };
}

/** Append a turn below a parent (null for the top) and choose it. */
export function addTurn(conversation, parent, fields) {
  const turn = { id: newId(), parent: parent?.id ?? "", text: "", images: [], createdAt: Date.now(), ...fields };
  conversation.turns.push(turn);
  conversation.chosen[turn.parent] = turn.id;
  touch(conversation);
  return turn;
}

/** Note a change: the time, and a title unless somebody chose one. */
export function touch(conversation) {
  conversation.updatedAt = Date.now();
  if (conversation.isNamed) return;
  const first = conversation.turns.find((turn) => turn.role === "user" && turn.text.trim());
  const words = (first?.text ?? "").trim().replace(/\s+/g, " ");
  conversation.title = words.length > MAX_TITLE ? `${words.slice(0, MAX_TITLE).trimEnd()}…` : words;
}

/** Return the turns that are shown, first to last. */
export function shownTurns(conversation) {
  const byId = new Map(conversation.turns.map((turn) => [turn.id, turn]));
  const shown = [];
  let turn = byId.get(conversation.chosen[""]);
  while (turn && shown.length < conversation.turns.length) {
    shown.push(turn);
    turn = byId.get(conversation.chosen[turn.id]);
  }
  return shown;
}

/** Return the turns from the first to this one. */
export function turnsUpTo(conversation, turn) {
  const shown = shownTurns(conversation);
  return shown.slice(0, shown.indexOf(turn) + 1);
}

/** Return the turn before this one, null at the top. */
export function parentOf(conversation, turn) {
  return conversation.turns.find((other) => other.id === turn.parent) ?? null;
}

/** Return the versions of a turn, oldest first. */
export function versions(conversation, turn) {
  return conversation.turns.filter((other) => other.parent === turn.parent);
}

/** Show another version of a turn: step -1 or 1. */
export function chooseVersion(conversation, turn, step) {
  const all = versions(conversation, turn);
  const next = all[all.indexOf(turn) + step];
  if (next) conversation.chosen[turn.parent] = next.id;
}

/** Return the ids of all its images. */
export function imageIds(conversation) {
  return new Set(conversation.turns.flatMap((turn) => turn.images));
}

/** Return how many images the shown turns have, without those after a turn that is edited. */
export function numShownImages(conversation, before = null) {
  const shown = shownTurns(conversation);
  const kept = before ? shown.slice(0, shown.indexOf(before)) : shown;
  return kept.reduce((sum, turn) => sum + turn.images.length, 0);
}

/** Return whether a conversation has a text: in its title or in any turn. */
export function contains(conversation, words) {
  const sought = words.toLowerCase();
  return [conversation.title, ...conversation.turns.map((turn) => turn.text)].some((text) =>
    text.toLowerCase().includes(sought),
  );
}
