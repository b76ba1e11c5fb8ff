// Read server-sent events: the data of each, as it arrives.

/** Yield the data of the events of a response. Comment lines, which keep connections alive, are left out. */
export async function* eventData(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      const events = (rest + value).replaceAll("\r\n", "\n").split("\n\n");
      rest = events.pop();
      yield* events.map(dataOf).filter((data) => data !== null);
    }
    const last = dataOf(rest);
    if (last !== null) yield last;
  } finally {
    await reader.cancel().catch(() => null); // the reader has left: the server may stop
  }
}

function dataOf(event) {
  const lines = event.split("\n").filter((line) => line.startsWith("data:"));
  return lines.length ? lines.map((line) => line.slice(5).replace(/^ /, "")).join("\n") : null;
}
