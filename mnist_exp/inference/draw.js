// The page: strokes or a picture on the canvas, and what the models answer, live.
const PEN = 40, BARS = 10;  // of 560 pixels; the most probable classes
const element = id => document.getElementById(id);
const pad = element("pad"), pen = pad.getContext("2d", { willReadFrequently: true });
const hint = element("status").textContent;
const models = JSON.parse(element("weights").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
let strokes = [], picture = null, cursor = [280, 280], cards = [], waiting = false, writing = null;

for (const model of models) {
  model.floats = decode(model.weights);
  const card = document.createElement("article");
  card.className = "model";
  const add = (parent, name, kind = "", text = "") => {
    const child = parent.appendChild(document.createElement(name));
    child.className = kind;
    child.textContent = text;
    return child;
  };
  add(card, "h2", "", model.title);
  const answer = add(card, "p", "answer", "–"), list = add(card, "ol");
  const rows = model.classes.slice(0, BARS).map(name => {
    const row = add(list, "li"), label = add(row, "span", "", name);
    const bar = add(add(row, "span", "bar"), "span");
    return { row, label, bar, text: add(row, "b") };
  });
  add(card, "p", "run", model.run);
  element("models").append(card);
  cards.push({ answer, rows });
}

function draw() {
  const style = getComputedStyle(document.documentElement);
  pen.fillStyle = style.getPropertyValue("--sheet");
  pen.strokeStyle = style.getPropertyValue("--pen");
  pen.fillRect(0, 0, pad.width, pad.height);
  if (picture) {
    const scale = Math.min(pad.width / picture.width, pad.height / picture.height);
    const [w, h] = [picture.width * scale, picture.height * scale];
    pen.imageSmoothingEnabled = scale < 1;
    pen.drawImage(picture, (pad.width - w) / 2, (pad.height - h) / 2, w, h);
  }
  pen.lineWidth = PEN;
  pen.lineCap = pen.lineJoin = "round";
  for (const stroke of strokes) {
    pen.beginPath();
    pen.moveTo(...stroke[0]);
    for (const point of stroke) pen.lineTo(...point);
    pen.stroke();
  }
}

// The picture itself as it was given, unless something is drawn over it.
function pixels() {
  if (!picture || strokes.length) return pen.getImageData(0, 0, pad.width, pad.height);
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [picture.width, picture.height];
  const context = canvas.getContext("2d");
  context.drawImage(picture, 0, 0);
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

function update() {
  waiting = false;
  draw();
  const empty = !strokes.length && !picture;
  element("undo").disabled = element("clear").disabled = empty;
  let digit = null, said = hint;
  if (!empty) {
    const { width, height, data } = pixels();
    try {
      digit = toDigit(toGrey(width, height, data));
    } catch (error) {
      said = error.message;
    }
  }
  const image = new ImageData(28, 28);
  image.data.forEach((_, i) => { image.data[i] = i % 4 === 3 ? 255 : digit ? digit[i >> 2] : 0; });
  element("seen").getContext("2d").putImageData(image, 0, 0);
  const answers = models.map((model, i) => show(cards[i], digit && softmax(logits(model, digit)), model));
  element("status").textContent = digit ? answers.join(" ") : said;
}

function show({ answer, rows }, probabilities, model) {
  const best = probabilities ? probabilities.indexOf(Math.max(...probabilities)) : -1;
  const shown = [...model.classes.keys()];
  if (probabilities && shown.length > BARS) shown.sort((a, b) => probabilities[b] - probabilities[a]);
  rows.forEach(({ row, label, bar, text }, place) => {
    const share = probabilities ? 100 * probabilities[shown[place]] : 0;
    row.className = shown[place] === best ? "best" : "";
    label.textContent = probabilities || shown.length <= BARS ? model.classes[shown[place]] : " ";
    bar.style.width = `${share}%`;
    text.textContent = probabilities ? `${share.toFixed(1)} %` : "";
  });
  answer.textContent = probabilities ? model.classes[best] : "–";
  if (!probabilities) return "";
  const unsure = probabilities[best] < model.unsure;
  if (unsure) answer.appendChild(document.createElement("small")).textContent = " unsure";
  return `${model.title}: ${model.classes[best]}${unsure ? " (unsure)" : ""}.`;
}

function changed() {
  if (!waiting) requestAnimationFrame(update);
  waiting = true;
}

function clear() {
  [strokes, picture] = [[], null];
  changed();
}

function undo() {
  if (strokes.length) strokes.pop(); else picture = null;
  changed();
}

async function open(source) {
  const image = new Image();
  image.src = typeof source === "string" ? source : URL.createObjectURL(source);
  try {
    await image.decode();
  } catch {
    element("status").textContent = "That is not a picture that this browser can read.";
    return;
  }
  [strokes, picture] = [[], image];
  changed();
}

function pointAt(event) {
  const box = pad.getBoundingClientRect();
  return [(event.clientX - box.left) / box.width * pad.width, (event.clientY - box.top) / box.height * pad.height];
}

pad.addEventListener("pointerdown", event => {
  if (event.button !== 0 || writing !== null) return;  // a palm beside the finger that writes
  writing = event.pointerId;
  pad.setPointerCapture(event.pointerId);
  strokes.push([pointAt(event)]);
  changed();
});
pad.addEventListener("pointermove", event => {
  if (event.pointerId !== writing) return;
  const moves = event.getCoalescedEvents?.() ?? [];
  strokes.at(-1)?.push(...(moves.length ? moves : [event]).map(pointAt));
  changed();
});
pad.addEventListener("lostpointercapture", event => { if (event.pointerId === writing) writing = null; });
pad.addEventListener("keydown", event => {
  const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (!step) return;
  event.preventDefault();
  const next = cursor.map((value, i) => Math.min(Math.max(value + 20 * step[i], 0), pad.width));
  if (event.shiftKey) {
    const last = strokes.at(-1), end = last?.at(-1);
    if (end && end[0] === cursor[0] && end[1] === cursor[1]) last.push(next); else strokes.push([cursor, next]);
  }
  cursor = next;
  update();
  pen.strokeRect(cursor[0] - 6, cursor[1] - 6, 12, 12, pen.lineWidth = 3);
});
document.addEventListener("keydown", event => {
  if (event.key === "Escape") clear();
  if (event.key === "z" && (event.ctrlKey || event.metaKey)) undo();
});
document.addEventListener("paste", event => {
  const file = [...event.clipboardData.files].find(each => each.type.startsWith("image/"));
  if (file) open(file);
});
document.addEventListener("dragover", event => { event.preventDefault(); pad.classList.add("over"); });
document.addEventListener("dragleave", () => pad.classList.remove("over"));
document.addEventListener("drop", event => {
  event.preventDefault();
  pad.classList.remove("over");
  if (event.dataTransfer.files.length) open(event.dataTransfer.files[0]);
});
element("undo").addEventListener("click", undo);
element("clear").addEventListener("click", clear);
element("choose").addEventListener("click", () => element("file").click());
element("file").addEventListener("change", event => { if (event.target.files.length) open(event.target.files[0]); event.target.value = ""; });
dark.addEventListener("change", changed);
// The report sends a digit as a picture in the address.
const sent = () => { if (location.hash.startsWith("#data:image/png;base64,")) open(location.hash.slice(1)); };
addEventListener("hashchange", sent);
sent();
changed();
