// Copy text, also where the page is not served over https and browsers have no clipboard object.

import { icon, iconButton, make } from "./dom.js";
import { text as say } from "./language.js";
import { announce } from "./announcer.js";

export async function copy(content) {
  if (navigator.clipboard) return navigator.clipboard.writeText(content);
  const area = make("textarea", { class: "unseen", "aria-hidden": "true" });
  const focused = document.activeElement;
  area.value = content;
  (focused?.closest("dialog") ?? document.body).append(area);
  area.select();
  const isCopied = document.execCommand("copy");
  area.remove();
  focused?.focus();
  if (!isCopied) throw new Error("the browser did not copy");
}

/** Return a button that copies what content() returns and says so for two seconds. */
export function copyButton(content, label) {
  const button = iconButton("copy", label, async () => {
    try {
      await copy(content());
      confirm(button, "check", say("copied"));
    } catch {
      confirm(button, "warning", say("notCopied"));
    }
    setTimeout(() => confirm(button, "copy", label), 2000);
  });
  return button;
}

function confirm(button, name, label) {
  button.replaceChildren(icon(name));
  button.classList.toggle("is-done", name === "check");
  button.title = label;
  button.setAttribute("aria-label", label);
  if (name !== "copy") announce(label);
}
