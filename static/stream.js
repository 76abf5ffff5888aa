// A subscriber for Tidings: one subscription over any number of connections, with its cursor, retry, gaps and end.
//
// Why not EventSource? It hands out named events only to listeners registered for that very name, so
// a page that wants every event, whatever its name, cannot use it. Apart from that this behaves
// alike: same parsing, same `Last-Event-ID`, same reasons to stop. Where the names are known
// beforehand, `new EventSource('/subscribe?topic=news')` is all it takes.

import { EventStreamParser } from './parser.js';

const RETRY_DEFAULT_MS = 3_000; // until the server's first `retry:` says otherwise
const RETRY_MAX_MS = 30_000; // how far the back-off grows while nothing answers
const SILENCE_MAX_MS = 45_000; // three heartbeats: a connection quieter than this is dead
const TIMER_MAX_MS = 2 ** 31 - 1; // setTimeout takes anything longer for zero

/**
 * Follows topics until closed, refused or ended, and calls back:
 *
 *   event({id, topic, event, time, data})             one published event
 *   gap({reason, requested, resumed_after})           events were lost: evicted, reset or unreadable
 *   deleted(topic)                                    the topic was deleted, and the stream goes on; or ends with its only one
 *   cursor(id)                                        everything up to this id has been seen
 *   state(name, details)                              see below
 *
 * States: `connecting`; `open`; `reconnecting` and `offline` ({attempt, at}: the next attempt starts
 * at that time, or is under way when `at` is null); and for good, until `retryNow`, `ended`
 * ({reason}) and `refused` ({status, code, detail}).
 *
 * The server sends each event once per cursor, in order, so nothing here removes duplicates.
 */
export class Subscription {
  cursor = ''; // the last event id: what the next connection resumes after
  reconnects = 0;

  #url;
  #topics;
  #start;
  #askForTicket;
  #on;
  #connection = null; // AbortController of the connection in use; any other one is stale
  #timer = 0;
  #retryMs = RETRY_DEFAULT_MS;
  #failures = 0; // attempts since the stream was last open
  #wasOpen = false; // so the next opening is a reconnect
  #stopped = false;

