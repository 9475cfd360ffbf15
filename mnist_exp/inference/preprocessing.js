"use strict";
// From a picture of one digit to what the networks were trained on, as preprocessing.py does it; change both.
// Images are { height, width, values }.
const SIDE = 28, BOX = 20, LARGEST = 600, COARSE = 60, REACH = 8, FEWEST = 4, MIN_CONTRAST = 24;
const EVEN = 0.02, FAINT = 0.1, DUST = 0.005, CLEAR = 11, SHADE = 0.3, SPECK = 0.05;

// Of bytes: red, green, blue and alpha for each pixel.
function toGrey(width, height, rgba) {
  const level = i => Math.floor((rgba[i] * 19595 + rgba[i + 1] * 38470 + rgba[i + 2] * 7471 + 0x8000) / 65536);
  let ink = 0, opaque = 0;
  for (let i = 0; i < rgba.length; i += 4) { ink += level(i) * rgba[i + 3]; opaque += rgba[i + 3]; }
  const behind = ink < 127.5 * opaque ? 255 : 0, values = new Uint8Array(width * height);
  for (let at = 0; at < values.length; at++) {
    const alpha = rgba[4 * at + 3];
    values[at] = Math.floor((level(4 * at) * alpha + behind * (255 - alpha)) / 255 + 0.5);
  }
  return { height, width, values };
}

// Light on black, 28 by 28, of bytes; an Error says why there is no such digit.
function toDigit(picture) {
  const { height, width, values: ink } = findDigit(picture);
  const [h, w] = [height, width].map(side => Math.max(1, Math.floor(side * BOX / Math.max(height, width) + 0.5)));
  const small = resize(ink, height, width, h, w);
  let [total, down, across] = [0, 0, 0];
  small.forEach((value, i) => { total += value; down += value * Math.floor(i / w); across += value * (i % w); });
  const [top, left] = [[down, h], [across, w]].map(
    ([sum, side]) => Math.min(Math.max(Math.ceil(13.5 - 1e-6 - sum / total), 0), SIDE - side));
  const most = maximum(small), digit = new Uint8Array(SIDE * SIDE);
  small.forEach((value, i) => {
    digit[(top + Math.floor(i / w)) * SIDE + left + i % w] = Math.floor(value / most * 255 + 0.5);
  });
  return digit;
}

// The digit, cut out at its edges: from 0 (background) to 1.
function findDigit(picture) {
  const longer = Math.max(picture.height, picture.width), factor = Math.ceil(longer / LARGEST);
  const few = shrink(picture, factor);
  few.values = few.values.map(value => Math.floor(value + 0.5));
  const { ink, isPhotograph } = findInk(few), { height, width } = ink;
  const { labels, parts } = label(ink, isPhotograph ? SHADE : FAINT, true);
  const largest = maximum(parts.map(part => part.size));
  const kept = parts.filter(({ size, top, bottom, left, right }) => {
    if (size <= (isPhotograph ? SPECK : DUST) * largest) return false;
    // What reaches two sides of a photograph is a pattern, a shadow, or the edge of the paper.
    return !isPhotograph || !top + !left + (bottom === height) + (right === width) < 2;
  });
  if (!kept.some(({ size }) => size === largest)) {
    throw new Error("The picture is blank, or has no margin around the digit.");
  }
  const [top, left] = ["top", "left"].map(side => Math.min(...kept.map(part => part[side])));
  const [bottom, right] = ["bottom", "right"].map(side => Math.max(...kept.map(part => part[side])));
  const margin = Math.max(bottom - top, right - left);
  const [y, x] = [top, left].map(start => Math.max(0, start - margin) * factor);
  const h = Math.min(picture.height, (bottom + margin) * factor) - y;
  const w = Math.min(picture.width, (right + margin) * factor) - x;
  if (factor > 1 && Math.max(h, w) < 0.7 * longer) return findDigit(cut(picture, y, x, h, w));
  const isKept = new Set(kept), place = at => at ? isKept.has(parts[at - 1]) : null;
  const inside = valueAt => cut(make(height, width, valueAt), top, left, bottom - top, right - left);
  const digit = inside((v, u, i) => place(labels[i]) === false ? 0 : ink.values[i]);
  const mask = inside((v, u, i) => place(labels[i]) ? 1 : 0);
  if (Math.max(digit.height, digit.width) > SIDE && !isSingle(digit, mask, kept)) {
    throw new Error("The picture has more than one digit, or something else; crop it to one digit.");
  }
  return digit;
}

