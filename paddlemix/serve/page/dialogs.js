// Questions and large images in dialogs. The browser keeps the focus in them and closes them on Escape.

import { isAccepted } from "./api.js";
import { byId, iconButton, make, textButton } from "./dom.js";
import { number, text as say } from "./language.js";
import { countText, imageTile } from "./image_tile.js";

/** Show a dialog of index.html with new content; a click beside it closes it. Resolves when it is closed. */
export function openDialog(id, ...content) {
  const dialog = byId(id);
  if (content.length) dialog.replaceChildren(...content.filter(Boolean));
  if (!dialog.open) dialog.showModal();
  return new Promise((resolve) => {
    dialog.onclick = (event) => {
      if (event.target === dialog) dialog.close();
    };
    dialog.onclose = () => resolve(dialog.returnValue);
  });
}

/** Return a heading with a button that closes the dialog. */
export function dialogHead(title, id) {
  return make(
    "header",
    { class: "dialog-head" },
    make("h2", { id: `${id}-title` }, title),
    iconButton("close", say("close"), () => byId(id).close()),
  );
}

/** Ask a question. Resolves to whether the reader agrees. */
export async function ask(question, agreeLabel) {
  let isAgreed = false;
  const dialog = byId("question");
  const agree = textButton(
    agreeLabel,
    () => {
      isAgreed = true;
      dialog.close();
    },
    { kind: "danger" },
  );
  const buttons = make(
    "div",
    { class: "dialog-buttons" },
    textButton(say("cancel"), () => dialog.close()),
    agree,
  );
  await openDialog("question", make("p", { id: "question-title" }, question), buttons);
  return isAgreed;
}

/** Ask for a key until the server accepts one. Resolves to it, or to null. note: what is wrong with the last one. */
export async function askKey(note) {
  let key = null;
  const dialog = byId("question");
  const field = make("input", {
    type: "password",
    autocomplete: "off",
    spellcheck: "false",
    "aria-label": say("keySection"),
    placeholder: say("keyHint"),
    required: true,
  });
  const form = make(
    "form",
    {
      class: "key-form",
      submit: (event) => {
        event.preventDefault();
        save();
      },
    },
    field,
    make(
      "div",
      { class: "dialog-buttons" },
      textButton(say("cancel"), () => dialog.close()),
      make("button", { class: "button strong" }, say("save")),
    ),
  );
  const refusal = make("p", { class: "warning-text", role: "alert" }, note);
  const save = async () => {
    const written = field.value.trim();
    if (!written) return;
    refusal.textContent = "";
    const isGood = await isAccepted(written);
    if (!dialog.open || field.value.trim() !== written) return; // the reader went on
    if (isGood) {
      key = written;
      dialog.close();
    } else {
      refusal.textContent = say("keyWrong");
      field.select();
    }
  };
  await openDialog(
    "question",
    make("h2", { id: "question-title" }, say("keyTitle")),
    make("p", { class: "quiet" }, say("keyMore")),
    make("p", { class: "quiet" }, say("keyNote")),
    refusal,
    form,
  );
  return key;
}

/** Show an image large, with its tiles. */
export async function showImage(image, shelf) {
  const tile = imageTile(image, shelf);
  const facts = make(
    "p",
    { class: "quiet" },
    say("imageFacts", {
      size: `${image.width} × ${image.height}`,
      kilobytes: number(Math.ceil(image.blob.size / 1024)),
    }),
  );
  const toggle = make("input", {
    type: "checkbox",
    checked: true,
    change: () => tile.classList.toggle("has-no-grid", !toggle.checked),
  });
  const choice = make("label", { class: "check", hidden: true }, toggle, say("showGrid"));
  shelf.count(image).then((count) => {
    if (!count) return;
    choice.hidden = !count.grid;
    facts.append(` · ${countText(count)}`);
  });
  await openDialog("lightbox", dialogHead(image.name, "lightbox"), tile, make("footer", {}, facts, choice));
}
