// Say what went wrong in words that help: a title, what the server said, and what to do.

import { language, text as say } from "./language.js";
import { inChinese } from "./server_words_zh.js";

/** Return {title, details, action} for an error of a turn: {status, code, param, message}.
 *
 * action: "key", "retry", or null where the same request would fail again.
 */
export function explain(error) {
  const { status, code } = error;
  const said = serverSays(error);
  if (code === "context_length_exceeded") return { title: say("longTitle"), details: [said], action: null };
  const [title, standard, action = "retry"] = WORDS[status] ?? (status >= 500 ? WORDS[500] : WORDS[400]);
  return { title: say(title), details: [said || (standard && say(standard))], action };
}

/** Return what the server said as a sentence, in Chinese where the page knows how. */
export function serverSays({ code, param, message }) {
  const translated = language() === "zh" ? inChinese(code, message) : null;
  const capital = (word) => (word === param ? word : word[0].toUpperCase() + word.slice(1)); // names stay as they are
  return translated ?? message.replace(/^[a-z]+(?=[ ,:])/, capital).replace(/[\p{L}\p{N}]$/u, "$&.");
}

const WORDS = {
  [-1]: ["brokenTitle", "brokenMore"],
  0: ["offlineTitle", "offlineMore"],
  400: ["refusedTitle", null, null],
  401: ["keyTitle", "keyMore", "key"],
  403: ["refusedTitle", null, null],
  404: ["missingTitle", null],
  413: ["largeTitle", "longMore", null],
  429: ["busyTitle", "failedMore"],
  500: ["failedTitle", "failedMore"],
  503: ["loadingTitle", "failedMore"],
};
