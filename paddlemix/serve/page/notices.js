// Short notes at the top of the page, which go by themselves.

import { announce } from "./announcer.js";
import { byId, icon, iconButton, make } from "./dom.js";
import { text as say } from "./language.js";

const STAYS = { info: 4000, warning: 9000 }; // ms

/** Show a note. kind: "info" or "warning". */
export function notify(words, { kind = "info" } = {}) {
  const remove = () => notice.remove();
  const notice = make(
    "div",
    { class: `notice ${kind}` },
    icon(kind === "info" ? "check" : "warning"),
    make("p", {}, words),
    iconButton("close", say("close"), remove),
  );
  byId("notices").append(notice);
  while (byId("notices").childElementCount > 3) byId("notices").firstElementChild.remove();
  setTimeout(remove, STAYS[kind]);
  announce(words);
}
