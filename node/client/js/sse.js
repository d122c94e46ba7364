// The most characters that one event may have. A node's are far below; who sends
// more is no node, and must not fill the memory.
const MAX = 1 << 20

/**
 * Reads a text/event-stream (HTML standard, section 9.2). push takes bytes and
 * calls onEvent with {type, data, id} for each event that is complete; id is
 * undefined unless the event has one of its own.
 */
export class EventStream {
  #onEvent
  #decoder = new TextDecoder('utf-8', { fatal: true })
  #rest = '' // the line that is not complete
  #cr = false // the last character was a CR: an LF that follows belongs to it
  #type = ''
  #data = []
  #size = 0
  #id

  constructor (onEvent) { this.#onEvent = onEvent }

  push (bytes) {
    let text = this.#decoder.decode(bytes, { stream: true })
    if (text === '') return
    if (this.#cr && text[0] === '\n') text = text.slice(1)
    this.#cr = text.endsWith('\r')
    const lines = (this.#rest + text).split(/\r\n|\r|\n/)
    this.#rest = lines.pop()
    if (this.#rest.length > MAX) throw new Error('an event of the feed is too long')
    for (const line of lines) this.#line(line)
  }

  #line (line) {
    if (line === '') return this.#dispatch()
    const colon = line.indexOf(':')
    if (colon === 0) return // a comment
    const name = colon < 0 ? line : line.slice(0, colon)
    const value = colon < 0 ? '' : line.slice(line[colon + 1] === ' ' ? colon + 2 : colon + 1)
    if (name === 'event') this.#type = value
    else if (name === 'id' && !value.includes('\0')) this.#id = value
    else if (name === 'data') {
      this.#data.push(value)
      this.#size += value.length
      if (this.#size > MAX) throw new Error('an event of the feed is too long')
    }
  }

  #dispatch () {
    const event = { type: this.#type || 'message', data: this.#data.join('\n'), id: this.#id }
    const empty = this.#data.length === 0
    this.#type = ''
    this.#data = []
    this.#size = 0
    this.#id = undefined
    if (!empty) this.#onEvent(event)
  }
}
