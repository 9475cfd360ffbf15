"use strict";
// From a picture of one digit to what the networks were trained on, as preprocessing.py does it; change both.
const SIDE = 28, BOX = 20, CENTRE = 14, LARGEST = 600, SMALLEST = 8, FEWEST = 4, MIN_CONTRAST = 24;
const SPECK = 0.05, DUST = 0.005, FAINT = 0.1, EVEN = 0.02;

// Images are { height, width, values }; this one's are of bytes, red, green, blue and alpha for each pixel.
function toGrey(width, height, rgba) {
  const level = i => Math.floor((rgba[i] * 19595 + rgba[i + 1] * 38470 + rgba[i + 2] * 7471 + 0x8000) / 65536);
  let ink = 0, opaque = 0;
  for (let i = 0; i < rgba.length; i += 4) { ink += level(i) * rgba[i + 3]; opaque += rgba[i + 3]; }
  const behind = ink < 127.5 * opaque ? 255 : 0;
  const factor = Math.ceil(Math.max(width, height) / LARGEST);
  const h = Math.ceil(height / factor), w = Math.ceil(width / factor);
  const sums = new Float64Array(h * w), counts = new Float64Array(h * w);
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i += 4) {
      const place = Math.floor(y / factor) * w + Math.floor(x / factor), alpha = rgba[i + 3] / 255;
      sums[place] += Math.floor(level(i) * alpha + behind * (1 - alpha) + 0.5);
      counts[place]++;
    }
  }
  return { height: h, width: w, values: sums.map((sum, i) => Math.floor(sum / counts[i] + 0.5)) };
}

// Light on black, 28 by 28, of bytes; an Error says why there is no such digit.
function toDigit(picture) {
  const { height, width, values: ink } = findInk(picture);
  const half = Math.max(FAINT, range(ink)[1] / 2);
  if (ink.filter(value => value > half).length < FEWEST) throw new Error("It is blank.");
  const { height: h, width: w, values: box } = cut(ink, width, ...findBox(ink.map(value => value > FAINT), width));
  checkSingle(box, h, w);
  const [H, W] = [h, w].map(side => Math.max(1, Math.floor(side * BOX / Math.max(h, w) + 0.5)));
  const small = resize(box, h, w, H, W);
  const rows = new Float64Array(H), columns = new Float64Array(W);
  small.forEach((value, i) => { rows[Math.floor(i / W)] += value; columns[i % W] += value; });
  const [y0, x0] = [offset(rows), offset(columns)], most = range(small)[1], digit = new Uint8Array(SIDE * SIDE);
  small.forEach((value, i) => {
    digit[(y0 + Math.floor(i / W)) * SIDE + x0 + i % W] = Math.floor(value / most * 255 + 0.5);
  });
  return digit;
}

// What of a picture is the digit, from 0 to 1, whether it is lighter or darker than the rest.
function findInk({ height, width, values }) {
  const border = values.filter(atBorder(height, width));
  const [lowest, highest] = range(values);
  let level = quantile(border, 0.5);
  const contrast = Math.max(level - lowest, highest - level);
  if (Math.max(height, width) < SMALLEST || contrast < MIN_CONTRAST) throw new Error("It is blank.");
  // Ink may reach one side of an even picture. What reaches more may be lines on the paper, or a shadow.
  const touched = sides(height, width).filter(side =>
    values.some((value, i) => side(i) && Math.abs(value - level) > FAINT * contrast)).length;
  const isFlat = touched <= 1 && quantile(border.map(value => Math.abs(value - level)), 0.9) <= EVEN * contrast;
  const threshold = otsu(values), isOther = isFlat ?
    value => Math.abs(value - level) > FAINT * contrast : value => value >= threshold === level < threshold;
  const sheet = findSheet(values, height, width, values.map(value => isOther(value) ? 1 : 0));
  if (sheet) return findInk(sheet);
  const [sums, shares] = [values, values.map(() => 1)].map(
    of => isFlat ? of : meanAround(of, height, width, Math.floor(Math.max(height, width) / 4)));
  const skewness = values.reduce((sum, value, i) => sum + (value - (isFlat ? level : sums[i] / shares[i])) ** 3, 0);
  if (skewness < 0) [values, level] = [values.map(value => 255 - value), 255 - level];
  if (!isFlat) return { height, width, values: extractInk(values, height, width) };
  const ink = values.map(value => Math.max(value - level, 0) / contrast);
  const digit = findDigit(ink, height, width, FAINT, true);
  return { height, width, values: ink.map((value, i) => value < FAINT || digit[i] ? value : 0) };
}

