// The button for the colors: as the system, light, dark.

import { announce } from "./announcer.js";
import { byId, icon } from "./dom.js";
import { text as say } from "./language.js";
import { read, write } from "./preferences.js";

const LOOKS = { system: ["system", "themeSystem"], light: ["sun", "themeLight"], dark: ["moon", "themeDark"] };
const THEMES = Object.keys(LOOKS);

function theme() {
  const chosen = read("theme");
  return THEMES.includes(chosen) ? chosen : "system";
}

/** Show the present choice on the button. theme.js applies it to the page. */
export function showTheme() {
  const [name, label] = LOOKS[theme()];
  byId("theme").replaceChildren(icon(name));
  byId("theme").title = say(label);
  byId("theme").setAttribute("aria-label", say(label));
}

/** Go on to the next choice. */
export function nextTheme() {
  write("theme", THEMES[(THEMES.indexOf(theme()) + 1) % THEMES.length]);
  dispatchEvent(new Event("paddlemix-theme"));
  showTheme();
  announce(say(LOOKS[theme()][1]));
}
