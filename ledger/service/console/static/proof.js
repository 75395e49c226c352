// Recomputes that the log's checkpoint commits to this event, and shows every step.
//
// The leaf is made of the stored columns, never taken from the proof. What is read here:
// C2SP tlog-proof, tlog-checkpoint and signed-note; RFC 9162, section 2.1.3.2.
"use strict";

const LONG = 300; // characters of a value that is shown in a box of its own

const box = document.getElementById("verify");
const button = box.querySelector("button");
const verdict = box.querySelector("[role=status]");
const steps = box.querySelector("ol");

class Failed extends Error {}

// --- bytes ---------------------------------------------------------------------------------------

const utf8 = (text) => new TextEncoder().encode(text);
const hex = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
const base64 = (bytes) => btoa(String.fromCharCode(...bytes));

function decoded(text, what) {
  try {
    return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  } catch {
    throw new Failed(`${what} is not base64: ${text}`);
  }
}

function joined(...parts) {
  const whole = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

function number(value, bytes) {
  const view = new DataView(new ArrayBuffer(8));
  view.setBigUint64(0, BigInt(value));
  return new Uint8Array(view.buffer).slice(8 - bytes);
}

const sized = (bytes, width) => joined(number(bytes.length, width), bytes);
const same = (one, other) => hex(one) === hex(other);
const sha256 = async (...parts) =>
  new Uint8Array(await crypto.subtle.digest("SHA-256", joined(...parts)));

// --- what is shown -------------------------------------------------------------------------------

function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

// A step says what it is about to do, then each value; it is good until it fails.
function step(title) {
  const item = element("li", "", { class: "step" });
  const state = element("span", "…", { class: "badge" });
  const values = element("dl", "", { class: "facts" });
  const heading = element("p", "", { class: "title" });
  heading.append(state, " ", element("strong", title));
  item.append(heading, values);
  steps.append(item);
  const end = (name, words) => {
    state.className = `badge ${name}`;
    state.textContent = words;
    item.classList.add(name);
  };
  return {
    show(name, value) {
      const content = element("dd", "");
      // What is long scrolls in itself, and has to be reached by keyboard for that.
      content.append(element("code", value, value.length > LONG ? { tabindex: "0" } : {}));
      values.append(element("dt", name), content);
    },
    note: (text) => item.append(element("p", text, { class: "quiet" })),
    good: () => end("good", "right"),
    unknown: (text) => {
      item.append(element("p", text));
      end("review", "not checked");
    },
    bad: (text) => {
      item.append(element("p", text, { class: "why" }));
      end("denied", "wrong");
    },
  };
}

async function done(title, work) {
  const shown = step(title);
  try {
    const result = await work(shown);
    if (result !== null) shown.good();
    return result;
  } catch (error) {
    if (!(error instanceof Failed)) error = new Failed(String(error));
    shown.bad(error.message);
    error.title = title;
    throw error;
  }
}

function end(kind, words) {
  verdict.className = `notice ${kind}`;
  verdict.replaceChildren(element("p", words));
  verdict.hidden = false;
}

// --- what is read --------------------------------------------------------------------------------

async function fetched(address) {
  const answer = await fetch(address, { redirect: "error", cache: "no-store" });
  if (!answer.ok) throw new Failed(`${address} answered ${answer.status}`);
  return answer;
}

function size(text, what) {
  if (!/^(0|[1-9][0-9]{0,15})$/.test(text)) throw new Failed(`${what} is no number: ${text}`);
  return Number(text);
}

function hash(text, what) {
  const bytes = decoded(text, what);
  if (bytes.length !== 32) throw new Failed(`${what} has ${bytes.length} bytes, not 32`);
  return bytes;
}

function readProof(text) {
  const gap = text.indexOf("\n\n");
  const [header, ...lines] = text.slice(0, gap).split("\n");
  if (gap < 0 || header !== "c2sp.org/tlog-proof@v1") throw new Failed("this is no tlog-proof");
  if (lines[0]?.startsWith("extra ")) lines.shift();
  const index = lines.shift() ?? "";
  if (!index.startsWith("index ")) throw new Failed("the proof names no index");
  return {
    index: size(index.slice(6), "the index"),
    path: lines.map((line) => hash(line, "a hash of the proof")),
    note: text.slice(gap + 2),
  };
}

function readNote(note) {
  const gap = note.lastIndexOf("\n\n");
  if (gap < 0) throw new Failed("the checkpoint is not signed");
  const text = note.slice(0, gap + 1); // what is signed, with its last line end
  const [origin, count, root] = text.split("\n");
  const signatures = note
    .slice(gap + 2)
    .split("\n")
    .filter((line) => line)
    .map((line) => {
      const [, name, value] = /^\u2014 (\S+) (\S+)$/.exec(line) ?? [];
      if (!name) throw new Failed(`this is no line of a signature: ${line}`);
      const bytes = decoded(value, "a signature");
      return { name, id: bytes.slice(0, 4), signature: bytes.slice(4) };
    });
  return {
    text,
    origin,
    size: size(count ?? "", "the checkpoint's size"),
    root: hash(root ?? "", "the checkpoint's root"),
    signatures,
  };
}

function keysShown() {
  return Array.from(document.querySelectorAll("#log-keys code"), (shown) => {
    const [, name, id, value] = /^([^+]+)\+([0-9a-f]{8})\+(.+)$/.exec(shown.textContent) ?? [];
    if (!name) throw new Failed(`this is no key of a log: ${shown.textContent}`);
    const typed = decoded(value, "the log's key");
    return {
      text: shown.textContent,
      name,
      id,
      type: typed.slice(0, 1),
      bytes: typed.slice(1),
      first: Number(shown.dataset.first),
      last: shown.dataset.last ? Number(shown.dataset.last) : Infinity,
    };
  });
}

// --- the steps -----------------------------------------------------------------------------------

async function readRow(shown) {
  const row = await (await fetched(box.dataset.stored)).json();
  row.bytes = decoded(row.state, "what is stored");
  for (const name of ["position", "stream", "version", "type", "recorded_at"]) {
    shown.show(name.replace("_", " "), String(row[name]));
  }
  shown.show("stored bytes", `${row.bytes.length} bytes`);
  if (String(row.position) !== box.dataset.position) {
    throw new Failed(`These are the columns of event ${row.position}.`);
  }
  const onPage = document.getElementById("stored-state").textContent;
  if (!same(utf8(onPage), row.bytes)) {
    shown.show("they say", new TextDecoder().decode(row.bytes));
    throw new Failed("These are not the stored bytes that this page shows.");
  }
  return row;
}

async function makeLeaf(shown, row) {
  const entry = joined(
    number(1, 1),
    number(row.position, 8),
    sized(utf8(row.stream), 2),
    number(row.version, 8),
    sized(utf8(row.type), 2),
    sized(utf8(row.recorded_at), 2),
    sized(row.bytes, 4),
  );
  const leaf = await sha256(number(0, 1), entry);
  shown.note("Layout 1: position, stream, version, type, instant and stored bytes, each text after its length. The leaf hash is SHA-256 of the byte 0 and the entry.");
  shown.show(`entry, ${entry.length} bytes`, hex(entry));
  shown.show("leaf hash", base64(leaf));
  return leaf;
}

async function readTree(shown, row) {
  const proof = readProof(await (await fetched(box.dataset.proof)).text());
  const tree = { ...readNote(proof.note), ...proof };
  shown.show("log", tree.origin);
  shown.show("events", String(tree.size));
  shown.show("root", base64(tree.root));
  shown.show("index of the leaf", String(tree.index));
  if (tree.index !== row.position - 1) {
    throw new Failed(`The proof is of event ${tree.index + 1}, not of ${row.position}.`);
  }
  if (tree.index >= tree.size) throw new Failed("The checkpoint does not cover this event.");
  return tree;
}

async function climb(shown, leaf, tree) {
  let computed = leaf;
  let first = tree.index;
  let last = tree.size - 1;
  shown.note("At each level SHA-256 of the byte 1, the left hash and the right hash.");
  for (const [level, sibling] of tree.path.entries()) {
    if (last === 0) throw new Failed("The proof has more hashes than the tree has levels.");
    const isRight = first % 2 === 1 || first === last;
    if (isRight) {
      computed = await sha256(number(1, 1), sibling, computed);
      while (first !== 0 && first % 2 === 0) {
        first = Math.floor(first / 2);
        last = Math.floor(last / 2);
      }
    } else {
      computed = await sha256(number(1, 1), computed, sibling);
    }
    first = Math.floor(first / 2);
    last = Math.floor(last / 2);
    shown.show(`level ${level + 1}, on the ${isRight ? "left" : "right"}`, base64(sibling));
    shown.show("together", base64(computed));
  }
  if (last !== 0) throw new Failed("The proof has fewer hashes than the tree has levels.");
  return computed;
}

function compare(shown, computed, tree) {
  shown.show("recomputed", base64(computed));
  shown.show("in the checkpoint", base64(tree.root));
  if (!same(computed, tree.root)) {
    throw new Failed("The roots differ: what is stored is not what the log committed to.");
  }
}

async function verifySignature(shown, tree) {
  const key = keysShown().find((each) => each.first <= tree.size && tree.size <= each.last);
  if (!key) throw new Failed(`No key that is shown may sign a tree of ${tree.size} events.`);
  shown.show("key", key.text);
  const id = await sha256(utf8(`${key.name}\n`), key.type, key.bytes);
  if (hex(id.slice(0, 4)) !== key.id) throw new Failed("The key's id is not that of the key.");
  if (key.name !== tree.origin) throw new Failed(`The key is one of ${key.name}.`);
  const line = tree.signatures.find((each) => each.name === key.name && hex(each.id) === key.id);
  if (!line) throw new Failed("The key did not sign this checkpoint.");
  shown.show("signed text", tree.text);
  shown.show("signature", base64(line.signature));
  let imported;
  try {
    imported = await crypto.subtle.importKey("raw", key.bytes, "Ed25519", false, ["verify"]);
  } catch (error) {
    if (error.name !== "NotSupportedError") throw error;
    shown.unknown("This browser cannot check Ed25519 signatures. Check the proof file with another program.");
    return null;
  }
  if (!(await crypto.subtle.verify("Ed25519", imported, line.signature, utf8(tree.text)))) {
    throw new Failed("The signature is not one of this key on this text.");
  }
  return true;
}

async function verify() {
  steps.replaceChildren();
  verdict.hidden = true;
  if (!globalThis.crypto?.subtle) {
    end("warn", "This browser computes hashes only on pages that come over https or from this computer. Nothing was checked.");
    return;
  }
  button.disabled = true;
  try {
    const row = await done("Read the stored columns", readRow);
    const leaf = await done("Make the leaf of them", (shown) => makeLeaf(shown, row));
    const tree = await done("Read the proof and the checkpoint", (shown) => readTree(shown, row));
    const root = await done("Go up from the leaf", (shown) => climb(shown, leaf, tree));
    await done("Compare the roots", (shown) => compare(shown, root, tree));
    const signed = await done("Check the log's signature", (shown) => verifySignature(shown, tree));
    if (signed) {
      end("good", `Proven: this event is in the log of ${tree.size} events that ${tree.origin} signed.`);
    } else {
      end("warn", "The event is under the checkpoint, but who signed that could not be checked here.");
    }
  } catch (error) {
    end("bad", `Not proven. “${error.title}” failed: ${error.message}`);
  } finally {
    button.disabled = false;
  }
}

button.addEventListener("click", verify);
document.getElementById("without-script").hidden = true;
box.hidden = false;