// The four sides of an image, each as a test of a pixel's place.
function sides(height, width) {
  return [i => i < width, i => i >= (height - 1) * width, i => i % width === 0, i => i % width === width - 1];
}

function atBorder(height, width) {
  const each = sides(height, width);
  return (_, i) => each.some(side => side(i));
}

// The inside of a sheet that lies on a desk or fills a window, if what differs from the border is a sheet.
function findSheet(values, height, width, other) {
  const box = findBox(other, width, 0.5), [top, left, h, w] = box, part = cut(other, width, ...box);
  const share = Math.min(h / height, w / width), solid = filled(part), all = filled({ values: other }) * other.length;
  // Of MNIST's 70,000 digits, drawn larger, none is as much of a rectangle as a small sheet must be.
  const isCard = solid > 0.7 && solid * h * w > 0.9 * all && Math.min(h, w) > 0.4 * Math.max(h, w) &&
    Math.max(height, width) > 4 * SIDE;
  if (Math.min(h, w) <= SMALLEST || share <= (isCard ? 0.2 : 0.5) || solid < 0.5 || !isOutline(part)) return null;
  // A sheet touches little of the border; what touches more is the brighter half of paper in uneven light.
  if (filled({ values: other.filter(atBorder(height, width)) }) > 0.25) return null;
  const inset = 1 + Math.floor(Math.min(h, w) / 50);  // at its edges the brightness is mixed
  return cut(values, width, top + inset, left + inset, h - 2 * inset, w - 2 * inset);
}

// From the first to the last row and column that has more than that share of the fullest one's pixels.
function findBox(mask, width, share = 0) {
  const rows = new Float64Array(mask.length / width), columns = new Float64Array(width);
  mask.forEach((value, i) => { rows[Math.floor(i / width)] += value; columns[i % width] += value; });
  const [[top, bottom], [left, right]] = [rows, columns].map(counts => {
    const limit = share * range(counts)[1], isFull = count => count > limit;
    return [counts.findIndex(isFull), counts.findLastIndex(isFull)];
  });
  return [top, left, bottom - top + 1, right - left + 1];
}

function cut(values, across, top, left, height, width) {
  const place = i => (top + Math.floor(i / width)) * across + left + i % width;
  return { height, width, values: Float64Array.from({ length: height * width }, (_, i) => values[place(i)]) };
}

function filled({ values }) {
  return values.reduce((sum, value) => sum + value) / values.length;
}

