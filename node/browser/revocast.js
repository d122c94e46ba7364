/**
 * Revocast in the browser: ES modules without dependencies and without a build step.
 *
 * A session object always has a JWT that is good, renewed in the background, and says
 * within a second that the session was revoked. Of the tabs of one origin one leads: it
 * renews and holds the event stream; the others are told. README.md says how, and why.
 *
 * Rules that everything below keeps:
 *  - only a verdict of the node (401 no_session, or an event) signs out. What could not be
 *    asked, or was answered 503, leaves everybody signed in, without a JWT once theirs is over.
 *  - what another tab says is taken at its word only when it is about the session that
 *    this tab has; anything else makes this tab ask the node itself.
 *  - a session that ended stays ended, whatever an older answer says.
 *  - lives are counted from when the request was sent, in elapsed time. No time of the
 *    server is compared with a clock of this machine.
 *  - JWTs and tokens are in memory and in messages between tabs, and nowhere else.
 */

import { Pauses, before, elapsed, moment } from "./time.js";
import { ENDED, SessionError, Wire, backoff, closed, refused, signedOut, unreachable } from "./wire.js";

export { SessionError };

// In milliseconds.
const CONFIRM = 500; // how long the node may take to say what an event meant
const POLL = 200; // how long tabs have to say that they are looked at
const PING = 5_000; // how often a tab that is looked at makes sure of its leader
const PINGS = 2; // so many that go unanswered end the leader
const TICK = 15_000; // no timer is longer, as they stop while the machine sleeps
const MARGIN = 5_000; // a JWT that lives shorter than that is renewed before it is handed out
const ENDED_KEPT = 64; // session ids

export function createSession(options) {
  return new Session(options);
}

const ignore = () => {};
const visible = () => document.visibilityState === "visible";

class Session {
  #url;
  #app;
  #token;
  #allowed; // origins that fetch shows JWTs to
  #wire;
  #listeners = new Set();

  #state = Object.freeze({ status: "starting", reason: "", session: null, error: null, leader: false });
  #sid = ""; // of the session that this tab has, or had last
  #jwt = null; // {text, at, life, renew}: life and renew in ms since at
  #ended = new Map(); // session ids, and why
  #ending = ""; // why the session ends, as an event says
  #logouts = 0; // that were asked for here, and done
  #asking = null; // the request for a JWT that is under way
  #askingNext = null; // the one that follows it
  #failed = null; // {at, wait}: when the last request failed, and how long to wait
  #failures = 0; // in a row

  #life = null; // AbortController of the time between start and stop
  #timer = 0;
  #name = ""; // of lock and channel
  #channel = null;
  #alone = true; // no tab leads the others
  #queue = null; // AbortController of the wait for the lock
  #steal = false;
  #resign = ignore; // gives the lock back
  #pings = 0; // that the leader has not answered
  #seen = ignore; // called when another tab is looked at
  #following = null; // {sid, control} of the event stream
  #pauses = new Pauses(); // of what waits for the network, or the user, to come back
  #closed = false;

