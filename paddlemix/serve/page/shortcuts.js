// The keyboard. Letters alone work only outside of fields, so that nothing is triggered by typing.

import { dialogHead, openDialog } from "./dialogs.js";
import { make } from "./dom.js";
import { text as say } from "./language.js";

const isApple = /Mac|iPhone|iPad/.test(navigator.platform);
const CONTROL = isApple ? "⌘" : "Ctrl";
const ALT = isApple ? "⌥" : "Alt";

const SHORTCUTS = [
  [["Enter"], "keySend"],
  [["Shift", "Enter"], "keyLine"],
  [["Esc"], "keyEscape"],
  [["↑"], "keyUp"],
  [[CONTROL, "Shift", "O"], "keyNew"],
  [[CONTROL, "K"], "keySearch"],
  [[ALT, "↑ ↓"], "keyNeighbor"],
  [[CONTROL, ","], "keySettings"],
  [["/"], "keyMessage"],
  [["R"], "keyRegenerate"],
  [["?"], "keyHelp"],
];

/** Show the list. */
export function showShortcuts() {
  const rows = SHORTCUTS.map(([keys, words]) =>
    make(
      "tr",
      {},
      make("th", { scope: "row" }, say(words)),
      make(
        "td",
        {},
        keys.map((key) => make("kbd", {}, key)),
      ),
    ),
  );
  return openDialog("shortcuts", dialogHead(say("shortcuts"), "shortcuts"), make("table", {}, make("tbody", {}, rows)));
}

/** Listen. todo: {newConversation, search, neighbor, settings, focusMessage, regenerate, escape}. */
export function listenToKeys(todo) {
  addEventListener("keydown", (event) => {
    if (event.isComposing || event.defaultPrevented || document.querySelector("dialog[open]")) return;
    const action = actionOf(event, todo);
    if (!action) return;
    event.preventDefault();
    action();
  });
}

function actionOf(event, todo) {
  const isControl = isApple ? event.metaKey : event.ctrlKey;
  const key = event.key.toLowerCase();
  if (key === "escape") return todo.escape;
  if (isControl && event.shiftKey && key === "o") return todo.newConversation;
  if (isControl && !event.shiftKey && key === "k") return todo.search;
  if (isControl && key === ",") return todo.settings;
  if (event.altKey && key === "arrowup") return () => todo.neighbor(-1);
  if (event.altKey && key === "arrowdown") return () => todo.neighbor(1);
  if (event.target.closest("input, textarea") || isControl || event.altKey) return null;
  return { "/": todo.focusMessage, r: todo.regenerate, "?": showShortcuts }[key] ?? null;
}