// Whether a part lies along all four sides of its box, as a sheet or a frame does, and no digit.
function isOutline({ height, width, values }) {
  const h = 1 + Math.floor(height / 10), w = 1 + Math.floor(width / 10);
  const [above, below] = [new Uint8Array(width), new Uint8Array(width)];
  const [before, after] = [new Uint8Array(height), new Uint8Array(height)];
  values.forEach((value, i) => {
    if (!value) return;
    const y = Math.floor(i / width), x = i % width;
    if (y < h) above[x] = 1;
    if (y >= height - h) below[x] = 1;
    if (x < w) before[y] = 1;
    if (x >= width - w) after[y] = 1;
  });
  return [above, below, before, after].every(side => filled({ values: side }) > 0.9);
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

// On paper whose light is uneven: what is brighter than around it, from 0 to 1.
function extractInk(values, height, width) {
  const side = Math.max(height, width), mean = (of, radius) => meanAround(of, height, width, radius);
  let excess = removeLighting(values, height, width);
  const limit = 2 * spread(excess), paper = excess.map(value => value < limit ? 1 : 0), radius = Math.floor(side / 8);
  const [sums, shares] = [mean(excess.map((value, i) => value * paper[i]), radius), mean(paper, radius)];
  const edge = Math.floor(side / 280);
  excess = mean(excess.map((value, i) => value - sums[i] / Math.max(shares[i], 1e-9)), edge);
  const noise = spread(excess), threshold = otsu(excess);
  if (threshold < Math.max(3 * noise, MIN_CONTRAST / 2)) {
    throw new Error("It is blank, or has no margin around the digit.");
  }
  const kept = findDigit(excess, height, width, threshold, false), near = mean(kept, edge + 1);
  let total = 0, count = 0;
  kept.forEach((keep, i) => { if (keep) { total += excess[i]; count++; } });
  return excess.map((value, i) =>
    near[i] > 1e-9 ? Math.min(Math.max((value - 2 * noise) / (total / count - 2 * noise), 0), 1) : 0);
}

// The paper's light is a quadratic function of the place, fitted to what is not brighter than most of it.
function removeLighting(values, height, width) {
  const side = Math.max(height, width), step = 1 + Math.floor(side / 140), few = [];
  const terms = (y, x) => [1, x / side, y / side, x * x / side ** 2, x * y / side ** 2, y * y / side ** 2];
  for (let y = 0; y < height; y += step) {
    for (let x = 0; x < width; x += step) few.push([terms(y, x), values[y * width + x]]);
  }
  const dot = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);
  let light, paper = few;
  for (let round = 0; round < 4; round++) {
    const system = Array.from({ length: 6 }, (_, i) => Array.from({ length: 7 }, (_, j) => i === j ? 1e-6 : 0));
    for (const [term, value] of paper) {
      for (let i = 0; i < 6; i++) {
        for (let j = 0; j < 6; j++) system[i][j] += term[i] * term[j];
        system[i][6] += term[i] * value;
      }
    }
    light = solve(system);
    const rest = Float64Array.from(few, ([term, value]) => value - dot(light, term)), middle = quantile(rest, 0.5);
    light[0] += middle;
    const limit = middle + spread(rest);
    paper = few.filter((_, i) => rest[i] < limit);
  }
  return values.map((value, i) => value - dot(light, terms(Math.floor(i / width), i % width)));
}

// Gaussian elimination of a positive definite system, each row with its right side at the end.
function solve(rows) {
  rows.forEach((row, i) => {
    rows.forEach((other, k) => {
      if (k === i) return;
      const factor = other[i] / row[i];
      for (let j = i; j < other.length; j++) other[j] -= factor * row[j];
    });
  });
  return rows.map((row, i) => row[row.length - 1] / row[i]);
}

// Which pixels are the digit's, of those above a threshold. Left out, where something else is there: what lies at the
// edge of a photograph, a drawn frame, an underline (wider than the digit is high), and specks.
function findDigit(strength, height, width, threshold, isFlat) {
  const number = new Int32Array(strength.length), parts = [];
  for (let start = 0; start < strength.length; start++) {
    if (number[start] || strength[start] < threshold) continue;
    const waiting = [start], part = { size: 0, top: height, bottom: 0, left: width, right: 0 };
    number[start] = parts.push(part);
    while (waiting.length) {
      const i = waiting.pop(), y = Math.floor(i / width), x = i % width;
      part.size += strength[i];
      [part.top, part.bottom] = [Math.min(part.top, y), Math.max(part.bottom, y)];
      [part.left, part.right] = [Math.min(part.left, x), Math.max(part.right, x)];
      for (let v = Math.max(y - 1, 0); v <= Math.min(y + 1, height - 1); v++) {
        for (let u = Math.max(x - 1, 0); u <= Math.min(x + 1, width - 1); u++) {
          const j = v * width + u;
          if (!number[j] && strength[j] >= threshold) { number[j] = number[start]; waiting.push(j); }
        }
      }
    }
  }
  for (const part of parts) [part.height, part.width] = [part.bottom - part.top + 1, part.right - part.left + 1];
  const isFrame = part => {
    const box = cut(number, width, part.top, part.left, part.height, part.width);
    box.values = box.values.map(at => parts[at - 1] === part ? 1 : 0);
    return filled(box) < 0.5 && isOutline(box);
  };
  const atEdge = ({ top, bottom, left, right }) =>
    !isFlat && (!top || !left || bottom === height - 1 || right === width - 1);
  const tallest = parts.reduce((most, part) => Math.max(most, part.height), 0);
  const largest = of => of.reduce((most, part) => Math.max(most, part.size), 0);
  let kept = parts;
  for (const unlikely of [atEdge, isFrame, part => part.width > Math.max(8 * part.height, tallest)]) {
    const rest = kept.filter(part => !unlikely(part));
    if (largest(rest) > SPECK * largest(kept)) kept = rest;
  }
  const limit = (isFlat ? DUST : SPECK) * largest(kept), digit = new Set(kept.filter(part => part.size > limit));
  return Float64Array.from(number, at => at && digit.has(parts[at - 1]) ? 1 : 0);
}