  constructor({ url = location.origin, app = "", token = "", origins = [], onChange } = {}) {
    this.#url = new URL(url, location.href).href.replace(/\/+$/, "");
    this.#app = app;
    this.#token = token;
    this.#allowed = new Set([location.origin, new URL(this.#url).origin, ...origins]);
    this.#wire = new Wire(this.#url, app, token);
    if (onChange) this.#listeners.add(onChange);
    this.#start();
    addEventListener("pagehide", this.#stop);
    addEventListener("pageshow", this.#start);
    document.addEventListener("freeze", this.#stop);
    document.addEventListener("resume", this.#start);
  }

  get state() {
    return this.#state;
  }

  onChange(listener) {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  get expiresIn() {
    return this.#jwt ? Math.max(0, this.#jwt.life - elapsed(this.#jwt.at)) : 0;
  }

  async getToken({ fresh = false } = {}) {
    this.#mayAsk();
    const enough = this.#jwt && this.expiresIn > Math.min(MARGIN, this.#jwt.life / 5);
    if (fresh || !enough) {
      try {
        if (!fresh && this.#wait() > 0) throw this.#state.error;
        const how = { background: !visible() };
        await (fresh ? this.#askAnew(how) : this.#ask(how));
      } catch (error) {
        // The last seconds of the one at hand will do when there is no other.
        if (fresh || error.code !== "unreachable" || this.expiresIn === 0) throw error;
      }
      this.#mayAsk();
    }
    if (!this.#jwt) throw unreachable("the JWT was withdrawn meanwhile");
    return this.#jwt.text;
  }

  async refresh() {
    if (this.#closed) throw closed();
    await this.#askAnew({ background: !visible() }).catch((error) => {
      if (error.code !== "signed_out") throw error;
    });
    return this.#state;
  }

  async fetch(input, init) {
    const request = new Request(input, init);
    const { origin } = new URL(request.url);
    if (!this.#allowed.has(origin)) throw refused(`fetch ${origin}: it is not one of the origins that may see the JWT`);
    const again = request.clone(); // a body can be read only once
    const send = (jwt, r) => {
      r.headers.set("Authorization", `Bearer ${jwt}`);
      return fetch(r);
    };
    const jwt = await this.getToken();
    const answer = await send(jwt, request);
    if (answer.status !== 401) return answer;
    // Perhaps it ended on the way. Where the session did, there is no other JWT.
    const next = await this.getToken({ fresh: true }).catch(ignore);
    return next && next !== jwt ? send(next, again) : answer;
  }

  async signOut() {
    if (this.#closed || !this.#life) throw closed();
    const sid = this.#sid;
    await this.#wire.logout(this.#life.signal);
    this.#logouts++;
    this.#signedOut("logout", sid, true);
  }

  close() {
    this.#closed = true;
    this.#stop();
    removeEventListener("pagehide", this.#stop);
    removeEventListener("pageshow", this.#start);
    document.removeEventListener("freeze", this.#stop);
    document.removeEventListener("resume", this.#start);
    this.#jwt = null;
    this.#listeners.clear();
  }

  #mayAsk() {
    if (this.#closed) throw closed();
    if (this.#state.status === "signed_out") throw signedOut(this.#state.reason);
  }

  // Life. A page that is put away (bfcache, freeze) and shown again has several.

  #start = async () => {
    if (this.#life || this.#closed) return;
    const { signal } = (this.#life = new AbortController());
    document.addEventListener("visibilitychange", () => this.#wake(), { signal });
    addEventListener("online", () => this.#wake(), { signal });
    this.#ask({ background: !visible() }).catch(ignore);
    const name = await this.#nameOf();
    if (signal.aborted) return;
    this.#name = name;
    if (name && typeof BroadcastChannel === "function") {
      this.#channel = new BroadcastChannel(name);
      this.#channel.onmessage = ({ data }) => this.#hear(data);
      if (navigator.locks) {
        this.#alone = false;
        void this.#run(signal);
      }
    }
    this.#follow();
    this.#tick();
  };

  #stop = () => {
    this.#life?.abort();
    this.#life = null;
    this.#alone = true;
    this.#queue?.abort();
    this.#resign();
    this.#channel?.close();
    this.#channel = null;
    this.#follow();
    clearTimeout(this.#timer);
    this.#pauses.end();
  };

  /**
   * nameOf returns what this session's tabs share lock and channel by, "" if they cannot:
   * those with the same node, app and credential. A token is told apart by its hash.
   */
  async #nameOf() {
    const name = `revocast ${this.#url} ${this.#app}`;
    if (!this.#token) return name;
    if (!globalThis.crypto?.subtle) return "";
    const hash = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(this.#token));
    return `${name} ${[...new Uint8Array(hash)].map((b) => b.toString(16).padStart(2, "0")).join("")}`;
  }

  // The next JWT.

  /** ask asks for the next JWT. Whoever asks while a request is under way shares it. */
  #ask(how) {
    this.#asking ??= this.#askNode(how).finally(() => {
      this.#asking = null;
      this.#tick();
    });
    return this.#asking;
  }

  /** askAnew is ask with a request that is not yet under way. */
  #askAnew(how) {
    if (!this.#asking) return this.#ask(how);
    return (this.#askingNext ??= this.#asking.catch(ignore).then(() => {
      this.#askingNext = null;
      return this.#ask(how);
    }));
  }

  /**
   * askNode makes the request. background: the user does nothing; left out, it is found out.
   * quiet: what comes of it is no news to other tabs, so that two that disagree do not
   * answer each other for ever.
   */
  async #askNode({ background, quiet = false }) {
    const life = this.#life;
    if (!life) throw closed();
    const logouts = this.#logouts;
    let about = this.#sid;
    try {
      background ??= !(await this.#used());
      const at = moment();
      const { jwt, session } = await this.#wire.refresh(background, life.signal);
      // A log-out overtook the answer, also one that could not say of which session.
      const over = this.#ended.get(session.session_id) || (logouts < this.#logouts && "logout");
      if (over) { // or the node is behind
        about = session.session_id;
        throw signedOut(over);
      }
      this.#took({ ...jwt, at, renew: jwt.renew * (0.8 + 0.2 * Math.random()) }, session, !quiet);
    } catch (error) {
      if (error.code === "signed_out") {
        if (this.#state.status === "signed_out") this.#reached(); // and the first reason stays
        // Another tab's question may have taken the cookie away: "missing".
        else this.#signedOut(ENDED.has(error.reason) ? error.reason : this.#ending || error.reason, about, !quiet);
      } else if (life === this.#life) {
        this.#failed = { at: moment(), wait: backoff(this.#failures++, error.retryAfter) };
        this.#set({ error });
      }
      throw error;
    }
  }

  /** wait returns for how long nothing is to be asked, because the last request failed. */
  #wait() {
    return this.#failed ? Math.max(0, this.#failed.wait - elapsed(this.#failed.at)) : 0;
  }

  /** reached notes that the node answers. */
  #reached() {
    if (this.#failed) this.#pauses.end();
    this.#failed = null;
    this.#failures = 0;
    this.#set({ error: null });
  }

  #took(jwt, session, news) {
    this.#reached();
    this.#jwt = jwt;
    this.#sid = session.session_id;
    this.#set({ status: "active", reason: "", session });
    if (news) this.#say({ kind: "jwt", jwt: { ...jwt, at: elapsed(jwt.at) }, session, date: Date.now() });
  }

  #signedOut(reason, sid, news) {
    this.#reached();
    // A log-out that was asked for says more than the event that comes of it.
    if (this.#state.status === "signed_out" && this.#state.reason === "logout" && sid === this.#sid) return;
    this.#jwt = null;
    if (ENDED.has(reason)) this.#end(sid, reason);
    this.#set({ status: "signed_out", reason, session: null });
    if (news) this.#say({ kind: "ended", reason, sid });
  }

  #end(sid, reason) {
    if (sid && !this.#ended.has(sid)) this.#ended.set(sid, reason);
    if (this.#ended.size > ENDED_KEPT) this.#ended.delete(this.#ended.keys().next().value);
  }

  #set(change) {
    if (Object.keys(change).every((k) => this.#state[k] === change[k])) return;
    this.#state = Object.freeze({ ...this.#state, ...change });
    this.#follow();
    for (const listener of [...this.#listeners]) {
      try {
        listener(this.#state);
      } catch (error) {
        reportError(error); // it is the page's, and no other listener's concern
      }
    }
  }

  /** tick does what is due, and sets the timer for what will be. */
  #tick() {
    clearTimeout(this.#timer);
    if (!this.#life || this.#state.status === "signed_out") return;
    const acts = this.#state.leader || this.#alone;
    let due = acts ? TICK : visible() ? PING : Infinity;
    if (!this.#asking) {
      let ask = Infinity;
      if (this.#failed) ask = this.#wait();
      else if (acts && this.#jwt) ask = this.#jwt.renew - elapsed(this.#jwt.at);
      if (ask <= 0) return void this.#ask({}).catch(ignore); // which ticks
      due = Math.min(due, ask);
    }
    if (due === Infinity) return; // a hidden tab that is led: it is told, or woken
    this.#timer = setTimeout(() => {
      this.#ping();
      this.#tick();
    }, due);
  }

  /** wake is called when the network or the user may have come back: nothing waits any longer. */
  #wake() {
    if (this.#failed) this.#failed.wait = 0;
    this.#pauses.end();
    this.#follow();
    this.#tick();
  }

  // Among tabs.

  #say(message) {
    this.#channel?.postMessage(message);
  }

  #hear(message) {
    switch (message.kind) {
      case "jwt":
        return this.#told(message);
      case "ended":
        if (message.sid && message.sid === this.#sid && ENDED.has(message.reason)) this.#signedOut(message.reason, message.sid, false);
        else if (this.#state.status === "active") this.#doubt();
        return;
      case "who":
        if (visible()) this.#say({ kind: "me" });
        return;
      case "me":
        return this.#seen(true);
      case "ping":
        if (this.#state.leader) this.#say({ kind: "pong" });
        return;
      case "pong":
        this.#pings = 0;
    }
  }

  /** told takes the JWT that another tab has. */
  #told({ jwt, session, date }) {
    const { status } = this.#state;
    if (this.#ended.has(session.session_id) || (status === "starting" && !this.#failed)) return;
    if (status !== "active" || session.session_id !== this.#sid) return this.#doubt();
    const at = before(jwt.at + Math.max(0, Date.now() - date));
    const better = !this.#jwt || jwt.life - elapsed(at) >= this.expiresIn; // else another was first
    this.#took(better ? { ...jwt, at } : this.#jwt, session, false);
    this.#tick();
  }

  #doubt() {
    this.#askAnew({ background: true, quiet: true }).catch(ignore);
  }

  /** used reports whether a tab is looked at, this one or another. */
  #used() {
    if (visible() || !this.#channel) return visible();
    return new Promise((resolve) => {
      this.#seen = resolve;
      setTimeout(resolve, POLL, false);
      this.#say({ kind: "who" });
    });
  }

  /** ping makes sure of the leader. One in a tab that the system stopped keeps its lock. */
  #ping() {
    if (this.#alone || this.#state.leader || !visible()) {
      this.#pings = 0;
    } else if (this.#pings++ < PINGS) {
      this.#say({ kind: "ping" });
    } else {
      this.#pings = 0;
      this.#steal = true;
      this.#queue?.abort();
    }
  }

  /** run waits for the lock, leads while it is held, and begins again when it was taken away. */
  async #run(life) {
    while (!life.aborted) {
      const steal = this.#steal;
      this.#steal = false;
      this.#queue = new AbortController();
      const lead = () => (life.aborted ? undefined : this.#lead());
      try {
        await navigator.locks.request(this.#name, steal ? { steal } : { signal: this.#queue.signal }, lead);
      } catch (error) {
        if (error.name !== "AbortError") { // a sandbox has no locks
          this.#alone = true;
          this.#follow();
          return this.#tick();
        }
      }
      this.#resign();
    }
  }

  #lead() {
    return new Promise((resolve) => {
      this.#resign = () => {
        this.#resign = ignore;
        resolve();
        this.#set({ leader: false });
      };
      this.#set({ leader: true });
      this.#tick();
    });
  }

  // The event stream, of the one session that there is.

  /** follow opens or closes the stream as the state demands. */
  #follow() {
    // Without a leader, tabs that nobody looks at hold none: browsers allow six
    // connections to a host over HTTP/1.1.
    const may = this.#life && this.#state.status === "active" && (this.#state.leader || (this.#alone && visible()));
    const sid = may ? this.#sid : "";
    if (sid === (this.#following?.sid ?? "")) return;
    this.#following?.control.abort();
    this.#following = null;
    if (sid) {
      const control = new AbortController();
      this.#following = { sid, control };
      void this.#watch(sid, control.signal);
    }
  }

  async #watch(sid, signal) {
    for (let failures = 0; !signal.aborted; failures++) {
      let retryAfter = 0;
      try {
        for await (const [type, data] of this.#wire.events(signal)) {
          failures = 0;
          this.#event(sid, type, data);
          this.#tick(); // timers of hidden tabs come once a minute, what a server sends does not
        }
      } catch (error) {
        if (signal.aborted) return;
        if (error.code === "signed_out") await this.#askAnew({ background: true }).catch(ignore);
        if (error.code === "refused") failures = Math.max(failures, 5); // nothing will change soon
        ({ retryAfter } = error);
      }
      if (!signal.aborted) await this.#pauses.wait(backoff(failures, retryAfter));
    }
  }

  #event(sid, type, data) {
    const changed = ["session.changed", "session.extended"].includes(type);
    if (type === "hello" ? data.session_id !== sid : changed) this.#askAnew({ background: true }).catch(ignore);
    if (data.session_id !== sid) return;
    if (type === "session.revoked") void this.#over(sid, "revoked");
    if (type === "session.expired") void this.#over(sid, data.reason === "idle" ? "idle" : "expired");
  }

  /**
   * over acts on an event that ends the session. The node is asked as well: its 401 takes
   * the cookie away, and the browser may have a new session already, whose log-in ended
   * this one. It is not waited for long: the event is a verdict. From now on nobody is
   * given the JWT at hand.
   */
  async #over(sid, reason) {
    this.#jwt = null;
    this.#ending = reason;
    if (reason === "revoked") this.#end(sid, reason);
    const asked = this.#askAnew({ background: true }).catch(ignore);
    await Promise.race([asked, new Promise((resolve) => setTimeout(resolve, CONFIRM))]);
    this.#ending = "";
    if (this.#state.status !== "active" || this.#sid !== sid) return;
    // An end by time may have been put off meanwhile, and then there is a JWT.
    if (reason === "revoked" || !this.#jwt) this.#signedOut(reason, sid, true);
  }
}
