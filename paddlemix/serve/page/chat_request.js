// From the turns of a conversation to the body of a request.

// The parameters that the reader may set: name, lowest and highest value, step of the control, default (null: leave it
// to the server). Temperature as in LLaVA's own demo.
export const PARAMETERS = [
  { name: "temperature", least: 0, most: 2, step: 0.05, standard: 0.2 },
  { name: "top_p", least: 0.01, most: 1, step: 0.01, standard: null },
  { name: "top_k", least: 1, most: 1000, step: 1, standard: null },
  { name: "max_tokens", least: 1, most: 1_000_000, step: 1, standard: null },
  { name: "seed", least: 0, most: 2 ** 53 - 1, step: 1, standard: null },
  { name: "repetition_penalty", least: 0.1, most: 2, step: 0.05, standard: null },
];

/** Return the options of a first conversation. */
export function standardOptions() {
  return { system: "", stop: "", ...Object.fromEntries(PARAMETERS.map(({ name, standard }) => [name, standard])) };
}

/** Return the body. imageUri(id) resolves to an image as a data URI; isContinued: the last turn is to be continued. */
export async function chatBody({ turns, options, model, imageUri, isContinued }) {
  const system = options.system.trim() ? [{ role: "system", content: options.system }] : [];
  const messages = await Promise.all(turns.map((turn) => messageOf(turn, imageUri)));
  const stop = options.stop.split("\n").filter((line) => line);
  const values = PARAMETERS.map(({ name }) => [name, options[name]]).filter(([, value]) => value !== null);
  return {
    model,
    messages: [...system, ...messages],
    stream: true,
    stream_options: { include_usage: true },
    ...Object.fromEntries(values),
    ...(stop.length ? { stop } : {}),
    ...(isContinued ? { continue_final_message: true } : {}),
  };
}

async function messageOf(turn, imageUri) {
  if (!turn.images.length) return { role: turn.role, content: turn.text };
  const uris = await Promise.all(turn.images.map(imageUri));
  const images = uris.map((url) => ({ type: "image_url", image_url: { url } }));
  const text = turn.text ? [{ type: "text", text: turn.text }] : [];
  return { role: turn.role, content: [...images, ...text] };
}
