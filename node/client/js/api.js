import { RevocastError } from './errors.js'

/** Speaks HTTP to the nodes: one after the other until one answers. */
export class Api {
  #first = 0 // index of the node to ask first: the last that answered

  constructor ({ urls, app, apiKey, fetch, timeoutMs }) {
    this.urls = urls
    this.app = app
    this.fetch = fetch
    this.timeoutMs = timeoutMs
    this.headers = { authorization: `Bearer ${apiKey}`, 'x-revocast-app': app }
  }

  /** The address to ask first. */
  get url () { return this.urls[this.#first] }

  /** Lets another node be asked first than the one at url, which did not answer. Several may notice that. */
  leave (url) {
    if (url === this.url) this.#first = (this.#first + 1) % this.urls.length
  }

  /**
   * The answer {status, body, headers} of a success; every other answer is
   * thrown. once: the call must not be repeated on another node when the answer
   * is lost, since it would be done twice. wait: ms that the answer may take longer.
   */
  async call (method, path, { query, body, headers, once = false, wait = 0 } = {}) {
    let failed
    const first = this.urls.indexOf(this.url)
    for (const url of [...this.urls.slice(first), ...this.urls.slice(0, first)]) {
      try {
        return await this.at(url, method, path, { query, body, headers, wait })
      } catch (err) {
        if (err.code !== 'unavailable') throw err
        failed = err
        this.leave(url)
        if (once) break
      }
    }
    throw failed
  }

  /** call, of the one node at url. */
  async at (url, method, path, { query, body, headers, wait = 0 } = {}) {
    const asked = query && Object.entries(query).filter(([, v]) => v !== undefined)
    const suffix = asked?.length ? `?${new URLSearchParams(asked)}` : ''
    let res, text
    try {
      res = await this.fetch(`${url}${path}${suffix}`, {
        method,
        headers: { ...this.headers, ...(body !== undefined && { 'content-type': 'application/json' }), ...headers },
        body: body === undefined ? undefined : JSON.stringify(body),
        redirect: 'error', // it would carry tokens elsewhere
        cache: 'no-store', // Next keeps what is fetched, also what a POST is answered
        signal: AbortSignal.timeout(this.timeoutMs + wait)
      })
      text = await res.text()
    } catch (err) {
      throw new RevocastError('unavailable', `${method} ${path}: no answer from ${url}: ${err.message}`, { type: 'unreachable', cause: err })
    }
    const json = parsed(text)
    if (!res.ok) throw refusal(method, path, res, json)
    if (json === undefined) throw new RevocastError('unavailable', `${method} ${path}: the answer of ${url} is no JSON object`, { type: 'unreadable' })
    return { status: res.status, body: json, headers: res.headers }
  }
}

function parsed (text) {
  try {
    const value = JSON.parse(text)
    return typeof value === 'object' && value !== null ? value : undefined
  } catch { return undefined }
}

/** The error of an answer that is no success. */
export function refusal (method, path, res, json) {
  const type = json?.error_type ?? 'unreadable' // a page of some proxy
  const reason = json?.error_details?.reason
  let code = 'refused'
  if (res.status >= 500 || res.status === 429 || json?.error_type === undefined) code = 'unavailable'
  else if (type === 'app_suspended') code = 'suspended'
  else if (type === 'session_not_found') code = { revoked: 'revoked', expired: 'expired', idle: 'expired' }[reason] ?? 'invalid'
  const headers = {}
  for (const name of ['retry-after', 'www-authenticate', 'dpop-nonce']) {
    if (res.headers.get(name)) headers[name] = res.headers.get(name)
  }
  // Passed on, a proxy's own 401 or 404 would log somebody out.
  const status = code === 'unavailable' && res.status < 500 && res.status !== 429 ? undefined : res.status
  return new RevocastError(code, `${method} ${path}: ${res.status} ${type}: ${json?.error_message ?? 'no error of a node'}`, {
    status, type, reason, details: json?.error_details, requestId: json?.request_id, headers: Object.keys(headers).length ? headers : undefined
  })
}