// Two digits: parts about as high with an empty column between them, or about as large with an empty row.
function checkSingle(ink, height, width) {
  const columns = new Float64Array(width), filled = new Uint8Array(width);
  ink.forEach((value, i) => { columns[i % width] += value; if (value > FAINT) filled[i % width] = 1; });
  const total = columns.reduce((sum, value) => sum + value);
  const [enough, least] = width > 1.3 * height ? [0.5, 0.1] : [0.65, 0.25];
  let left = 0;
  for (let gap = 0; gap < width; gap++) {
    if (!filled[gap]) {
      const heights = [[0, gap], [gap, width]].map(([from, to]) => {
        let first = height, last = 0;
        for (let y = 0; y < height; y++) {
          for (let x = from; x < to; x++) {
            if (ink[y * width + x] > FAINT) { first = Math.min(first, y); last = y; break; }
          }
        }
        return last - first + 1;
      });
      const share = Math.min(left, total - left) / total;
      if (Math.min(...heights) > enough * height && share > least) {
        throw new Error("It has more than one digit; keep one.");
      }
    }
    left += columns[gap];
  }
  for (let gap = 1; gap < height; gap++) {
    if (ink.subarray(gap * width, (gap + 1) * width).some(value => value > FAINT)) continue;
    const boxes = [ink.subarray(0, gap * width), ink.subarray(gap * width)].map(
      part => findBox(part.map(value => value > FAINT), width).slice(2));
    const [heights, widths] = [0, 1].map(side => boxes.map(box => box[side]).sort((a, b) => a - b));
    const alike = heights[0] > 0.75 * heights[1] && widths[0] > 0.5 * widths[1];
    if (alike && boxes.every(([high, wide]) => high > 0.6 * wide)) {
      throw new Error("It has more than one digit; keep one.");
    }
  }
}

function offset(profile) {
  const total = profile.reduce((sum, value) => sum + value);
  const mass = profile.reduce((sum, value, i) => sum + value * i, 0) / total;
  return Math.min(Math.max(Math.ceil(CENTRE - 0.5 - 1e-6 - mass), 0), SIDE - profile.length);
}

// Each pixel's mean with its neighbours up to `radius` away; beyond the edge is 0.
function meanAround(values, height, width, radius) {
  const sums = new Float64Array((height + 1) * (width + 1)), size = (2 * radius + 1) ** 2, across = width + 1;
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      sums[(y + 1) * across + x + 1] = values[y * width + x] + sums[y * across + x + 1]
        + sums[(y + 1) * across + x] - sums[y * across + x];
    }
  }
  return values.map((_, i) => {
    const y = Math.floor(i / width), x = i % width;
    const [top, bottom] = [Math.max(y - radius, 0), Math.min(y + radius + 1, height)].map(row => row * across);
    const [left, right] = [Math.max(x - radius, 0), Math.min(x + radius + 1, width)];
    return (sums[bottom + right] - sums[top + right] - sums[bottom + left] + sums[top + left]) / size;
  });
}

function range(values) {
  let [lowest, highest] = [Infinity, -Infinity];
  for (const value of values) { if (value < lowest) lowest = value; if (value > highest) highest = value; }
  return [lowest, highest];
}

function quantile(values, share) {
  return Float64Array.from(values).sort()[Math.floor(share * (values.length - 1))];
}

function spread(values) {
  const middle = quantile(values, 0.5);
  return Math.max(1, 1.4826 * quantile(values.map(value => Math.abs(value - middle)), 0.5));
}

function otsu(values) {
  const counts = new Float64Array(256);
  for (const value of values) counts[Math.floor(Math.min(Math.max(value, 0), 255))]++;
  const total = counts.reduce((sum, count, level) => sum + count * level, 0);
  let [below, sum, best, threshold] = [0, 0, -1, 0];
  counts.forEach((count, level) => {
    below += count;
    sum += count * level;
    const above = values.length - below;
    const difference = sum / Math.max(below, 1) - (total - sum) / Math.max(above, 1);
    if (below * above * difference ** 2 > best) [best, threshold] = [below * above * difference ** 2, level + 1];
  });
  return threshold;
}
