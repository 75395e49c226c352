// Shows events above the list as they are recorded, for as long as the reader wants.
"use strict";

const KEPT_MAX = 200; // events on the page; who wants more of them opens the page anew

const box = document.querySelector(".live");
const button = box.querySelector("button");
const status = box.querySelector("[role=status]");
const list = box.querySelector("ol");

let after = box.dataset.after;
let seen = 0;
let source = null;

function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function line(event) {
  const item = element("li", "", { class: "event" });
  const head = element("p", "", { class: "head" });
  head.append(
    element("a", `#${event.position}`, { class: "id", href: `/console/events/${event.position}` }),
    " ",
    element("code", event.type),
    " ",
    element("time", `${event.recorded_at.slice(0, 19).replace("T", " ")} UTC`, { datetime: event.recorded_at }),
  );
  item.append(head, element("p", event.sentence, { class: "sentence" }));
  return item;
}

function tell(words) {
  status.textContent = seen ? `${words} ${seen} new.` : words;
}

function show(message) {
  after = message.lastEventId;
  if (!message.data) return;
  list.prepend(line(JSON.parse(message.data)));
  seen += 1;
  while (list.children.length > KEPT_MAX) list.lastElementChild.remove();
  tell("Following.");
}

function follow() {
  const address = new URL(box.dataset.stream, location.href);
  address.searchParams.set("after", after);
  source = new EventSource(address);
  source.onopen = () => tell("Following.");
  source.onerror = () => {
    if (source.readyState !== EventSource.CLOSED) return tell("Connecting again.");
    stop();
    tell("The connection was refused. Open the page anew; perhaps the session is over.");
  };
  // Each message is named by its event's type, so that every type has to be listened to.
  for (const type of box.dataset.types.split(" ")) source.addEventListener(type, show);
  source.onmessage = show;
  button.textContent = "Pause";
  tell("Connecting.");
}

function stop() {
  source.close();
  source = null;
  button.textContent = seen ? "Go on" : "Follow live";
  tell("Paused.");
}

button.addEventListener("click", () => (source ? stop() : follow()));
addEventListener("pagehide", () => source && stop());
box.hidden = false;
