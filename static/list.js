// The list of events: newest first, bounded, drawn in batches so that a burst costs one layout.

import { label, say, word } from './words.js';

const ROWS_MAX = 500;
const CHARACTERS_MAX = 4 * 1024 * 1024; // of data, all rows together: 500 large events are too much for a page
const DRAW_EVERY_MS = 30;
const HUES = 6; // colours that tell topics apart, beside their names; see .hue-* in style.css

export class EventList {
  #list;
  #empty;
  #counters;
  #shown = new Bounded(); // {element, characters}: what is in the document
  #waiting = new Bounded(); // {make, characters}: what is not drawn yet
  #received = 0;
  #dropped = 0;
  #held = false;
  #timer = 0;

  /** @param {{list, empty, received, dropped, held}} elements */
  constructor({ list, empty, ...counters }) {
    this.#list = list;
    this.#empty = empty;
    this.#counters = counters;
    this.#count();
  }

  addEvent(event) {
    this.#received += 1;
    this.#add(() => eventRow(event), event.data.length);
  }

  addGap(gap) {
    const known = ['evicted', 'reset', 'unreadable'].includes(gap.reason);
    this.#add(() => noticeRow('gap', `gap_${known ? gap.reason : 'other'}`, gap), 0);
  }

  addDeleted(topic) {
    this.#add(() => noticeRow('deleted', 'topic_deleted', { topic }), 0);
  }

  clear() {
    this.#list.replaceChildren();
    this.#shown = new Bounded();
    this.#waiting = new Bounded();
    this.#received = this.#dropped = 0;
    this.#count();
  }

  /** Held, the list stays still and what arrives waits, within bounds of its own. */
  hold(held) {
    this.#held = held;
    this.#draw();
  }

  // A timer and not an animation frame: frames stop in a hidden tab, and this list should not.
  #add(make, characters) {
    this.#dropped += this.#waiting.push({ make, characters }).length;
    if (this.#timer === 0) this.#timer = setTimeout(() => this.#draw(), DRAW_EVERY_MS);
  }

  #draw() {
    clearTimeout(this.#timer);
    this.#timer = 0;
    if (!this.#held && this.#waiting.length > 0) this.#show(this.#waiting.takeAll());
    this.#count();
  }

  #show(arrived) {
    const rows = arrived.map(({ make, characters }) => ({ element: make(), characters }));
    this.#list.prepend(...rows.map((row) => row.element).reverse());
    const dropped = this.#shown.push(...rows);
    for (const row of dropped) row.element.remove();
    this.#dropped += dropped.length;
    makeScrollable(rows);
  }

  #count() {
    const { received, dropped, held } = this.#counters;
    say(received, 'received', { n: this.#received });
    say(dropped, 'dropped', { n: this.#dropped });
    say(held, 'held', { n: this.#waiting.length });
    dropped.hidden = this.#dropped === 0;
    held.hidden = !this.#held;
    this.#empty.hidden = this.#shown.length > 0;
  }
}

/** Rows, oldest first, with a limit on their number and on the data they hold together. */
class Bounded {
  #rows = [];
  #characters = 0;

  get length() {
    return this.#rows.length;
  }

  /** Returns the rows that had to go: the oldest ones, and never the newest of all. */
  push(...rows) {
    this.#rows.push(...rows);
    for (const row of rows) this.#characters += row.characters;
    let gone = 0;
    while (this.#rows.length - gone > 1 && (this.#rows.length - gone > ROWS_MAX || this.#characters > CHARACTERS_MAX)) {
      this.#characters -= this.#rows[gone].characters;
      gone += 1;
    }
    return this.#rows.splice(0, gone);
  }

  takeAll() {
    this.#characters = 0;
    return this.#rows.splice(0);
  }
}

function eventRow({ id, topic, event, time, data }) {
  const moment = time === null ? new Date() : new Date(time);
  const row = element('li', `event hue-${hue(topic)}`);
  row.dataset.id = id;
  const when = element('time', 'time', clock(moment));
  when.dateTime = when.title = time ?? moment.toISOString();
  const head = element('div', 'event-head');
  // `message` is the type the standard gives to an event without a name.
  const type = element('span', event === null ? 'type unnamed' : 'type', event ?? 'message');
  head.append(element('span', 'topic', topic), type, when, element('span', 'id', id));
  const body = element('pre', 'data', data);
  body.dataset.wordEmpty = 'empty_data';
  body.dataset.empty = word('empty_data');
  row.append(head, body);
  return row;
}

function noticeRow(kind, key, args) {
  const row = element('li', kind);
  say(row, key, args);
  return row;
}

// A person without a mouse must be able to scroll data that does not fit.
function makeScrollable(rows) {
  const tall = rows
    .map((row) => row.element.querySelector('.data'))
    .filter((data) => data !== null && data.scrollHeight > data.clientHeight);
  for (const data of tall) {
    data.tabIndex = 0;
    data.setAttribute('role', 'group');
    label(data, 'data_label', { id: data.parentElement.dataset.id });
  }
}

function element(name, className, text = '') {
  const node = document.createElement(name);
  node.className = className;
  node.textContent = text;
  return node;
}

const hues = new Map();

// Topics get their colours in the order they turn up, so that the first few all differ.
export function hue(topic) {
  if (!hues.has(topic)) hues.set(topic, hues.size % HUES);
  return hues.get(topic);
}

function clock(date) {
  const two = (n) => String(n).padStart(2, '0');
  const seconds = `${two(date.getSeconds())}.${String(date.getMilliseconds()).padStart(3, '0')}`;
  return `${two(date.getHours())}:${two(date.getMinutes())}:${seconds}`;
}
