// The page of `detr-mini demo`. Every text is set as text, never as markup; nothing is loaded from elsewhere.
"use strict";

const COLOURS = 12;
const LIMIT = 25e6;
const MOST = 200; // pictures on the page
const SVG = "http://www.w3.org/2000/svg";
const token = new URLSearchParams(location.hash.slice(1)).get("token");
const state = { detectors: [], pictures: [], off: new Set(), caption: "", threshold: 0.5, run: 0 };
const byId = (id) => document.getElementById(id);

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function say(text) {
  byId("status").textContent = text;
}

async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, { ...options, headers: token ? { "X-Token": token } : {} });
  } catch {
    throw new Error("the program does not answer; is it still running?");
  }
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => ({}));
  throw new Error(told.error || `the program answered ${answer.status}`);
}

async function begin() {
  try {
    const about = await (await ask("/api/about")).json();
    state.detectors = about.detectors;
    state.threshold = Math.max(about.least, ...about.detectors.map((one) => one.threshold));
    byId("threshold").value = state.threshold;
    byId("shown").textContent = Number(byId("threshold").value).toFixed(2);
    byId("models").textContent = about.detectors.map((one) => one.name).join(" and ");
    byId("ask").hidden = !about.detectors.some((one) => one.captions);
    showCategories(about.detectors.flatMap((one) => one.categories));
  } catch (error) {
    say(error.message);
  }
}

// Categories keep their colours: by their place among all names.
function showCategories(names) {
  state.names = [...new Set(names)];
  byId("boxes").replaceChildren(...state.names.map((name, place) => {
    const box = element("input", { type: "checkbox", checked: !state.off.has(name) });
    box.addEventListener("change", () => {
      box.checked ? state.off.delete(name) : state.off.add(name);
      drawAll();
    });
    return element("label", {}, box, element("span", { className: `swatch c${place % COLOURS}` }), name);
  }));
}

const nameOf = (found) => found.phrase || found.name;

function colourOf(found, side) {
  const known = state.names.indexOf(found.name);
  if (found.phrase === undefined) return (known < 0 ? 0 : known) % COLOURS;
  const phrases = [...new Set(side.detections.map(nameOf))];
  return phrases.indexOf(found.phrase) % COLOURS;
}

const visible = (side) => side.detections.filter((found) =>
  found.score >= state.threshold && (found.phrase !== undefined || !state.off.has(found.name)));

const isPicture = ({ file }) => /^image\//.test(file.type) || !file.type;

// `files`: each with its name, which has the folders below the one that was chosen or dropped.
async function add(files) {
  const pictures = files.filter(isPicture);
  const room = MOST - state.pictures.length;
  if (!pictures.length) return say("There is no picture among these files.");
  for (const { file, name } of pictures.slice(0, room)) {
    const picture = { file, name, url: URL.createObjectURL(file), sides: [] };
    picture.card = element("article", { className: "picture" });
    state.pictures.push(picture);
    byId("pictures").append(picture.card);
    draw(picture);
  }
  await detectAll();
  if (pictures.length > room) say(`The page holds ${MOST} pictures; ${pictures.length - room} were left out.`);
}

// Pictures that failed are tried again, once a call.
async function detectAll() {
  const run = ++state.run;
  await ready;
  if (!state.detectors.length || run !== state.run) return; // `begin` has said why there is none
  const caption = state.caption;
  const waiting = state.pictures.filter((picture) => picture.caption !== caption || !picture.done);
  enableDownloads();
  let count = 0;
  for (const picture of waiting) {
    say(`Looking at picture ${++count} of ${waiting.length} …`);
    const sides = [];
    for (let number = 0; number < state.detectors.length; number++) sides.push(await detect(picture, number, caption));
    if (run !== state.run) return;
    Object.assign(picture, { sides, done: sides.every((side) => !side.error), caption, trace: null });
    draw(picture);
  }
  say(waiting.length ? `${state.pictures.length} picture${state.pictures.length === 1 ? "" : "s"}. Click a box to see where its query looked.` : "");
  enableDownloads();
}