// Each pixel's ink, from 0 (background) to 1, and whether the background is uneven, as in a photograph.
function findInk(picture) {
  const { height, width, values } = picture;
  const sides = [[0, 0, 1, width], [height - 1, 0, 1, width], [0, 0, height, 1], [0, width - 1, height, 1]]
    .map(place => cut(picture, ...place).values);
  const border = sides.flatMap(side => [...side]), level = quantile(border, 0.5);
  const differs = values.map(value => Math.abs(value - level)), contrast = maximum(differs);
  if (contrast < MIN_CONTRAST || differs.filter(value => value > contrast / 2).length < FEWEST) {
    throw new Error("The picture is blank.");
  }
  // Ink may reach a side of an even picture. What reaches two that are opposite may be lines on the paper.
  const [above, below, before, after] = sides.map(
    side => side.some(value => Math.abs(value - level) > FAINT * contrast));
  const variation = quantile(border.map(value => Math.abs(value - level)), 0.9);
  if ((above && below) || (before && after) || variation > EVEN * contrast) {
    return { ink: findInkOnPaper(picture), isPhotograph: true };
  }
  const sign = Math.sign(values.reduce((sum, value) => sum + (value - level) ** 3, 0));
  return { ink: make(height, width, (y, x, i) => Math.max(sign * (values[i] - level) / contrast, 0)), isPhotograph: false };
}

// The same for a photograph: by how much each pixel differs from the paper around it, be the ink dark or light.
function findInkOnPaper({ height, width, values }) {
  const coarse = shrink({ height, width, values }, Math.ceil(Math.max(height, width) / COARSE)), wide = extend(coarse);
  const inside = image => cut(image, 2 * REACH, 2 * REACH, coarse.height, coarse.width);
  const around = mean(coarse, REACH).values;
  const sign = coarse.values.reduce((sum, value, i) => sum + (value - around[i]) ** 3, 0) >= 0 ? 1 : -1;
  // An opening has no strokes. Beyond the edges the light goes on as it came, or stays, whichever leaves less ink.
  const open = image => {
    const signed = make(image.height, image.width, (y, x, i) => sign * image.values[i]);
    return fold(fold(signed, REACH, Math.min), REACH, Math.max);
  };
  const [goesOn, stays] = [inside(open(wide)), open(coarse)].map(image => image.values);
  const paper = make(coarse.height, coarse.width, (y, x, i) => Math.max(goesOn[i], stays[i]));
  const light = resize(mean(paper, REACH / 2).values, coarse.height, coarse.width, height, width);
  let excess = mean(make(height, width, (y, x, i) => sign * values[i] - light[i]), 1).values;
  const middle = quantile(excess, 0.5);
  excess = excess.map(value => value - middle);
  const average = of => of.reduce((sum, value) => sum + value, 0) / of.length;
  const half = excess.slice().sort().at(-Math.min(40, excess.length)) / 2;
  const contrast = average(excess.filter(value => value >= half));
  const rest = excess.filter(value => value < contrast / 4), centre = average(rest);
  const noise = Math.sqrt(average(rest.map(value => (value - centre) ** 2)));
  const isClear = contrast > Math.max(CLEAR * noise, MIN_CONTRAST);  // more than crumpled paper
  const inkOf = value => isClear && value >= SHADE * contrast ? Math.min(value / contrast, 1) : 0;
  return make(height, width, (y, x, i) => inkOf(excess[i]));
}

