/** What a client is made of. baseUrl, app and apiKey are needed. */
export interface ClientOptions {
  /** Address of a node, or of several: the next is asked when one does not answer. */
  baseUrl: string | string[]
  /** The app whose sessions these are. */
  app: string
  /** An API key of the app with the scopes read and verify; create and revoke for the calls of that name. */
  apiKey: string
  /** iss of the JWTs, or the public base URL of the nodes (--public-url). Default: what a node says it is. */
  issuer?: string
  /** The one aud of the JWTs. Default: app. The API takes JWTs of no other: those are judged here or not at all. */
  audience?: string
  /** How long after the last proof that the feed is whole JWTs are judged here, 1000 to 15000 ms. Default: 15000. */
  leaseMs?: number
  /** What is done about a JWT when that proof is too old: ask the API, or throw. Default: api. */
  whenStale?: 'api' | 'refuse'
  /** Likewise about one that has expired; the API gives a new one while the session lives. Default: api. */
  whenExpired?: 'api' | 'refuse'
  /** By how many seconds clocks may differ, 0 to 5. Default: 5. */
  leewaySeconds?: number
  /** How many JWTs are kept whose signature was checked. Default: 10000. */
  cacheSize?: number
  /** Milliseconds until a node counts as not answering. Default: 5000. */
  timeoutMs?: number
  /** Instead of the global fetch. */
  fetch?: typeof globalThis.fetch
  /** Instead of the clocks of this machine, for tests. */
  clock?: Clock
  /** Called with each revocation, after it is in force. At least once each. What it throws goes to onProblem. */
  onEvent?: (event: RevocationEvent) => unknown
  /** Called with what went wrong in the background: the feed, the keys. */
  onProblem?: (problem: Error) => void
}

/** Several clocks read at once, in ms: the time between two readings is the most that any of them says. */
export interface Clock {
  now(): readonly number[]
  /** ms since 1970, for nbf and exp. */
  wall(): number
}

export type ErrorCode = 'missing' | 'revoked' | 'expired' | 'invalid' | 'suspended' | 'refused' | 'stale' | 'unavailable'

/** The one error. Only revoked, expired and invalid say that somebody is logged out. */
export class RevocastError extends Error {
  constructor(code: ErrorCode, message: string, about?: object)
  code: ErrorCode
  /** error_type of the API's answer, or what else it was. */
  type: string
  /** In more detail: the API's reason, or which rule the JWT breaks. */
  reason?: string
  /** HTTP status to answer with, and its headers. */
  status: number
  statusCode: number
  headers: Record<string, string>
  details?: Record<string, unknown>
  requestId?: string
}

/** A session that is good. It is frozen: requests with the same JWT share it. */
export interface Session {
  readonly sessionId: string
  readonly userId: string
  readonly appId: string
  /** Who judged it. */
  readonly source: 'local' | 'api'
  /** The claims of the JWT; of the new one, if the API was asked. */
  readonly claims?: Readonly<Record<string, any>>
  /** Only local: the shape of the JWT, and its times. */
  readonly profile?: 'native' | 'stytch' | 'streambird' | 'clerk'
  readonly issuedAt?: Date
  readonly jwtExpiresAt?: Date
  /** When the session ends, where that is known. */
  readonly expiresAt?: Date
  /** Only from the API: a fresh JWT for the client, and the session as the API shows it. */
  readonly jwt?: string
  readonly session?: Readonly<Record<string, any>>
}

/** A proof of possession (RFC 9449), and the request that it was made for. */
export interface Proof {
  proof: string
  htm: string
  htu: string
}

export interface VerifyOptions {
  dpop?: Proof
  /** false: it is no use of the session. Only where the API is asked. */
  touch?: boolean
}

export interface RevocationEvent {
  type: 'session.revoked' | 'user.revoked' | 'app.revoked' | 'app.suspended' | 'app.resumed' | 'app.deleted' | 'key.compromised'
  revision: string
  at: string
  app_id: string
  region?: string
  stream?: number
  session_id?: string
  user_id?: string
  user_hash?: string
  reason?: string
  by?: string
  revoked_at?: string
  except_session_ids?: string[]
  kid?: string
}

export interface Status {
  connected: boolean
  /** Name of the node that the feed comes from. */
  node?: string
  revision?: string
  /** What is left of the lease on each stream, 0: none. */
  streams: { region: string; stream: number; leaseMs: number }[]
  /** How many revocations are held. */
  revocations: number
}

/** Bodies and answers of the API are as /openapi.yaml says. */
type Body = Record<string, any>

export interface Client {
  /** Begins to follow the revocations; resolves at the first lease, rejects when the API refuses it. */
  start(): Promise<void>
  /** Ends that. Every lease is void at once. */
  stop(): Promise<void>
  status(): Status
  /** The session of a token or a JWT, or a RevocastError. */
  verify(credential: string | null | undefined, options?: VerifyOptions): Promise<Session>
  create(session: Body, options?: { idempotencyKey?: string; dpop?: string }): Promise<Body>
  authenticate(body: Body): Promise<Body>
  revoke(body: Body): Promise<Body>
  /** One page; next_cursor in it asks for the next. */
  list(query?: Record<string, string | number | undefined>): Promise<Body>
  get(sessionId: string): Promise<Body>
}

export function createClient(options: ClientOptions): Client

export interface AuthOptions<Request = any, Response = any> {
  /** Cookies that may hold the token or JWT, the first that is there counts. Default: __Host-session, session. */
  cookies?: string[]
  /** Scheme and host under which clients reach this service, for DPoP proofs. Default: what the request says, which its sender chooses. */
  origin?: string
  /** Who is nobody gets null instead of 401. What is not known now stays 503. */
  optional?: boolean
  /** Called when the API has given a new JWT, auth.jwt. */
  onRefresh?: (auth: Session, request: Request, response: Response) => unknown
}

/** Middleware for Express: req.auth. */
export function expressAuth(client: Pick<Client, 'verify'>, options?: AuthOptions): (req: any, res: any, next: (err?: unknown) => void) => Promise<void>

/** Plugin for Fastify: request.auth, in the scope in which it is registered. */
export function fastifyAuth(client: Pick<Client, 'verify'>, options?: AuthOptions): (fastify: any) => Promise<void>

/** Wraps a route handler of Next's app router, or any Request → Response. */
export function nextRoute<Context extends object>(
  client: Pick<Client, 'verify'>,
  handler: (request: Request, context: Context & { auth: Session }) => Response | Promise<Response>,
  options?: AuthOptions<Request, Response> & { optional?: false }
): (request: Request, context: Context) => Promise<Response>
export function nextRoute<Context extends object>(
  client: Pick<Client, 'verify'>,
  handler: (request: Request, context: Context & { auth: Session | null }) => Response | Promise<Response>,
  options: AuthOptions<Request, Response>
): (request: Request, context: Context) => Promise<Response>

/** For Next's middleware on the Node.js runtime: undefined where the request may go on. */
export function nextMiddleware(
  client: Pick<Client, 'verify'>,
  options?: Omit<AuthOptions, 'onRefresh'> & { login?: string }
): (request: Request) => Promise<Response | undefined>
