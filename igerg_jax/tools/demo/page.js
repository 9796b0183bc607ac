"use strict";

// Text from a person or the model is set by textContent, never as HTML.
const $ = (selector) => document.querySelector(selector);

function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

let about;
let set = 0; // of drawn faces
let face = null; // {url, label, pixels, seen}: of the responder
let faceRequest = 0; // number of the latest request: replies to earlier ones are dropped
let faceShown = Promise.resolve(); // ends when the latest request has its reply
let turns = []; // {text, mine, face, answer, options}
let draw = 0;
let busy = false;

async function ask(path, body) {
  let reply;
  try {
    reply = await fetch(path, body === undefined ? {} : { method: "POST", body });
  } catch {
    throw new Error("The server does not answer. Is it still running?");
  }
  const given = await reply.json().catch(() => ({}));
  if (!reply.ok) {
    const message = given.error || `The server refused: ${reply.status}`;
    throw new Error(message[0].toUpperCase() + message.slice(1));
  }
  return given;
}

function tell(error) {
  $("#problem").textContent = error ? error.message : "";
}

const percent = (p) => `${Math.round(100 * p)}\u00a0%`;
const likeliest = (p) => about.emotions.reduce((a, b) => (p[b] > p[a] ? b : a));
const faceUrl = (number, emotion) => `faces/${number}/${emotion}`;

function bars(probabilities) {
  const most = likeliest(probabilities);
  return about.emotions.map((emotion) => {
    const p = probabilities[emotion];
    const length = element("i", { className: emotion });
    length.style.width = `${100 * p}%`;
    const bar = element("span", { className: "bar", ariaHidden: "true" }, length);
    const row = element("li", {}, element("span", { textContent: emotion }), bar, element("b", { textContent: percent(p) }));
    if (emotion === most) row.className = "most";
    return row;
  });
}

// Nothing of what a model has no part to predict.
function reading(words, probabilities) {
  if (!probabilities) return [];
  const most = likeliest(probabilities);
  return [
    element("i", { className: `dot ${most}`, ariaHidden: "true" }),
    `${words} `, element("b", { textContent: most }), ` ${percent(probabilities[most])}`,
  ];
}

// The face.

function showFace(url, label, path, body) {
  faceShown = seeFace(url, label, path, body);
}

async function seeFace(url, label, path, body) {
  const number = ++faceRequest;
  tell();
  $("#drop").setAttribute("aria-busy", "true");
  try {
    const seen = await ask(path, body);
    if (number === faceRequest) setFace({ url, label, ...seen });
  } catch (error) {
    if (number === faceRequest) tell(error);
  } finally {
    if (number === faceRequest) $("#drop").setAttribute("aria-busy", "false");
  }
}

function setFace(next) {
  face = next;
  const list = $("#seen .bars");
  $("#portrait").replaceChildren(
    face ? element("img", { src: face.url, alt: face.label }) : element("span", { textContent: "?", ariaHidden: "true" }),
  );
  list.replaceChildren(...(face && face.seen ? bars(face.seen) : []));
  list.hidden = !(face && face.seen);
  $("#no-face").hidden = Boolean(face);
  $("#unfamiliar").hidden = !(face && face.unfamiliar);
  $("#remove").hidden = !face;
  for (const button of document.querySelectorAll(".faces button")) {
    button.setAttribute("aria-pressed", String(Boolean(face) && button.dataset.url === face.url));
  }
}

function showFile(file) {
  if (!file) return;
  if (file.size > about.max_bytes) {
    tell(new Error(`${file.name} is too large: at most ${about.max_bytes / 2 ** 20} MB.`));
    return;
  }
  showFace(URL.createObjectURL(file), "your image", "see", file);
}

function showPeople() {
  $(".faces").replaceChildren(
    ...about.emotions.map((emotion) => {
      const url = faceUrl(set, emotion);
      const label = `a drawn face: ${emotion}`;
      const button = element("button", { type: "button", title: emotion, ariaPressed: "false" });
      button.dataset.url = url;
      button.append(element("img", { src: url, alt: label }));
      button.addEventListener("click", () => showFace(url, label, `see?set=${set}&emotion=${emotion}`, ""));
      return button;
    }),
  );
  setFace(face);
}

