// The page's doings as curl commands, and copying.

import { say } from './words.js';

const SAID_FOR_MS = 1_600;

// Beside this page, wherever a proxy has put it.
export function endpoint(name) {
  return new URL(name, document.baseURI);
}

// The token itself is not shown: commands end up in the history of a shell, and on screens.
const HEADER = '-H "Authorization: Bearer $TOKEN"';

export function subscribeCommand(topics, start, withToken) {
  const query = topics.map((topic) => `topic=${encodeURIComponent(topic)}`);
  if (start !== '') query.push(start);
  return `curl -N ${withToken ? `${HEADER} ` : ''}${shellQuote(`${bare(endpoint('subscribe'))}?${query.join('&')}`)}`;
}

// --data-urlencode takes `name=content` and encodes all that follows the first `=`, so no content,
// not even one that begins with `@`, is taken for a file name.
export function publishCommand({ topic, event, content }, withToken) {
  const fields = [`topic=${topic}`];
  if (event !== '') fields.push(`event=${event}`);
  fields.push(`content=${content}`);
  const lines = [`curl ${shellQuote(bare(endpoint('publish')))}`];
  if (withToken) lines.push(`  ${HEADER}`);
  for (const field of fields) lines.push(`  --data-urlencode ${shellQuote(field)}`);
  return lines.join(' \\\n');
}

export function shellQuote(text) {
  return `'${text.replaceAll("'", String.raw`'\''`)}'`;
}

function bare(url) {
  return url.origin + url.pathname;
}

/** Copies, and has the button say so. Where the clipboard is out of reach the text is selected. */
export async function copy(text, button, source = null) {
  const key = button.dataset.copyWord ?? button.dataset.word;
  button.dataset.copyWord = key;
  let answer = 'copied';
  try {
    // Only there in a secure context: https, or this very machine.
    await navigator.clipboard.writeText(text);
  } catch {
    getSelection().selectAllChildren(source);
    source.focus();
    answer = 'copy_by_hand';
  }
  say(button, answer);
  setTimeout(() => say(button, key), SAID_FOR_MS);
}