// Whether the parts of a picture can be those of one digit, not of two, nor a pattern, a frame or a patch.
function isSingle({ height, width, values }, mask, kept) {
  const longer = Math.max(height, width), total = values.reduce((sum, value) => sum + value);
  const largest = maximum(kept.map(part => part.size)), parts = kept.filter(({ size }) => size > 0.1 * largest);
  const isSpace = (y, x) => y < 0 || x < 0 || y >= height || x >= width || !mask.values[y * width + x];
  const spaces = label(make(height + 2, width + 2, (y, x) => isSpace(y - 1, x - 1) ? 1 : 0), 1, false).parts.slice(1);
  const holes = spaces.filter(({ size }) => size > 0.01 * height * width).length;
  const [rows, columns] = [new Float64Array(height), new Float64Array(width)];
  mask.values.forEach((value, i) => { rows[Math.floor(i / width)] += value; columns[i % width] += value; });
  const runs = (sums, most) => sums.filter((sum, i) => sum > 0.97 * most && !(i && sums[i - 1] > 0.97 * most)).length;
  const squares = new Float64Array(values.length);  // the side of the largest square of ink that ends at each pixel
  values.forEach((value, i) => {
    const inner = i >= width && i % width ? Math.min(squares[i - 1], squares[i - width], squares[i - width - 1]) : 0;
    squares[i] = value > 0.5 ? 1 + inner : 0;
  });
  const isFull = 2 * Math.min(height, width) > longer && rows.reduce((sum, row) => sum + row) > 0.8 * height * width;
  const isSolid = isFull || maximum(squares) >= 1 + Math.floor(0.45 * longer);
  if (parts.length > 5 || holes > 4 || Math.min(runs(rows, width), runs(columns, height)) > 1 || isSolid) return false;
  const [enough, least] = width > 1.2 * height ? [0.5, 0.1] : [0.65, 0.25];
  return !parts.some(one => parts.some(other => {
    if (one === other) return false;
    const [h, high] = [one, other].map(part => part.bottom - part.top);
    const [w, wide] = [one, other].map(part => part.right - part.left);
    const lowest = Math.min(h, high), share = Math.min(one.size, other.size) / total;
    return (other.left >= one.right && lowest > enough * height && share > least) ||
      (other.top >= one.bottom && height > 1.6 * width && lowest > 0.3 * height) ||
      (lowest > 0.85 * Math.max(h, high) && Math.min(w, wide) > 0.85 * Math.max(w, wide)) ||
      (other.top > one.bottom && 8 * high < wide && wide > 1.2 * w);  // an underline
  }));
}

// Each pixel's part, from 1, of those that touch and are at least so strong; 0 elsewhere. The parts have size and place.
function label({ height, width, values }, least, diagonally) {
  const labels = new Int32Array(values.length), parts = [];
  for (let start = 0; start < values.length; start++) {
    if (labels[start] || values[start] < least) continue;
    const waiting = [start], part = { size: 0, top: height, bottom: 0, left: width, right: 0 };
    labels[start] = parts.push(part);
    while (waiting.length) {
      const i = waiting.pop(), y = Math.floor(i / width), x = i % width;
      part.size += values[i];
      [part.top, part.bottom] = [Math.min(part.top, y), Math.max(part.bottom, y + 1)];
      [part.left, part.right] = [Math.min(part.left, x), Math.max(part.right, x + 1)];
      for (let v = Math.max(y - 1, 0); v <= Math.min(y + 1, height - 1); v++) {
        for (let u = Math.max(x - 1, 0); u <= Math.min(x + 1, width - 1); u++) {
          const j = v * width + u;
          if (labels[j] || values[j] < least || !(diagonally || v === y || u === x)) continue;
          labels[j] = labels[start];
          waiting.push(j);
        }
      }
    }
  }
  return { labels, parts };
}

function make(height, width, valueAt) {
  const values = new Float64Array(height * width);
  for (let y = 0, i = 0; y < height; y++) for (let x = 0; x < width; x++, i++) values[i] = valueAt(y, x, i);
  return { height, width, values };
}

