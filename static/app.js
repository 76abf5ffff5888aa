// The page: what is pressed, and what is shown. The protocol itself is in stream.js.

import { copy, endpoint, subscribeCommand } from './commands.js';
import { EventList, hue } from './list.js';
import { PublishForm } from './publish.js';
import { Subscription } from './stream.js';
import { askForTicket, forgetToken, hasToken, setToken } from './token.js';
import { currentLanguage, label, preferredLanguage, say, sayNothing, setLanguage } from './words.js';

const COUNT_DOWN_EVERY_MS = 250;
const SLOW_AFTER_MS = 5_000;
const THEMES = ['system', 'light', 'dark'];
const COMMA = /[,\uFF0C]/; // also the one of a Chinese keyboard

const find = (selector) => document.querySelector(selector);

const publishForm = new PublishForm(find);
const list = new EventList({
  list: find('#events'),
  empty: find('#empty'),
  received: find('#received'),
  dropped: find('#dropped'),
  held: find('#held'),
});

let topics = [];
let subscription = null; // there from Subscribe until Unsubscribe, connected or not
let reconnectsBefore = 0; // of subscriptions that are over
let cursor = ''; // outlives the subscription, so that pausing misses nothing
let state = 'idle';
let ticker = 0;

// --- The subscription -----------------------------------------------------------------------

function subscribe() {
  takeTypedTopics();
  if (topics.length === 0) {
    find('#topic-input').focus();
    return;
  }
  forgetSubscription();
  const callbacks = {
    state: showState,
    event: (event) => list.addEvent(event),
    gap: (gap) => list.addGap(gap),
    deleted: topicDeleted,
    cursor: (id) => {
      cursor = id;
      showCursor();
    },
  };
  const what = { topics, cursor, start: find('#since').value, askForTicket };
  subscription = new Subscription(endpoint('subscribe'), what, callbacks);
  keepLinkInStep();
}

function unsubscribe() {
  forgetSubscription();
  showState('idle', {});
  keepLinkInStep();
}

function forgetSubscription() {
  if (subscription === null) return;
  subscription.close();
  reconnectsBefore += subscription.reconnects;
  subscription = null;
}

function topicDeleted(topic) {
  list.addDeleted(topic);
  // The last one stays as a chip: the stream ends, and Subscribe is there to begin again.
  if (topics.length === 1) return;
  // The stream would go on with the topic's next life; the page follows what its chips say.
  setTopics(topics.filter((other) => other !== topic));
}

// Another beginning is another view: the cursor no longer stands for what the list shows.
function beginElsewhere() {
  cursor = '';
  showCursor();
  showCommand();
  list.clear();
  if (subscription !== null) subscribe();
}

// --- The state ------------------------------------------------------------------------------

function showState(name, details) {
  state = name;
  const running = !['idle', 'ended', 'refused'].includes(name);
  const element = find('#state');
  element.dataset.state = name;
  say(element, `state_${name}`);
  sayReason(name, details);
  say(find('#reconnects'), 'count', { n: reconnectsBefore + (subscription?.reconnects ?? 0) });
  showButtons(running);
  clearInterval(ticker);
  sayNothing(find('#countdown'));
  if (name === 'connecting') ticker = setInterval(() => say(find('#countdown'), 'slow'), SLOW_AFTER_MS);
  else if ('attempt' in details) countDown(details);
  if (details.status === 401) find('#token-panel').open = true;
  // The cursor of topics that are gone leads nowhere; the next subscription begins afresh.
  if (name === 'ended') cursor = '';
  showCursor();
}

function sayReason(name, details) {
  const element = find('#reason');
  if (name === 'idle') say(element, 'reason_idle');
  else if (name === 'open') say(element, 'reason_open', { topics: topics.length });
  else if (name === 'ended') say(element, `reason_ended_${details.reason}`);
  else if (name === 'refused') say(element, refusal(details), details);
  else if (name === 'connecting') sayNothing(element);
  else say(element, 'reason_lost');
}

const LIMITS = ['too_many_connections', 'too_many_connections_per_ip', 'too_many_subscribers'];

