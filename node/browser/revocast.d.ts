/** Types of revocast.js. README.md beside it explains them. */

/** Options of createSession. */
export interface SessionOptions {
  /** Base URL of Revocast, as its nodes are told with --public-url; default: the page's origin. */
  url?: string;
  /** Pins the app: a session of another is refused. Default: any. */
  app?: string;
  /**
   * The session token, for pages that do not have it in the cookie `__Host-session`. It is kept
   * in memory only. Default: the cookie, which no script can read.
   */
  token?: string;
  /** Origins, such as `https://api.example.com`, to which `fetch` may show the JWT besides the page's own and that of `url`. */
  origins?: string[];
  /** Called with each new state, not with the first. */
  onChange?: (state: SessionState) => void;
}

/** The session as the node shows it to a page. Times are RFC 3339, of the server's clock. */
export interface SessionInfo {
  session_id: string;
  app_id: string;
  user_id: string;
  started_at: string;
  last_accessed_at: string;
  expires_at: string;
  absolute_expires_at: string;
  idle_expires_at?: string;
}

/** Why nobody is signed in: the first five are for ever, of the session that was there. */
export type SignedOutReason =
  | "revoked"
  | "expired"
  | "idle"
  | "token_reuse"
  | "logout"
  | "unknown"
  | "missing"
  | "malformed"
  | "token_needed";

/** What is known at one moment. It is frozen, and replaced when something changes. */
export interface SessionState {
  /** starting: nothing is known yet. active: somebody is signed in. signed_out: nobody is, says the node. */
  readonly status: "starting" | "active" | "signed_out";
  /** Why nobody is signed in; "" otherwise. */
  readonly reason: SignedOutReason | "";
  /** The session while the status is active. */
  readonly session: SessionInfo | null;
  /** Why the last request failed, null once one succeeds. It signs nobody out. */
  readonly error: SessionError | null;
  /** This tab renews the JWT for all tabs of the origin, and holds the event stream. */
  readonly leader: boolean;
}

export type SessionErrorCode =
  /** The node says that nobody is signed in; `reason` is a SignedOutReason. */
  | "signed_out"
  /** No answer, or 429 or 5xx. Nobody was signed out; it is tried again by itself. */
  | "unreachable"
  /** The node, or `fetch`, will not do that, such as for a page of an origin that the app does not list. */
  | "refused"
  /** `close` was called, or the page is being put away. */
  | "closed";

/** Every error of a session object. */
export class SessionError extends Error {
  readonly name: "SessionError";
  readonly code: SessionErrorCode;
  /** Of signed_out: why. Of others: the error type of the node's answer, or "". */
  readonly reason: string;
  /** The HTTP status of the node's answer; 0: there was none. */
  readonly status: number;
  /** Seconds that the node wants to be left alone; 0: it did not say. */
  readonly retryAfter: number;
}

/** The session of the user who looks at the page. */
export interface Session {
  readonly state: SessionState;
  /** How long the JWT at hand still lives, in ms; 0: there is none. */
  readonly expiresIn: number;
  /** Calls the listener with each new state, until the function returned is called. */
  onChange(listener: (state: SessionState) => void): () => void;
  /**
   * Returns a JWT that is good for some seconds at least: the one at hand, or the next.
   * fresh: asks the node in any case, which may return the same.
   * @throws {SessionError}
   */
  getToken(options?: { fresh?: boolean }): Promise<string>;
  /**
   * Asks the node at once, and tells the other tabs: after a log-in or a log-out that the page
   * made by other means.
   * @throws {SessionError} unless the node said who is signed in, or that nobody is
   */
  refresh(): Promise<SessionState>;
  /**
   * fetch with the JWT in Authorization. After a 401 it is sent once more, if there is another
   * JWT. Origins that are not listed are refused.
   * @throws {SessionError} and what fetch throws
   */
  fetch(input: RequestInfo | URL, init?: RequestInit): Promise<Response>;
  /**
   * Ends the session, in every tab.
   * @throws {SessionError} if it may still be there: then nobody is signed out.
   */
  signOut(): Promise<void>;
  /** Ends all that the object does. It signs nobody out. */
  close(): void;
}

/** Makes a session object, which begins to work at once. One a page is enough. */
export function createSession(options?: SessionOptions): Session;
