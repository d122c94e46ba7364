/** How the store reaches Revocast, and how it reads sessions. */
export interface RevocastStoreOptions {
  /** Address of a node, or of several: the next is asked when one does not answer or answers 5xx. */
  url: string | string[]
  /** An API key of the app with the scopes create, read and revoke. */
  key: string
  /** Where a session has its user's id: a path such as "passport.user", or a function. Default: "userId". */
  user?: string | ((session: any) => string | number | null | undefined)
  /** Life in seconds of a session whose cookie has no maxAge. Default: a day. */
  ttl?: number
  /** A touch that would move the expiry by less than this many seconds is not written. Default: 0. */
  touchAfter?: number
  /** "strong": every read is one round trip to the session's home region. Default: "bounded". */
  consistency?: 'bounded' | 'strong'
  /** Milliseconds until a node counts as not answering. Default: 5000. */
  timeout?: number
  /** Instead of the global fetch. */
  fetch?: typeof globalThis.fetch
}

/** An answer that is no success. */
export declare class RevocastError extends Error {
  /** HTTP status; 0 when no node answered. */
  status: number
  /** error_type of the answer, or "unreachable". */
  type: string
}

type Callback<T = void> = (err?: any, value?: T) => void

/** The store: what express-session and its users call. It emits "ended" with the id of a session that was to be written after it had ended. */
export interface RevocastStore extends NodeJS.EventEmitter {
  get(sid: string, callback: Callback<any>): void
  set(sid: string, session: any, callback?: Callback): void
  touch(sid: string, session: any, callback?: Callback): void
  destroy(sid: string, callback?: Callback): void
  clear(callback?: Callback): void
  all(callback: Callback<Record<string, any>>): void
  length(callback: Callback<number>): void
  regenerate(req: any, callback: (err?: any) => any): void
  load(sid: string, callback: Callback<any>): void
  createSession(req: any, session: any): any
}

/** Makes a store. session is what express-session exports. */
export declare function revocastStore(session: any, options: RevocastStoreOptions): RevocastStore