function refusal({ status, code, detail }) {
  if (status === 401) return hasToken() ? 'reason_token' : 'reason_no_token';
  if (code === 'forbidden') return 'reason_forbidden';
  if (status === 200 && LIMITS.includes(code)) return `reason_${code}`;
  if (detail) return 'reason_refused_message';
  if (status !== 200) return 'reason_refused_status';
  return code ? 'reason_refused_silent' : 'reason_refused_not_a_stream';
}

function countDown({ attempt, at }) {
  const tick = () => {
    const seconds = at === null ? 0 : Math.ceil((at - Date.now()) / 1_000);
    say(find('#countdown'), seconds > 0 ? 'countdown' : 'countdown_now', { attempt, seconds });
  };
  tick();
  ticker = setInterval(tick, COUNT_DOWN_EVERY_MS);
}

// Subscribe and Unsubscribe take each other's place, and the focus goes along.
function showButtons(running) {
  const [shown, gone] = running ? ['#unsubscribe', '#subscribe'] : ['#subscribe', '#unsubscribe'];
  const hadFocus = document.activeElement === find(gone);
  find(shown).hidden = false;
  find(gone).hidden = true;
  const retry = find('#retry');
  const retryHadFocus = document.activeElement === retry;
  retry.hidden = !['reconnecting', 'offline', 'refused'].includes(state);
  say(retry, state === 'refused' ? 'try_again' : 'retry_now');
  if (hadFocus || (retryHadFocus && retry.hidden)) find(shown).focus();
}

function showCursor() {
  find('#cursor').textContent = cursor === '' ? '–' : cursor;
}

// --- Topics ---------------------------------------------------------------------------------

function setTopics(next) {
  topics = next;
  showTopics();
  if (subscription === null) return;
  if (topics.length === 0) return unsubscribe();
  subscription.setTopics(topics);
  keepLinkInStep();
}

// What has been typed becomes topics; only the part after the last comma may still be growing.
function takeTypedTopics() {
  const input = find('#topic-input');
  const added = input.value.split(COMMA).map((topic) => topic.trim()).filter((topic) => topic !== '');
  input.value = '';
  const next = [...new Set([...topics, ...added])];
  if (next.length !== topics.length) setTopics(next);
}

function removeTopic(topic) {
  setTopics(topics.filter((other) => other !== topic));
  find('#topic-input').focus();
}

function showTopics() {
  const chips = topics.map((topic) => {
    const chip = document.createElement('li');
    chip.className = `chip hue-${hue(topic)}`;
    const name = document.createElement('span');
    name.textContent = topic;
    const remove = document.createElement('button');
    remove.type = 'button';
    remove.textContent = '×';
    label(remove, 'remove_topic', { topic });
    remove.addEventListener('click', () => removeTopic(topic));
    chip.append(name, remove);
    return chip;
  });
  find('#topics').replaceChildren(...chips);
  showCommand();
}

function showCommand() {
  find('#curl-subscribe').textContent = subscribeCommand(topics, find('#since').value, hasToken());
}

// --- The token ------------------------------------------------------------------------------

function showToken(hint) {
  say(find('#token-state'), hasToken() ? 'token_given' : 'token_none');
  say(find('#token-hint'), hint);
  const forget = find('#token-forget');
  if (document.activeElement === forget && !hasToken()) find('#token').focus();
  forget.hidden = !hasToken();
  showCommand();
  publishForm.tokenChanged();
}

// The stream goes on with the new token, after its cursor.
function useTypedToken() {
  const valid = setToken(find('#token').value);
  showToken(valid ? 'token_hint' : 'token_invalid');
  if (subscription !== null) subscribe();
}

// What the token has opened is closed with it.
function forget() {
  forgetToken();
  find('#token').value = '';
  showToken('token_hint');
  if (subscription !== null) unsubscribe();
}

// --- The link -------------------------------------------------------------------------------

function link() {
  const url = new URL(location.href);
  url.search = new URLSearchParams(topics.map((topic) => ['topic', topic]));
  return url;
}

