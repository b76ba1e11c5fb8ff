// The words of the page in the reader's language.

import { ENGLISH } from "./words_en.js";
import { CHINESE } from "./words_zh.js";
import { read, write } from "./preferences.js";

const WORDS = { en: ENGLISH, zh: CHINESE };
const TAGS = { en: "en", zh: "zh-CN" };

/** Return "en" or "zh": the reader's choice, otherwise the first of the browser's languages that the page has. */
export function language() {
  const chosen = read("language");
  if (chosen in WORDS) return chosen;
  return (navigator.languages ?? []).map((tag) => tag.slice(0, 2).toLowerCase()).find((tag) => tag in WORDS) ?? "en";
}

export function switchLanguage() {
  write("language", language() === "en" ? "zh" : "en");
}

/** Return a text, with values if it needs some. */
export function text(key, values) {
  const words = WORDS[language()][key] ?? ENGLISH[key];
  if (words === undefined) throw new Error(`no words for ${key}`);
  return typeof words === "function" ? words(values ?? {}) : words;
}

/** Return a number as the language writes it. */
export function number(value, options) {
  return new Intl.NumberFormat(TAGS[language()], options).format(value);
}

/** Return a moment as a date with a time. */
export function moment(milliseconds) {
  return new Intl.DateTimeFormat(TAGS[language()], { dateStyle: "medium", timeStyle: "short" }).format(milliseconds);
}

/** Fill in the texts, labels and hints that index.html names. */
export function translatePage() {
  document.documentElement.lang = TAGS[language()];
  for (const element of document.querySelectorAll("[data-text]")) element.textContent = text(element.dataset.text);
  for (const element of document.querySelectorAll("[data-label]")) {
    element.setAttribute("aria-label", text(element.dataset.label));
    if (element.tagName === "BUTTON") element.title = text(element.dataset.label);
  }
  for (const element of document.querySelectorAll("[data-hint]")) element.placeholder = text(element.dataset.hint);
}