async function openCamera() {
  tell();
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "user" } });
  } catch {
    tell(new Error("There is no camera, or the browser denied access to it."));
    return;
  }
  const dialog = $("#viewfinder"), video = $("video");
  $("#take").disabled = true; // until there is something to take
  video.addEventListener("loadeddata", () => { $("#take").disabled = false; }, { once: true });
  video.srcObject = stream;
  dialog.addEventListener("close", () => stream.getTracks().forEach((track) => track.stop()), { once: true });
  dialog.showModal();
}

function takePicture() {
  const video = $("video");
  const side = Math.min(video.videoWidth, video.videoHeight);
  const canvas = element("canvas", { width: side, height: side });
  const left = (video.videoWidth - side) / 2, top = (video.videoHeight - side) / 2;
  canvas.getContext("2d").drawImage(video, left, top, side, side, 0, 0, side, side);
  canvas.toBlob((blob) => showFace(URL.createObjectURL(blob), "your image", "see", blob), "image/jpeg", 0.95);
  $("#viewfinder").close();
}

// The conversation.

function options() {
  const emotion = $("input[name=emotion]:checked").value;
  return {
    emotion: emotion || null,
    guidance: Number($("#guidance").value),
    strategy: $("#strategy").value,
  };
}

function context(before) {
  return before
    .filter((turn) => turn.text.trim())
    .slice(-about.context_turns)
    .map((turn) => ({ text: turn.text, pixels: turn.mine || !turn.face ? null : turn.face.pixels }));
}

function turnElement(turn) {
  const text = element("p", { className: "said", textContent: turn.text || "(no words)" });
  const body = element("div", {}, element("span", { className: "who", textContent: turn.mine ? "You: " : "Answer: " }), text);
  const row = element("div", { className: `turn ${turn.mine ? "you" : "it"}` });
  if (!turn.mine) {
    row.append(turn.face ? element("img", { src: turn.face.url, alt: turn.face.label }) : element("span", { className: "blank" }));
  }
  if (turn.answer) {
    const line = element("p", { className: "read" });
    const requested = turn.options.emotion;
    if (requested) line.append(element("i", { className: `dot ${requested}`, ariaHidden: "true" }), "requested ", element("b", { textContent: requested }), " · ");
    else if (turn.answer.seen) line.append(...reading("sees", turn.answer.seen), " · ");
    line.append(...reading("the judge reads", turn.answer.judge));
    body.append(line);
  }
  row.append(body);
  return row;
}

function add(row) {
  $("#empty").hidden = true;
  $("#log").append(row);
  row.scrollIntoView({ block: "nearest" });
}

function setBusy(now) {
  busy = now;
  const answerable = turns.some((turn) => turn.mine);
  $("#send").disabled = now;
  $("#again").disabled = now || !answerable;
  $("#each").disabled = now || !answerable || !about.sees_faces;
  $("#new").disabled = now || !turns.length;
  $("#talk").setAttribute("aria-busy", String(now));
}

// Answers the last of your turns; replaces an earlier answer to it.
async function answer(extra = {}) {
  const last = turns.findLastIndex((turn) => turn.mine);
  const asked = { ...options(), ...extra };
  const waiting = element("div", { className: "turn it waiting" }, element("p", { className: "said", textContent: "…" }));
  tell();
  setBusy(true);
  while ($("#log").lastElementChild.classList.contains("it")) $("#log").lastElementChild.remove();
  turns = turns.slice(0, last + 1);
  add(waiting);
  try {
    await faceShown; // a face that was just picked is the one that answers
    const shown = face;
    const question = { turns: context(turns), face: shown && shown.pixels, ...asked };
    const given = await ask("answer", JSON.stringify(question));
    waiting.remove();
    turns.push({ text: given.text, mine: false, face: shown, answer: given, options: asked });
    add(turnElement(turns[turns.length - 1]));
  } catch (error) {
    waiting.remove();
    tell(error);
  } finally {
    setBusy(false);
  }
}

