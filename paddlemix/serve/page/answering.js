// Get answers: stream them into their turns, wait when the server is busy, stop, and keep what has arrived.

import { ServerError, streamChat } from "./api.js";
import { AnswerReader, announce } from "./announcer.js";
import { chatBody } from "./chat_request.js";
import { touch, turnsUpTo } from "./conversation.js";
import { text as say } from "./language.js";

const MAX_TRIES = 20; // of a busy server
const STANDARD_WAIT = 5; // seconds, if the server does not say
const SAVE_EVERY = 1500; // ms

/** Answers that are being written, at most one a conversation.
 *
 * changed(conversation, turn) is called for every new text or state, save(conversation) now and then and at the end.
 */
export class Answering {
  constructor({ shelf, modelName, changed, save }) {
    Object.assign(this, { shelf, modelName, changed, save });
    this.runs = new Map();
  }

  isRunning(conversation) {
    return this.runs.has(conversation.id);
  }

  /** Return {until, seconds} while the turn waits for a busy server, otherwise null. */
  pause(turn) {
    return [...this.runs.values()].find((run) => run.turn === turn)?.pause ?? null;
  }

  stop(conversation) {
    this.runs.get(conversation.id)?.controller.abort();
  }

  retryNow(conversation) {
    this.runs.get(conversation.id)?.pause?.end();
  }

  /** Write the answer of a turn, or go on with it. Resolves when it has ended, whatever the reason. */
  async start(conversation, turn, { isContinued = false } = {}) {
    const run = {
      turn,
      conversation,
      controller: new AbortController(),
      pause: null,
      savedAt: Date.now(),
      startedAt: performance.now(),
      reader: new AnswerReader(),
    };
    run.reader.numRead = turn.text.length;
    Object.assign(turn, { finish: null, error: null, usage: null, model: this.modelName() });
    this.runs.set(conversation.id, run);
    this.changed(conversation, turn);
    try {
      await this.answer(run, isContinued);
    } catch (error) {
      this.note(run, error);
    }
    this.runs.delete(conversation.id);
    this.finish(run);
  }

  async answer(run, isContinued) {
    const { conversation, turn } = run;
    const turns = turnsUpTo(conversation, turn);
    const body = await chatBody({
      turns: turns.filter((other) => other.role === "user" || other.text),
      options: conversation.options,
      model: this.modelName(),
      imageUri: (id) => this.shelf.uri(id),
      isContinued,
    });
    for (let tries = 1; ; tries += 1) {
      try {
        return await this.stream(run, body);
      } catch (error) {
        const isBusy = error.status === 429 || error.status === 503;
        if (!isBusy || tries >= MAX_TRIES) throw error;
        await this.wait(run, error);
      }
    }
  }

  async stream(run, body) {
    const { turn } = run;
    const gap = { started: performance.now() };
    for await (const chunk of streamChat(body, run.controller.signal)) {
      if (chunk.usage) turn.usage = chunk.usage;
      const choice = chunk.choices?.[0];
      if (choice?.delta?.content) {
        gap.first ??= performance.now();
        turn.text += choice.delta.content;
        run.reader.follow(turn.text);
      }
      if (choice?.finish_reason) turn.finish = choice.finish_reason === "length" ? "length" : "stop";
      this.changed(run.conversation, turn);
      this.saveNowAndThen(run);
    }
    const end = performance.now();
    turn.seconds = (end - gap.started) / 1000;
    turn.firstSeconds = ((gap.first ?? end) - gap.started) / 1000;
  }

  saveNowAndThen(run) {
    if (Date.now() - run.savedAt < SAVE_EVERY) return;
    run.savedAt = Date.now();
    this.save(run.conversation);
  }

  /** Wait as long as the server asks, until the reader wants to retry, or until the answer is stopped. */
  wait(run, error) {
    const seconds = error.waitSeconds ?? STANDARD_WAIT;
    return new Promise((resolve, reject) => {
      const end = () => {
        clearInterval(ticks);
        run.pause = null;
        resolve();
      };
      const ticks = setInterval(
        () => (Date.now() >= run.pause.until ? end() : this.changed(run.conversation, run.turn)),
        250,
      );
      run.pause = { until: Date.now() + seconds * 1000, status: error.status, code: error.code, message: error.message, end };
      run.controller.signal.addEventListener("abort", () => {
        clearInterval(ticks);
        reject(run.controller.signal.reason);
      });
      this.changed(run.conversation, run.turn);
      announce(say(error.status === 429 ? "busyTitle" : "loadingTitle"));
    });
  }

  note({ turn, controller }, error) {
    if (controller.signal.aborted) {
      turn.finish = "stopped";
    } else {
      turn.finish = "failed";
      turn.error =
        error instanceof ServerError
          ? { status: error.status, code: error.code, param: error.param, message: error.message }
          : { status: null, code: null, message: error.message };
    }
  }

  finish(run) {
    const { conversation, turn, reader } = run;
    run.pause = null;
    turn.finish ??= "stop";
    touch(conversation);
    reader.follow(turn.text, true);
    if (turn.finish === "stopped") announce(say("answerStopped"));
    else if (turn.finish !== "failed") announce(say("answerDone"));
    this.changed(conversation, turn);
    this.save(conversation);
  }
}
