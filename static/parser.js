// The HTML standard's event-stream algorithm: text in, events out.

/** Splits an event stream into events. Feed it decoded text in pieces of any size. */
export class EventStreamParser {
  #unfinished = ''; // the beginning of a line whose end has not arrived
  #afterCr = false; // the last piece ended in CR: an LF that opens the next one belongs to it
  #type = '';
  #data = [];
  #lastEventId;
  #on;

  /**
   * @param {string} lastEventId the cursor so far: a block without an `id` leaves it as it was
   * @param {{cursor: (id: string) => void, event: (event: object) => void, retry: (ms: number) => void}} on
   */
  constructor(lastEventId, on) {
    this.#lastEventId = lastEventId;
    this.#on = on;
  }

  push(text) {
    if (text === '') return;
    // A lone CR ends a line at once. Waiting to see whether an LF follows would hold back an event
    // until the next one came.
    const piece = this.#afterCr && text.startsWith('\n') ? text.slice(1) : text;
    this.#afterCr = text.endsWith('\r');
    const lines = (this.#unfinished + piece).split(/\r\n|\n|\r/);
    this.#unfinished = lines.pop();
    for (const line of lines) this.#line(line);
  }

  #line(line) {
    if (line === '') return this.#blank();
    const colon = line.indexOf(':');
    if (colon === 0) return; // a comment
    if (colon === -1) return this.#field(line, '');
    const value = line.slice(colon + 1);
    this.#field(line.slice(0, colon), value.startsWith(' ') ? value.slice(1) : value);
  }

  #field(name, value) {
    switch (name) {
      case 'event':
        this.#type = value;
        break;
      case 'data':
        this.#data.push(value);
        break;
      case 'id':
        if (!value.includes('\0')) this.#lastEventId = value;
        break;
      case 'retry':
        if (/^[0-9]+$/.test(value)) this.#on.retry(Number(value));
        break;
      default: // fields nobody knows yet are skipped
    }
  }

  // A blank line ends a block. It commits the id even when there is no data: that is how a heartbeat
  // moves the cursor without dispatching anything. A block cut off by the end of the stream never
  // gets here, so neither its data nor its id counts, and it comes again after the reconnect.
  #blank() {
    const type = this.#type || 'message';
    const data = this.#data;
    this.#type = '';
    this.#data = [];
    this.#on.cursor(this.#lastEventId);
    if (data.length === 0) return;
    this.#on.event({ type, data: data.join('\n'), lastEventId: this.#lastEventId });
  }
}
