/** What revocast.js asks a node, and what the answers mean. */

import { elapsed, moment } from "./time.js";

// In milliseconds.
const REQUEST = 10_000; // after that a request is given up
const SILENCE = 15_000; // an event stream without a heartbeat (every 5 s) for that long is dead
const RETRY = 1_000; // before the first repeat of what failed, then twice as long each time
const RETRY_MAX = 30_000;

/** Reasons that are for ever. The others say that there is no session just now. */
export const ENDED = new Set(["revoked", "expired", "idle", "token_reuse", "logout"]);
const ABSENT = new Set(["unknown", "missing", "malformed", "token_needed"]);

export class SessionError extends Error {
  constructor(code, message, { reason = "", status = 0, retryAfter = 0, cause } = {}) {
    super(message, { cause });
    this.name = "SessionError";
    this.code = code;
    this.reason = reason;
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

export const signedOut = (reason, status = 0) => new SessionError("signed_out", `signed out: ${reason}`, { reason, status });
export const unreachable = (message, more) => new SessionError("unreachable", message, more);
export const refused = (message, more) => new SessionError("refused", message, more);
export const closed = () => new SessionError("closed", "the session object was closed");

/** backoff returns how long to wait after so many failures: more each time, and never all tabs at once. */
export function backoff(failures, retryAfter = 0) {
  const wait = Math.max(RETRY * 2 ** Math.min(failures, 10), retryAfter * 1000);
  return Math.min(wait, RETRY_MAX) * (0.75 + 0.5 * Math.random());
}

export class Wire {
  #url;
  #query;
  #token;

  constructor(url, app, token) {
    this.#url = url;
    this.#query = app ? `?app=${encodeURIComponent(app)}` : "";
    this.#token = token;
  }

  /** refresh returns the next JWT: {text, life, renew} in ms, and its session. */
  async refresh(background, signal) {
    const answer = await this.#call("/v1/client/refresh", { background }, signal);
    const { session_jwt: text, expires_in: life, refresh_after: renew, session } = answer ?? {};
    if (typeof text !== "string" || !(life >= 0) || !(renew >= 0) || typeof session?.session_id !== "string") {
      throw unreachable("the answer is not one of Revocast");
    }
    return { jwt: { text, life: life * 1000, renew: renew * 1000 }, session };
  }

  async logout(signal) {
    await this.#call("/v1/client/logout", {}, signal);
  }

  /**
   * events yields [type, data] of one connection to the event stream, whose first is hello,
   * and returns when it ends; it throws when nothing was heard for too long.
   */
  async *events(signal) {
    const control = linked(signal);
    let heard = moment();
    const watchdog = setInterval(() => elapsed(heard) > SILENCE && control.abort(), SILENCE / 3);
    try {
      const answer = await this.#send("GET", "/v1/client/events", undefined, control.signal);
      if (!answer.ok || !answer.headers.get("Content-Type")?.startsWith("text/event-stream")) throw await failure(answer);
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let rest = ""; ; ) {
        const { value, done } = await reader.read();
        if (done) return;
        heard = moment();
        const parts = (rest + value).split("\n\n");
        rest = parts.pop();
        yield* parts.map(parse);
      }
    } finally {
      clearInterval(watchdog);
      control.abort();
    }
  }

  #send(method, path, body, signal) {
    const headers = body ? { "Content-Type": "application/json" } : {};
    if (this.#token) headers.Authorization = `Bearer ${this.#token}`;
    return fetch(this.#url + path + this.#query, {
      method, headers, signal, body, mode: "cors", cache: "no-store", redirect: "error",
      credentials: this.#token ? "omit" : "include",
    });
  }

  /** call posts the body and returns what was answered, or throws a SessionError. */
  async #call(path, body, signal) {
    const control = linked(signal);
    const timer = setTimeout(() => control.abort(), REQUEST);
    try {
      const answer = await this.#send("POST", path, JSON.stringify(body), control.signal);
      if (!answer.ok) throw await failure(answer);
      return await answer.json();
    } catch (error) {
      throw error instanceof SessionError ? error : unreachable("the node does not answer", { cause: error });
    } finally {
      clearTimeout(timer);
      control.abort(); // lets go of signal
    }
  }
}

/** linked returns a controller that is aborted with the signal. */
function linked(signal) {
  const control = new AbortController();
  if (signal.aborted) control.abort();
  signal.addEventListener("abort", () => control.abort(), { signal: control.signal });
  return control;
}

/** failure makes the error that an answer is, which need not come from a node. */
async function failure(answer) {
  const body = await answer.json().catch(() => null);
  const type = typeof body?.error_type === "string" ? body.error_type : "";
  const reason = body?.error_details?.reason;
  if (answer.status === 401 && type === "no_session" && (ENDED.has(reason) || ABSENT.has(reason))) return signedOut(reason, 401);
  const more = { reason: type, status: answer.status, retryAfter: Number(answer.headers.get("Retry-After")) || 0 };
  const message = `the node answered ${answer.status} ${type}`.trim();
  return answer.ok || answer.status === 429 || answer.status >= 500 ? unreachable(message, more) : refused(message, more);
}

/** parse reads one event of a stream (text/event-stream, as the node writes it). */
function parse(text) {
  let type = "";
  let data = "";
  for (const line of text.split("\n")) {
    if (line.startsWith("event: ")) type = line.slice(7);
    if (line.startsWith("data: ")) data += line.slice(6);
  }
  try {
    return [type, JSON.parse(data) ?? {}];
  } catch {
    return [type, {}];
  }
}
