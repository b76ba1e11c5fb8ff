// Say what went wrong in words that help: a title, what the server said, and what to do.

import { text as say } from "./language.js";

/** Return {title, details, action: "retry" | "key"} for an error of a turn: {status, code, message}. */
export function explain({ status, code, message }) {
  if (code === "context_length_exceeded")
    return { title: say("longTitle"), details: [message, say("longMore")], action: "retry" };
  const [title, standard, action = "retry"] = WORDS[status] ?? (status >= 500 ? WORDS[500] : WORDS[400]);
  return { title: say(title), details: [message || (standard && say(standard))], action };
}

const WORDS = {
  [-1]: ["brokenTitle", "brokenMore"],
  0: ["offlineTitle", "offlineMore"],
  400: ["refusedTitle", null],
  401: ["keyTitle", "keyMore", "key"],
  403: ["refusedTitle", null],
  404: ["missingTitle", null],
  413: ["largeTitle", "longMore"],
  429: ["busyTitle", "failedMore"],
  500: ["failedTitle", "failedMore"],
  503: ["loadingTitle", "failedMore"],
};
