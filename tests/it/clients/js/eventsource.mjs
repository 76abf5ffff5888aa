// npm's eventsource: node eventsource.mjs NODE_MODULES URL. One line of JSON for each message.
import { createRequire } from "node:module";

const [, , modules, url] = process.argv;
const { EventSource } = createRequire(`${modules}/`)("eventsource");

const source = new EventSource(url);
const show = ({ type, lastEventId, data }) => console.log(JSON.stringify({ event: type, id: lastEventId, data }));
for (const type of ["message", "broker.open", "broker.gap", "broker.refused", "broker.deleted"]) {
  source.addEventListener(type, show);
}
source.onerror = ({ message }) => console.error("lost:", message ?? "a clean end");
