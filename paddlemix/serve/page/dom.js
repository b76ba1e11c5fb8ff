// Build elements. Text always becomes text nodes, never markup.

const SVG = "http://www.w3.org/2000/svg";

/** Return an element. Attributes that are functions become listeners; true is an empty attribute, null and false none. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== null && value !== false && value !== undefined) element.setAttribute(name, value);
  }
  element.append(
    ...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false),
  );
  return element;
}

/** Return an element of SVG with attributes. */
export function makeSvg(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Return an icon of index.html, hidden from screen readers: the button around it has the label. */
export function icon(name) {
  return makeSvg("svg", { class: "icon", "aria-hidden": "true" }, makeSvg("use", { href: `#icon-${name}` }));
}

/** Return a button with an icon only; the label is its name and its tooltip. */
export function iconButton(name, label, onClick, { kind = "", disabled = false } = {}) {
  return make(
    "button",
    {
      type: "button",
      class: `icon-button ${kind}`.trim(),
      "aria-label": label,
      title: label,
      click: onClick,
      disabled,
    },
    icon(name),
  );
}

/** Return a button with a text and, if named, an icon before it. */
export function textButton(label, onClick, { iconName = null, kind = "plain" } = {}) {
  return make("button", { type: "button", class: `button ${kind}`, click: onClick }, iconName && icon(iconName), label);
}

/** Return the element with an id. */
export const byId = (id) => document.getElementById(id);

/** Return a random id: also without a secure context, where crypto.randomUUID is missing. */
export function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
