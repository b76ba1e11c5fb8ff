// How much of the model's context the conversation has used, as a thin bar.

import { shownTurns } from "./conversation.js";
import { byId } from "./dom.js";
import { number, text as say } from "./language.js";

const NEARLY_FULL = 0.85;

/** Show the use of the last answer that says its own; nothing without one. */
export function showMeter(conversation, maxTokens) {
  const meter = byId("meter");
  const used = conversation && shownTurns(conversation).findLast((turn) => turn.usage)?.usage.total_tokens;
  meter.hidden = !used || !maxTokens;
  if (meter.hidden) return;
  const words = say("contextUse", { used: number(used), of: number(maxTokens) });
  const share = Math.min(1, used / maxTokens);
  meter.classList.toggle("is-nearly-full", share > NEARLY_FULL);
  meter.setAttribute("aria-valuemax", String(maxTokens));
  meter.setAttribute("aria-valuenow", String(used));
  meter.setAttribute("aria-valuetext", words);
  meter.title = words;
  meter.firstElementChild.style.width = `${Math.max(1, share * 100)}%`;
  meter.lastElementChild.textContent = words;
}
