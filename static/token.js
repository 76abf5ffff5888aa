// The token that the reader of the page has entered, and what is done with it.
//
// It is kept for this tab alone (sessionStorage), until the tab is closed or Forget is pressed. It travels in the header
// `Authorization` only: a stream is opened with a ticket, which one use spends, so no address has the token.

import { endpoint } from './commands.js';

const KEY = 'tidings.token';

let token = recall();

export function hasToken() {
  return token !== '';
}

/** Takes what was typed; false when it cannot be a token. An empty text means none. */
export function setToken(text) {
  const typed = text.trim().replace(/^Bearer\s+/i, '');
  const valid = /^[\x21-\x7e]*$/.test(typed); // what else there is does not fit into a header
  token = valid ? typed : '';
  remember();
  return valid;
}

export function forgetToken() {
  setToken('');
}

/** The headers of a request that needs the token. */
export function authorization() {
  return token === '' ? {} : { Authorization: `Bearer ${token}` };
}

/** Asks for a ticket; resolves to the response, or to null when there is no token. */
export async function askForTicket(topics, signal) {
  if (token === '') return null;
  return fetch(endpoint('tickets'), {
    method: 'POST',
    headers: { ...authorization(), 'Content-Type': 'application/json' },
    body: JSON.stringify({ topics }),
    cache: 'no-store',
    signal,
  });
}

function recall() {
  try {
    return sessionStorage.getItem(KEY) ?? '';
  } catch {
    return ''; // storage can be denied altogether
  }
}

function remember() {
  try {
    if (token === '') sessionStorage.removeItem(KEY);
    else sessionStorage.setItem(KEY, token);
  } catch {
    // Then it lasts as long as the page.
  }
}
