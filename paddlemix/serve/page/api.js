// The server's API. Every failure is a ServerError with what the server said.

import { read } from "./preferences.js";
import { eventData } from "./sse.js";

/** A request that failed. status: of HTTP; 0 if there was no answer at all, -1 if an answer broke off. */
export class ServerError extends Error {
  constructor(message, { status, code = null, param = null, waitSeconds = null }) {
    super(message);
    this.status = status;
    this.code = code;
    this.param = param;
    this.waitSeconds = waitSeconds;
  }
}

/** Return the server's status, see GET /v1/status. */
export function fetchStatus() {
  return fetchJson("v1/status");
}

/** Return whether the server accepts a key. It is not refused as long as the server does not answer. */
export async function isAccepted(key) {
  try {
    await fetchJson("v1/status", key);
  } catch (error) {
    return error.status !== 401;
  }
  return true;
}

/** Return what an image of width x height px becomes: {num_tiles, num_tokens, grid: [columns, rows] or null, mode}. */
export function fetchImageTokens(width, height) {
  return fetchJson(`v1/image_tokens?width=${width}&height=${height}`);
}

/** Yield the chunks of a streamed answer. signal cancels it: an AbortError. */
export async function* streamChat(body, signal) {
  const response = await request("v1/chat/completions", {
    method: "POST",
    body: JSON.stringify(body),
    signal,
    headers: { "Content-Type": "application/json" },
  });
  let isComplete = false;
  try {
    for await (const data of eventData(response)) {
      isComplete = data === "[DONE]";
      if (!isComplete) yield checkedChunk(JSON.parse(data));
    }
  } catch (error) {
    if (signal.aborted || error instanceof ServerError) throw error;
    throw new ServerError("", { status: -1 });
  }
  if (!isComplete) throw new ServerError("", { status: -1 });
}

function checkedChunk(chunk) {
  if (!chunk.error) return chunk;
  const { message, code = null, param = null } = chunk.error;
  throw new ServerError(message, { status: 500, code, param });
}

async function fetchJson(path, key) {
  const response = await request(path, { cache: "no-store", signal: AbortSignal.timeout(10_000) }, key);
  return response.json();
}

async function request(path, options, key = read("key")) {
  const headers = { ...options.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  let response;
  try {
    response = await fetch(path, { ...options, headers, credentials: "omit", referrerPolicy: "no-referrer" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError("", { status: 0 });
  }
  if (!response.ok) throw await errorOf(response);
  return response;
}

async function errorOf(response) {
  const text = await response.text().catch(() => "");
  let found = {};
  try {
    found = JSON.parse(text).error ?? {};
  } catch {
    // NOTE: a proxy between answers in HTML; its status says enough.
  }
  const wait = Number.parseFloat(response.headers.get("Retry-After"));
  return new ServerError(found.message ?? "", {
    status: response.status,
    code: found.code ?? null,
    param: found.param ?? null,
    waitSeconds: Number.isFinite(wait) ? Math.max(1, wait) : null,
  });
}
