// Edit a question where it stands.

import { Composer } from "./composer.js";

/** Put a composer in place of a question. Resolves to the new message, or to null if the reader leaves it. */
export async function editInPlace(turn, place, parts, opened) {
  const found = await Promise.all(turn.images.map((id) => parts.shelf.get(id)));
  return new Promise((resolve) => {
    const end = (message) => {
      composer.element.remove();
      place.classList.remove("is-edited");
      resolve(message);
      place.querySelector(".turn-actions button:last-of-type")?.focus();
    };
    const composer = new Composer({ ...parts, onSend: end, onCancel: () => end(null) });
    place.classList.add("is-edited");
    place.append(composer.element);
    composer.fill(turn.text, found.filter(Boolean));
    composer.focus();
    opened(composer);
  });
}