function query(number, caption, more = {}) {
  const asked = state.detectors[number].captions ? caption : "";
  return new URLSearchParams({ detector: number, ...(asked && { caption: asked }), ...more });
}

async function detect(picture, number, caption) {
  if (picture.file.size > LIMIT) return { error: "the picture has more than 25 MB; make it smaller", detections: [] };
  try {
    const answer = await ask(`/api/detect?${query(number, caption)}`, { method: "POST", body: picture.file });
    return await answer.json();
  } catch (error) {
    return { error: error.message, detections: [] };
  }
}

function drawAll() {
  state.pictures.forEach(draw);
  enableDownloads();
}

function draw(picture) {
  const sides = element("div", { className: "sides" });
  picture.sides.forEach((side, number) => sides.append(drawSide(picture, side, number)));
  if (!picture.sides.length) sides.append(element("p", { className: "faint", textContent: "waiting" }));
  picture.card.replaceChildren(element("h2", { textContent: picture.name }), sides);
  if (picture.trace) picture.card.append(picture.trace);
}

function drawSide(picture, side, number) {
  const box = element("div", { className: "side" });
  if (state.detectors.length > 1) box.append(element("h3", { textContent: state.detectors[number].name }));
  if (side.error) {
    box.append(element("p", { className: "error", textContent: side.error }));
    return box;
  }
  const found = visible(side);
  const frame = element("div", { className: "frame" }, element("img", { src: picture.url, alt: picture.name }));
  frame.append(overlay(picture, side, number, found));
  box.append(frame);
  if (picture.caption && state.detectors[number].captions) box.append(coloured(picture.caption, side, found));
  const list = element("ul", { className: "list" });
  for (const one of found.slice(0, 30)) {
    list.append(element("li", {}, element("span", { className: `swatch c${colourOf(one, side)}` }),
      `${nameOf(one)} ${one.score.toFixed(2)}`));
  }
  if (found.length > 30) list.append(element("li", { textContent: `and ${found.length - 30} more` }));
  if (!found.length) list.append(element("li", { className: "faint", textContent: "nothing at this threshold" }));
  box.append(list);
  for (const note of side.notes || []) box.append(element("p", { className: "faint", textContent: note }));
  return box;
}

