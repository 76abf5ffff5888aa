// The publish form.

import { endpoint, publishCommand } from './commands.js';
import { readProblem } from './stream.js';
import { authorization, hasToken } from './token.js';
import { say, sayNothing, word } from './words.js';

const ANSWER_WITHIN_MS = 15_000;

export class PublishForm {
  #form;
  #topic;
  #event;
  #content;
  #button;
  #answer;
  #command;
  #pending = false;
  #contentTouched = false;
  #unanswered = null; // {body, key}: what was sent and never answered

  constructor(find) {
    this.#form = find('#publish-form');
    this.#topic = find('#publish-topic');
    this.#event = find('#publish-event');
    this.#content = find('#publish-content');
    this.#button = find('#publish');
    this.#answer = find('#publish-answer');
    this.#command = find('#curl-publish');
    this.#content.addEventListener('input', () => (this.#contentTouched = true));
    this.#form.addEventListener('input', () => this.#showCommand());
    this.#form.addEventListener('submit', (event) => event.preventDefault());
    this.#form.addEventListener('keydown', (event) => {
      // Enter alone sends from the one-line fields too, but not while an input method is composing.
      const sends = event.ctrlKey || event.metaKey || event.target.tagName === 'INPUT';
      if (event.key !== 'Enter' || event.isComposing || !sends) return;
      event.preventDefault();
      this.#publish();
    });
    this.#button.addEventListener('click', () => this.#publish());
    const apple = /mac|iphone|ipad/i.test(navigator.userAgent);
    say(find('#shortcut'), 'shortcut', { keys: apple ? '⌘ ↵' : 'Ctrl + Enter' });
  }

  /** To be called when the language has changed: the greeting speaks it, unless it was edited. */
  translate() {
    if (!this.#contentTouched) this.#content.value = word('content_default');
    this.#showCommand();
  }

  /** To be called when there is a token, or none any more. */
  tokenChanged() {
    this.#showCommand();
  }

  /** Follows the subscription while nobody has chosen otherwise. */
  suggestTopic(topic) {
    this.#topic.value = topic;
    this.#showCommand();
  }

  #fields() {
    return { topic: this.#topic.value.trim(), event: this.#event.value.trim(), content: this.#content.value };
  }

  #showCommand() {
    this.#command.textContent = publishCommand(this.#fields(), hasToken());
  }

  async #publish() {
    if (this.#pending) return;
    this.#setPending(true);
    const { topic, event, content } = this.#fields();
    const body = JSON.stringify(event === '' ? { topic, content } : { topic, event, content });
    try {
      await this.#showAnswer(await this.#send(body));
    } catch {
      this.#show('bad', 'no_answer');
    } finally {
      this.#setPending(false);
    }
  }

  // When no answer came, the event may or may not have been published. Sending the same again under
  // the same key is safe: the broker remembers the key and answers as the first time.
  async #send(body) {
    const key = this.#unanswered?.body === body ? this.#unanswered.key : randomKey();
    this.#unanswered = { body, key };
    const response = await fetch(endpoint('publish'), {
      method: 'POST',
      headers: { ...authorization(), 'Content-Type': 'application/json', 'Idempotency-Key': key },
      body,
      signal: AbortSignal.timeout(ANSWER_WITHIN_MS),
    });
    const answer = response.ok ? await response.json() : { status: response.status, ...(await readProblem(response)) };
    this.#unanswered = null;
    return answer;
  }

  #showAnswer(answer) {
    if (answer.id !== undefined) {
      this.#show('good', answer.subscribers > 0 ? 'published' : 'published_nobody', answer);
    } else if (answer.status === 401) {
      this.#show('bad', hasToken() ? 'not_published_token' : 'not_published_no_token');
    } else if (answer.code === 'forbidden') {
      this.#show('bad', 'not_published_forbidden', answer);
    } else if (answer.detail) {
      this.#show('bad', 'not_published', answer);
    } else {
      this.#show('bad', 'not_published_status', answer);
    }
  }

  #show(tone, key, args = {}) {
    this.#answer.dataset.tone = tone;
    // The same answer twice in a row should be announced twice.
    sayNothing(this.#answer);
    say(this.#answer, key, args);
  }

  // Not `disabled`: that would take the focus away from the person who pressed it.
  #setPending(pending) {
    this.#pending = pending;
    this.#button.setAttribute('aria-disabled', String(pending));
  }
}

// crypto.randomUUID exists in secure contexts only, and a broker in the next room is plain http.
function randomKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}