function cut({ width: across, values }, top, left, height, width) {
  return make(height, width, (y, x) => values[(top + y) * across + left + x]);
}

// Each pixel is the mean of `factor` by `factor`, or of what there is of them at the edges.
function shrink({ height, width, values }, factor) {
  return make(Math.ceil(height / factor), Math.ceil(width / factor), (y, x) => {
    const [bottom, right] = [Math.min((y + 1) * factor, height), Math.min((x + 1) * factor, width)];
    let sum = 0;
    for (let v = y * factor; v < bottom; v++) for (let u = x * factor; u < right; u++) sum += values[v * width + u];
    return sum / (bottom - y * factor) / (right - x * factor);
  });
}

// Beyond each edge, twice what is at the edge less what is as far inside.
function extend({ height, width, values }) {
  const at = (y, x) => {
    const [v, u] = [Math.min(Math.max(y, 0), height - 1), Math.min(Math.max(x, 0), width - 1)];
    if (v !== y) return height > 1 ? 2 * at(v, x) - at(2 * v - y, x) : at(v, x);
    if (u !== x) return width > 1 ? 2 * at(y, u) - at(y, 2 * u - x) : at(y, u);
    return values[y * width + x];
  };
  return make(height + 4 * REACH, width + 4 * REACH, (y, x) => at(y - 2 * REACH, x - 2 * REACH));
}

// Each pixel put together with its neighbours up to `reach` away, first across, then down; the edges go on.
function fold(image, reach, combine) {
  const { height, width } = image, clamp = (place, side) => Math.min(Math.max(place, 0), side - 1);
  const pass = (values, index) => make(height, width, (y, x) => {
    let result = values[index(y, x, -reach)];
    for (let step = 1 - reach; step <= reach; step++) result = combine(result, values[index(y, x, step)]);
    return result;
  });
  const wide = pass(image.values, (y, x, step) => y * width + clamp(x + step, width));
  return pass(wide.values, (y, x, step) => clamp(y + step, height) * width + x);
}

function mean(image, reach) {
  const { height, width, values } = fold(image, reach, (sum, value) => sum + value);
  return { height, width, values: values.map(sum => sum / (2 * reach + 1) ** 2) };
}

// Shrinking takes the mean of the area that a pixel covers; enlarging is bilinear. `round` is for 8 bits.
function resize(values, height, width, newHeight, newWidth, round = value => value) {
  const across = resizeMatrix(width, newWidth), down = resizeMatrix(height, newHeight);
  const wide = new Float64Array(height * newWidth), result = new Float64Array(newHeight * newWidth);
  for (let y = 0; y < height; y++) {
    across.forEach((weights, x) => {
      let sum = 0;
      for (const [i, weight] of weights) sum += weight * values[y * width + i];
      wide[y * newWidth + x] = round(sum);
    });
  }
  down.forEach((weights, y) => {
    for (let x = 0; x < newWidth; x++) {
      let sum = 0;
      for (const [i, weight] of weights) sum += weight * wide[i * newWidth + x];
      result[y * newWidth + x] = round(sum);
    }
  });
  return result;
}

function resizeMatrix(before, after) {
  const scale = before / after, reach = Math.max(scale, 1) / 2;
  return Array.from({ length: after }, (_, place) => {
    const centre = (place + 0.5) * scale, weights = [];
    for (let i = Math.max(0, Math.floor(centre - reach)); i < Math.min(before, centre + reach); i++) {
      weights.push([i, Math.min(centre + reach, i + 1) - Math.max(centre - reach, i)]);
    }
    const total = weights.reduce((sum, [, weight]) => sum + weight, 0);
    return weights.map(([i, weight]) => [i, weight / total]);
  });
}

function maximum(values) {
  return values.reduce((most, value) => Math.max(most, value), -Infinity);
}

function quantile(values, share) {
  return Float64Array.from(values).sort()[Math.floor(share * (values.length - 1))];
}