async function answerEach() {
  tell();
  setBusy(true);
  const last = turns.findLastIndex((turn) => turn.mine);
  const { guidance, strategy } = options();
  const question = { turns: context(turns.slice(0, last + 1)), set, guidance, strategy };
  try {
    const { answers } = await ask("answers", JSON.stringify(question));
    $("#asked").textContent = `“${turns[last].text}”`;
    $(".cards").replaceChildren(
      ...about.emotions.map((emotion) => {
        const { text, seen, judge } = answers[emotion];
        return element("li", {},
          element("img", { src: faceUrl(set, emotion), alt: `a drawn face: ${emotion}` }),
          element("div", {},
            element("p", { className: "read" }, ...reading("sees", seen)),
            element("p", { className: "said", textContent: text || "(no words)" }),
            element("p", { className: "read" }, ...reading("judge:", judge))));
      }),
    );
    $("#seven").hidden = false;
    $("#seven-title").focus();
    $("#seven").scrollIntoView({ block: "nearest" });
  } catch (error) {
    tell(error);
  } finally {
    setBusy(false);
  }
}

function say(event) {
  event.preventDefault();
  const text = $("#words").value.trim();
  if (busy || !text) return;
  turns.push({ text, mine: true });
  add(turnElement(turns[turns.length - 1]));
  $("#words").value = "";
  draw = 0;
  answer();
}

function restart() {
  turns = [];
  $("#log").replaceChildren($("#empty"));
  $("#empty").hidden = false;
  $("#seven").hidden = true;
  tell();
  setBusy(false);
  $("#words").focus();
}

// Start-up.

function showOptions() {
  const chip = (value, text) => {
    const input = element("input", { type: "radio", name: "emotion", value, className: "unseen", checked: !value });
    input.disabled = Boolean(value) && !about.can_be_conditioned;
    const label = element("label", {}, input);
    if (value) label.append(element("i", { className: `dot ${value}`, ariaHidden: "true" }));
    label.append(text);
    return label;
  };
  $(".chips").replaceChildren(chip("", "follow the face"), ...about.emotions.map((name) => chip(name, name)));
  $("#strategy").replaceChildren(...about.strategies.map((name) => element("option", { textContent: name, selected: name === about.strategy })));
  $("#guidance").value = about.guidance;
  showGuidance();
}

function showGuidance() {
  $("#guidance-value").textContent = Number($("#guidance").value).toFixed(2);
}

function listen() {
  $("#say").addEventListener("submit", say);
  $("#words").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      $("#say").requestSubmit();
    }
  });
  $("#guidance").addEventListener("input", showGuidance);
  $("#again").addEventListener("click", () => answer({ strategy: "sample", draw: ++draw }));
  $("#each").addEventListener("click", answerEach);
  $("#new").addEventListener("click", restart);
  $("#others").addEventListener("click", () => { set = (set + 1) % about.face_sets; showPeople(); });
  $("#remove").addEventListener("click", () => { faceRequest++; setFace(null); });
  $("#file").addEventListener("change", (event) => { showFile(event.target.files[0]); event.target.value = ""; });
  $("#camera").addEventListener("click", openCamera);
  $("#take").addEventListener("click", takePicture);
  $("#close").addEventListener("click", () => $("#viewfinder").close());
  // An image dropped beside the panel must not replace the page.
  for (const type of ["dragover", "drop"]) document.addEventListener(type, (event) => event.preventDefault());
  const drop = $("#face");
  drop.addEventListener("dragover", () => $("#drop").classList.add("over"));
  drop.addEventListener("dragleave", () => $("#drop").classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    $("#drop").classList.remove("over");
    showFile(event.dataTransfer.files[0]);
  });
}

async function start() {
  try {
    about = await ask("about");
  } catch (error) {
    tell(error);
    return;
  }
  const millions = (about.parameters / 1e6).toPrecision(3);
  $("#model").textContent = `The model “${about.name}”: ${millions} million parameters, on this machine.`;
  showOptions();
  $("#face").hidden = !about.sees_faces;
  if (about.sees_faces) showPeople();
  listen();
  setBusy(false);
}

start();
