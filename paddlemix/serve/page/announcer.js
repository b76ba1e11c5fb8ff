// Tell a screen reader what happens. A streamed answer is read in whole sentences, not token by token.

import { byId } from "./dom.js";

/** Say a text politely. */
export function announce(content) {
  byId("announcer").textContent = content;
}

export class AnswerReader {
  constructor() {
    this.numRead = 0;
  }

  /** Append the sentences that are complete; at the end, the rest. */
  follow(answer, isEnd = false) {
    const rest = answer.slice(this.numRead);
    const end = isEnd ? rest.length : lastSentenceEnd(rest);
    if (end <= 0) return;
    if (this.numRead === 0) byId("answer-reader").replaceChildren();
    byId("answer-reader").append(document.createTextNode(rest.slice(0, end)));
    this.numRead += end;
  }
}

function lastSentenceEnd(content) {
  let end = 0;
  for (const match of content.matchAll(/[.!?:;]\s|[。！？；\n]/g)) end = match.index + match[0].length;
  return end;
}