  /**
   * @param {URL} url of the subscribe endpoint
   * @param {{topics: string[], cursor?: string, start?: string, askForTicket?: Function}} what
   *   `start` (`since=all`, `last=10`) says where to begin while there is no cursor yet; without it,
   *   live only. `askForTicket(topics, signal)` resolves to the response of /tickets, or to null
   *   when none is needed
   * @param {object} on the callbacks
   */
  constructor(url, { topics, cursor = '', start = '', askForTicket = async () => null }, on) {
    this.#url = url;
    this.#topics = [...topics];
    this.#start = start;
    this.#askForTicket = askForTicket;
    this.#on = on;
    this.cursor = cursor;
    addEventListener('online', this.#networkChanged);
    addEventListener('offline', this.#networkChanged);
    addEventListener('pagehide', this.#leave);
    addEventListener('pageshow', this.#comeBack);
    this.#connect();
  }

  /** Ends the subscription. No callback is called afterwards. */
  close() {
    this.#stop();
    removeEventListener('online', this.#networkChanged);
    removeEventListener('offline', this.#networkChanged);
    removeEventListener('pagehide', this.#leave);
    removeEventListener('pageshow', this.#comeBack);
  }

  /** Does not wait for the back-off; also the way back from `refused` and `ended`. */
  retryNow() {
    this.#stopped = false;
    this.#connect();
  }

  /** Follows other topics from here on, with the same cursor: one id resumes any set of topics. */
  setTopics(topics) {
    this.#topics = [...topics];
    if (this.#stopped) return;
    this.#startAfresh();
    this.#connect();
  }

  // Either event makes the connection in use doubtful, and the quickest way to know is to try. Being
  // "offline" does not rule out success: a broker on this very machine still answers.
  #networkChanged = () => {
    if (!this.#stopped) this.#connect();
  };

  // A page that is left may be kept for the way back, and its connection with it, for a minute or
  // more: one of the six that a browser opens, and a subscriber whom nobody reads.
  #leave = () => {
    clearTimeout(this.#timer);
    this.#connection?.abort();
    this.#connection = null;
  };

  #comeBack = (event) => {
    if (event.persisted && !this.#stopped) this.#connect();
  };

  #startAfresh() {
    this.#failures = 0;
    this.#wasOpen = false;
  }

  #stop() {
    this.#stopped = true;
    clearTimeout(this.#timer);
    this.#connection?.abort();
    this.#connection = null;
  }

  #address(ticket) {
    const url = new URL(this.#url);
    for (const topic of this.#topics) url.searchParams.append('topic', topic);
    if (ticket !== null) url.searchParams.set('ticket', ticket);
    url.searchParams.set('envelope', 'json'); // so that each event names its topic
    url.searchParams.set('marks', 'id'); // so that the cursor moves while nothing comes
    if (this.cursor === '' && this.#start !== '') {
      for (const [key, value] of new URLSearchParams(this.#start)) url.searchParams.set(key, value);
    }
    return url;
  }

  async #connect() {
    clearTimeout(this.#timer);
    this.#connection?.abort();
    const connection = new AbortController();
    this.#connection = connection;
    this.#announceAttempt();
    const headers = { Accept: 'text/event-stream' };
    if (this.cursor !== '') headers['Last-Event-ID'] = asHeader(this.cursor);
    const watchdog = new Watchdog(() => connection.abort());
    try {
      const ticket = await this.#ticket(connection);
      if (connection !== this.#connection) return;
      const response = await fetch(this.#address(ticket), { headers, cache: 'no-store', signal: connection.signal });
      if (await this.#accepts(response, connection)) await this.#read(response.body, connection, watchdog);
      this.#lost(connection);
    } catch {
      // fetch and read() reject for everything the network can do, and when the watchdog aborts.
      this.#lost(connection);
    } finally {
      watchdog.stop();
    }
  }

  #announceAttempt() {
    const details = { attempt: this.#failures + 1, at: null };
    if (!navigator.onLine) this.#on.state('offline', details);
    else if (this.#failures > 0 || this.#wasOpen) this.#on.state('reconnecting', details);
    else this.#on.state('connecting', details);
  }

  // Each connection needs a ticket of its own: the last one is used up. A refusal that says when to
  // try again passes by itself, and so does that of a proxy; any other one would repeat itself.
  async #ticket(connection) {
    const response = await this.#askForTicket(this.#topics, connection.signal);
    if (response === null) return null;
    if (response.status === 201) return (await response.json()).ticket;
    if (response.headers.has('Retry-After') || isOfProxy(response)) this.#lost(connection);
    else this.#finish(connection, 'refused', { status: response.status, ...(await readProblem(response)) });
    return null;
  }

  // As for an EventSource: 200 with the right type is a stream, 204 says "do not come back", and
  // anything else is a refusal that would repeat itself.
  async #accepts(response, connection) {
    if (response.status === 204) {
      this.#finish(connection, 'ended', { reason: 'gone' });
      return false;
    }
    if (isOfProxy(response)) {
      this.#lost(connection);
      return false;
    }
    const type = response.headers.get('Content-Type') ?? '';
    if (response.status === 200 && /^text\/event-stream\s*(;|$)/i.test(type)) return true;
    const problem = await readProblem(response);
    this.#finish(connection, 'refused', { status: response.status, ...problem });
    return false;
  }

  async #read(body, connection, watchdog) {
    const reader = body.getReader();
    const decoder = new TextDecoder(); // drops a leading BOM, and replaces bytes that are not UTF-8
    const parser = this.#parser(connection);
    let first = true;
    for (;;) {
      const { done, value } = await reader.read();
      // Bytes that a connection given up had still in hand: its successor gets them again.
      if (done || connection !== this.#connection) return;
      watchdog.kick();
      parser.push(decoder.decode(value, { stream: true }));
      // Open is when something has arrived: a refusal also begins with 200, and is not an opening.
      if (first && connection === this.#connection) this.#opened();
      first = false;
    }
  }

  // A callback may close or restart the subscription in the middle of a chunk. What is left of the
  // chunk then belongs to nobody: no event is shown and the cursor stays. What a callback throws is
  // reported and no more, as for any event listener: it is not the network's fault.
  #parser(connection) {
    const current = (act) => (value) => {
      if (connection !== this.#connection) return;
      try {
        act(value);
      } catch (error) {
        reportError(error);
      }
    };
    return new EventStreamParser(this.cursor, {
      cursor: current((id) => {
        if (id === this.cursor) return;
        this.cursor = id;
        this.#on.cursor(id);
      }),
      retry: current((ms) => (this.#retryMs = Math.min(ms, TIMER_MAX_MS))),
      event: current((event) => this.#dispatch(event, connection)),
    });
  }

  // Names that begin with `broker.` are the server's own; no publisher can use them.
  #dispatch(event, connection) {
    const { type, data, lastEventId } = event;
    if (!type.startsWith('broker.')) return this.#on.event(unwrap(event));
    const notice = parseObject(data);
    if (type === 'broker.gap') {
      this.#on.gap({ requested: '', resumed_after: lastEventId, ...notice });
    } else if (type === 'broker.deleted') {
      const isLast = this.#topics.length === 1;
      this.#on.deleted(notice.topic);
      if (isLast) this.#finish(connection, 'ended', { reason: 'deleted' });
    } else if (type === 'broker.unauthorized') {
      // The token has ended, or its key. A new ticket, or its refusal, says what is left of it.
      this.#lost(connection);
    } else if (type === 'broker.refused') {
      this.#refused(notice, connection);
    }
  }

  // A server that drains will be replaced. A stream that was open may still count against a limit for
  // some minutes, if the server has not noticed yet that it was lost. In both cases the page comes back
  // later. Other refusals are limits that a new page has reached, and it stays away from them.
  #refused(notice, connection) {
    if (notice.code === 'draining' || this.#wasOpen) {
      if (notice.retry_ms > 0) this.#retryMs = notice.retry_ms;
      this.#lost(connection);
    } else {
      this.#finish(connection, 'refused', { status: 200, code: notice.code, detail: notice.message });
    }
  }

  #opened() {
    if (this.#wasOpen) this.reconnects += 1;
    this.#wasOpen = true;
    this.#failures = 0;
    this.#on.state('open', {});
  }

  // The first attempt waits as long as the server asked for (it jitters that itself). Each failure
  // after it doubles the longest wait that may be drawn, so that a crowd of clients spreads out.
  #lost(connection) {
    if (connection !== this.#connection || this.#stopped) return;
    connection.abort();
    this.#connection = null;
    const longest = Math.max(this.#retryMs, Math.min(RETRY_MAX_MS, this.#retryMs * 2 ** this.#failures));
    const wait = this.#retryMs + Math.random() * (longest - this.#retryMs);
    this.#failures += 1;
    this.#timer = setTimeout(() => this.#connect(), wait);
    const state = navigator.onLine ? 'reconnecting' : 'offline';
    this.#on.state(state, { attempt: this.#failures, at: Date.now() + wait });
  }

  #finish(connection, state, details) {
    if (connection !== this.#connection) return;
    this.#stop();
    this.#startAfresh();
    this.#on.state(state, details);
  }
}

/** Whether a proxy says that it cannot reach the server at this moment. */
function isOfProxy(response) {
  return response.status >= 502 && response.status <= 504;
}

/** Calls `bark` when it has not been kicked for SILENCE_MAX_MS. */
class Watchdog {
  #timer;
  #bark;

  constructor(bark) {
    this.#bark = bark;
    this.kick();
  }

  kick() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(this.#bark, SILENCE_MAX_MS);
  }

  stop() {
    clearTimeout(this.#timer);
  }
}

// With `envelope=json` the data of an event is the whole event. Should something between here and
// the server have dropped the parameter, the bare event is still worth showing.
function unwrap({ type, data, lastEventId }) {
  const bare = { id: lastEventId, topic: '', event: type === 'message' ? null : type, time: null, data };
  const envelope = parseObject(data);
  return typeof envelope.id === 'string' && typeof envelope.data === 'string' ? { ...bare, ...envelope } : bare;
}

function parseObject(text) {
  try {
    const value = JSON.parse(text);
    return typeof value === 'object' && value !== null ? value : {};
  } catch {
    return {};
  }
}

/** What a problem document (RFC 9457) says, or nothing when the answer is not one. */
export async function readProblem(response) {
  const type = response.headers.get('Content-Type') ?? '';
  if (!/^application\/(problem\+)?json\s*(;|$)/i.test(type)) return { code: null, detail: null };
  const { code = null, detail = null, title = null } = parseObject(await response.text());
  return { code, detail: detail ?? title };
}

// Header values are bytes to fetch: the standard sends the id as UTF-8.
function asHeader(id) {
  return String.fromCharCode(...new TextEncoder().encode(id));
}