function overlay(picture, side, number, found) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${side.width} ${side.height}`);
  svg.setAttribute("role", "group");
  svg.setAttribute("aria-label", `${found.length} detections in ${picture.name}`);
  for (const one of [...found].reverse()) {
    const [x, y, width, height] = one.bbox;
    const rect = document.createElementNS(SVG, "rect");
    for (const [key, value] of Object.entries({ x, y, width, height, tabindex: 0, role: "button" })) rect.setAttribute(key, value);
    rect.setAttribute("class", `found c${colourOf(one, side)}`);
    rect.setAttribute("aria-label", `${nameOf(one)}, score ${one.score.toFixed(2)}: show where its query looked`);
    rect.addEventListener("click", () => explain(picture, number, one, rect));
    rect.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); explain(picture, number, one, rect); }
    });
    svg.append(rect);
  }
  return svg;
}

// The caption, its phrases in the colours of their boxes. A phrase of several parts is coloured word by word.
function coloured(caption, side, found) {
  const line = element("p", { className: "asked" });
  const phrases = [...new Set(found.map(nameOf))];
  const words = caption.split(/(\s+)/);
  const clean = (word) => word.toLowerCase().replace(/[^\p{L}\p{N}]/gu, "");
  for (const word of words) {
    const own = phrases.find((phrase) => clean(word) && phrase.split(/\s+/).map(clean).includes(clean(word)));
    if (!own) { line.append(word); continue; }
    const one = found.find((each) => nameOf(each) === own);
    line.append(element("b", { className: `c${colourOf(one, side)}`, textContent: word }));
  }
  return line;
}

async function explain(picture, number, one, rect) {
  document.querySelectorAll(".chosen").forEach((each) => each.classList.remove("chosen"));
  rect.classList.add("chosen");
  const side = picture.sides[number];
  picture.asked = rect;
  const title = `Where the query of ${nameOf(one)} ${one.score.toFixed(2)} looked, layer by layer`;
  const trace = element("section", { className: "trace" }, element("h3", { textContent: title }));
  try {
    if (one.query === null || !state.detectors[number].explains) throw new Error("this detector does not say where its queries look");
    const answer = await ask(`/api/explain?${query(number, picture.caption, { query: one.query })}`, { method: "POST", body: picture.file });
    const told = await answer.json();
    const layers = element("div", { className: "layers" });
    const image = picture.card.querySelector("img");
    await image.decode();
    told.maps.forEach((map, layer) => layers.append(layerFigure(image, side, told, map, layer)));
    trace.append(layers, element("p", { className: "faint", textContent:
      "Orange: where the query looked in this layer, up to its own largest weight. White: the box after the layer; dashed: before it." }));
  } catch (error) {
    trace.append(element("p", { className: "error", textContent: error.message }));
  }
  if (picture.sides[number] !== side || picture.asked !== rect) return; // another caption or box has been asked for since
  picture.trace?.remove();
  picture.trace = trace;
  picture.card.append(trace);
  trace.scrollIntoView({ block: "nearest", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
}

function layerFigure(image, side, told, map, layer) {
  const scale = 440 / Math.max(side.width, side.height);
  const canvas = element("canvas", { width: Math.max(1, side.width * scale), height: Math.max(1, side.height * scale) });
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `attention of layer ${layer + 1}`);
  const pen = canvas.getContext("2d");
  pen.drawImage(image, 0, 0, canvas.width, canvas.height);
  pen.fillStyle = "rgba(0, 0, 0, 0.55)";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  const heat = element("canvas", { width: told.columns, height: told.rows });
  const pixels = heat.getContext("2d").createImageData(told.columns, told.rows);
  map.forEach((value, place) => pixels.data.set([255, 150, 20, Math.sqrt(value / 255) * 215], 4 * place));
  heat.getContext("2d").putImageData(pixels, 0, 0);
  pen.drawImage(heat, 0, 0, canvas.width, canvas.height);
  const stroke = (box, dash, width) => {
    pen.setLineDash(dash);
    pen.lineWidth = width;
    pen.strokeStyle = "#fff";
    pen.strokeRect(box[0] * scale, box[1] * scale, (box[2] - box[0]) * scale, (box[3] - box[1]) * scale);
  };
  const before = layer ? told.boxes[layer - 1] : null;
  if (before) stroke(before, [5, 4], 1.5);
  if (told.boxes[layer]) stroke(told.boxes[layer], [], 2.5);
  return element("figure", { className: "layer" }, canvas, element("figcaption", { textContent: `layer ${layer + 1}${moved(before, told.boxes[layer])}` }));
}

function moved(before, after) {
  if (!before || !after) return "";
  const centre = (box) => [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2];
  const [a, b] = [centre(before), centre(after)];
  return `: the box moved ${Math.hypot(b[0] - a[0], b[1] - a[1]).toFixed(1)} pixels`;
}

// What can be downloaded: the first detector's answers to the present caption.
const answered = () => state.pictures.filter((picture) =>
  picture.sides.length && picture.caption === state.caption && !picture.sides[0].error);

function enableDownloads() {
  const ready = answered().length > 0;
  document.querySelectorAll("[data-format]").forEach((button) => { button.disabled = !ready; });
}

function save(blob, name) {
  const link = element("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

// What is shown of the first detector; with two, the page says so.
async function download(format) {
  const shown = answered();
  try {
    if (format === "png") {
      for (const picture of shown) save(await drawn(picture), `${picture.name.replace(/[\\/]/g, "_").replace(/\.\w+$/, "")}.png`);
    } else {
      const images = shown.map((picture) => ({
        name: picture.name, width: picture.sides[0].width, height: picture.sides[0].height,
        detections: visible(picture.sides[0]).map((one) => ({ name: nameOf(one), score: one.score, bbox: one.bbox })),
      }));
      const answer = await ask(`/api/labels?format=${format}`, { method: "POST", body: JSON.stringify({ images }) });
      save(await answer.blob(), format === "coco" ? "detections.json" : `${format}.zip`);
    }
    if (state.detectors.length > 1) say(`The download holds the detections of ${state.detectors[0].name}.`);
  } catch (error) {
    say(error.message);
  }
}

async function drawn(picture) {
  const side = picture.sides[0];
  const image = picture.card.querySelector("img");
  await image.decode();
  const canvas = element("canvas", { width: side.width, height: side.height });
  const pen = canvas.getContext("2d");
  pen.drawImage(image, 0, 0, side.width, side.height);
  const size = Math.max(12, Math.hypot(side.width, side.height) / 60);
  pen.lineWidth = Math.max(2, size / 6);
  pen.font = `${size}px sans-serif`;
  pen.textBaseline = "top";
  for (const one of visible(side).reverse()) {
    const [x, y, width, height] = one.bbox;
    const colour = getComputedStyle(document.querySelector(`.c${colourOf(one, side)}`)).getPropertyValue("--c");
    const text = `${nameOf(one)} ${one.score.toFixed(2)}`;
    const top = Math.max(0, y - size * 1.2);
    pen.strokeStyle = colour;
    pen.strokeRect(x, y, width, height);
    pen.fillStyle = colour;
    pen.fillRect(x, top, pen.measureText(text).width + 6, size * 1.2);
    pen.fillStyle = "#000";
    pen.fillText(text, x + 3, top + size * 0.1);
  }
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

// All pictures below a dropped folder, each with its path.
async function below(entry, path = "") {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject)).catch(() => null);
    return file ? [{ file, name: path + file.name }].filter(isPicture) : [];
  }
  const reader = entry.createReader();
  const found = [];
  for (;;) {
    const some = await new Promise((resolve) => reader.readEntries(resolve, () => resolve([])));
    if (!some.length) break;
    for (const each of some) found.push(...await below(each, `${path}${entry.name}/`));
  }
  return found;
}

const drop = document.body;
for (const kind of ["dragenter", "dragover"]) {
  drop.addEventListener(kind, (event) => { event.preventDefault(); byId("drop").classList.add("over"); });
}
for (const kind of ["dragleave", "drop"]) {
  drop.addEventListener(kind, (event) => { event.preventDefault(); byId("drop").classList.remove("over"); });
}
drop.addEventListener("drop", async (event) => {
  const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  const plain = [...event.dataTransfer.files].map((file) => ({ file, name: file.name }));
  const files = entries.length ? (await Promise.all(entries.map((entry) => below(entry)))).flat() : plain;
  await add(files);
});
for (const id of ["files", "folder"]) {
  byId(id).addEventListener("change", async (event) => {
    const files = [...event.target.files].map((file) => ({ file, name: file.webkitRelativePath || file.name }));
    event.target.value = "";
    await add(files);
  });
}
byId("clear").addEventListener("click", () => {
  state.run++;
  state.pictures.forEach((picture) => { URL.revokeObjectURL(picture.url); picture.card.remove(); });
  state.pictures = [];
  say("");
  enableDownloads();
});
byId("threshold").addEventListener("input", (event) => {
  state.threshold = Number(event.target.value);
  byId("shown").textContent = state.threshold.toFixed(2);
  drawAll();
});
byId("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  state.caption = byId("caption").value.trim();
  byId("categories").hidden = Boolean(state.caption) && state.detectors.every((one) => one.captions);
  detectAll();
});
document.querySelectorAll("[data-format]").forEach((button) => button.addEventListener("click", () => download(button.dataset.format)));
const ready = begin();