// While subscribed, the address says to what: reloading or sharing it subscribes to the same.
function keepLinkInStep() {
  const url = link();
  if (subscription === null) url.search = '';
  history.replaceState(null, '', url);
}

// --- Language and theme ---------------------------------------------------------------------

function recall(key) {
  try {
    return localStorage.getItem(`tidings.${key}`);
  } catch {
    return null; // storage can be denied altogether
  }
}

function remember(key, value) {
  try {
    localStorage.setItem(`tidings.${key}`, value);
  } catch {
    // Then it lasts as long as the page.
  }
}

function speak(language) {
  setLanguage(language);
  find('#lang').lang = language === 'en' ? 'zh-Hans' : 'en';
  publishForm.translate();
}

function toggleLanguage() {
  const next = currentLanguage() === 'en' ? 'zh-Hans' : 'en';
  remember('lang', next);
  speak(next);
}

function showTheme(theme) {
  if (theme === 'system') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  say(find('#theme'), `theme_${theme}`);
}

// From `system` the first step is the one that can be seen.
function toggleTheme() {
  const dark = matchMedia('(prefers-color-scheme: dark)').matches;
  const round = dark ? THEMES : ['system', 'dark', 'light'];
  const theme = document.documentElement.dataset.theme ?? 'system';
  const next = round[(round.indexOf(theme) + 1) % round.length];
  remember('theme', next);
  showTheme(next);
}

// --- Wiring ---------------------------------------------------------------------------------

function listenToTopicInput() {
  const input = find('#topic-input');
  input.addEventListener('keydown', (event) => {
    if (event.isComposing) return; // Enter then belongs to the input method
    if (event.key === 'Enter') {
      event.preventDefault();
      takeTypedTopics();
    } else if (event.key === 'Backspace' && input.value === '' && topics.length > 0) {
      removeTopic(topics.at(-1));
    }
  });
  input.addEventListener('input', (event) => {
    if (!event.isComposing && COMMA.test(input.value)) takeTypedTopics();
  });
  input.addEventListener('compositionend', () => {
    if (COMMA.test(input.value)) takeTypedTopics();
  });
  find('#chip-box').addEventListener('click', (event) => {
    if (event.target.closest('button') === null) input.focus();
  });
}

function listen() {
  listenToTopicInput();
  find('#subscribe-form').addEventListener('submit', (event) => event.preventDefault());
  find('#subscribe').addEventListener('click', subscribe);
  find('#unsubscribe').addEventListener('click', unsubscribe);
  find('#retry').addEventListener('click', () => subscription?.retryNow());
  find('#since').addEventListener('change', beginElsewhere);
  find('#clear').addEventListener('click', () => list.clear());
  find('#token-form').addEventListener('submit', (event) => event.preventDefault());
  find('#token').addEventListener('change', useTypedToken);
  find('#token-forget').addEventListener('click', forget);
  find('#hold').addEventListener('click', (event) => {
    const held = event.currentTarget.getAttribute('aria-pressed') !== 'true';
    event.currentTarget.setAttribute('aria-pressed', String(held));
    list.hold(held);
  });
  find('#copy-link').addEventListener('click', (event) => copy(link().href, event.currentTarget));
  for (const button of document.querySelectorAll('[data-copy]')) {
    const source = find(`#${button.dataset.copy}`);
    button.addEventListener('click', () => copy(source.textContent, button, source));
  }
  find('#lang').addEventListener('click', toggleLanguage);
  find('#theme').addEventListener('click', toggleTheme);
}

function start() {
  showTheme(document.documentElement.dataset.theme ?? 'system');
  speak(recall('lang') ?? preferredLanguage());
  const asked = new URLSearchParams(location.search).getAll('topic').filter((topic) => topic !== '');
  setTopics(asked.length > 0 ? [...new Set(asked)] : ['news']);
  showState('idle', {});
  showToken('token_hint');
  listen();
  if (asked.length === 0) return;
  publishForm.suggestTopic(asked[0]);
  subscribe();
}

start();
