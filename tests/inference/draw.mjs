// Opens the drawing page in Chromium, uses it as a person would, and prints as JSON what was seen.
import { createRequire } from "module";
import fs from "fs";
import { chromium } from "playwright-core";

const [executablePath, url, folder, who] = process.argv.slice(2);
const flags = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync", ...(who === "root" ? ["--no-sandbox"] : [])];
const axe = fs.readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const seen = { console: [], requests: [], views: {} };

for (const [width, colorScheme] of [[360, "light"], [360, "dark"], [1440, "light"], [1440, "dark"]]) {
  const context = await chromium.launchPersistentContext(`${folder}/profile-${width}-${colorScheme}`,
    { executablePath, headless: true, args: flags, viewport: { width, height: 900 }, colorScheme });
  const page = context.pages()[0] ?? await context.newPage();
  page.on("console", message => seen.console.push(message.text()));
  page.on("pageerror", error => seen.console.push(String(error)));
  page.on("request", request => {
    if (!/^(file|data|blob):/.test(request.url())) seen.requests.push(request.url());
  });
  await page.goto(url);
  const answers = async () => {
    await page.evaluate(() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done))));
    return await page.evaluate(() => [document.querySelector("#status").textContent,
      ...[...document.querySelectorAll(".answer")].map(each => each.firstChild.textContent)]);
  };
  const stroke = async (...points) => {
    const box = await page.locator("#pad").boundingBox();
    const at = ([x, y]) => [box.x + x * box.width, box.y + y * box.height];
    await page.mouse.move(...at(points[0]));
    await page.mouse.down();
    for (const point of points.slice(1)) await page.mouse.move(...at(point), { steps: 8 });
    await page.mouse.up();
  };
  const view = { empty: await answers() };
  await stroke([0.25, 0.2], [0.7, 0.2], [0.45, 0.85]);
  view.seven = await answers();
  view.overflow = await page.evaluate(() => Math.max(0, document.documentElement.scrollWidth - innerWidth));
  await page.evaluate(() => { document.documentElement.style.zoom = 2; });
  view.zoomed = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  await page.screenshot({ path: `${folder}/${width}-${colorScheme}-zoomed.png`, fullPage: true });
  await page.evaluate(() => { document.documentElement.style.zoom = 1; });
  view.background = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  await page.evaluate(axe);
  view.violations = await page.evaluate(async () => (await axe.run()).violations.map(
    violation => `${violation.id}: ${violation.nodes.map(node => node.html.slice(0, 120)).join(" ")}`));
  await page.screenshot({ path: `${folder}/${width}-${colorScheme}.png`, fullPage: true });
  await stroke([0.9, 0.05], [0.9, 0.95]);
  view.two = await answers();
  await page.click("#undo");
  view.undone = await answers();
  await page.click("#clear");
  view.cleared = await answers();
  await page.focus("#pad");  // only keys: an upright stroke is a one
  for (let i = 0; i < 8; i++) await page.keyboard.press("ArrowUp");
  for (let i = 0; i < 16; i++) await page.keyboard.press("Shift+ArrowDown");
  view.keys = await answers();
  await page.keyboard.press("Escape");
  view.escaped = await answers();
  const finger = await context.newCDPSession(page), box = await page.locator("#pad").boundingBox();
  const touch = (type, ...points) => finger.send("Input.dispatchTouchEvent", { type,
    touchPoints: points.map(([x, y]) => ({ x: box.x + x * box.width, y: box.y + y * box.height })) });
  await touch("touchStart", [0.5, 0.2]);
  for (let y = 0.25; y < 0.8; y += 0.05) await touch("touchMove", [0.5, y]);
  await touch("touchEnd");
  view.finger = await answers();
  await page.keyboard.press("Escape");
  await touch("touchStart", [0.5, 0.2]);
  for (let y = 0.25; y < 0.8; y += 0.05) await touch("touchMove", [0.5, y], [0.9, 0.9]);  // and a palm
  await touch("touchEnd");
  view.palm = await answers();
  for (const [type, event, holder] of [["paste", "ClipboardEvent", "clipboardData"], ["drop", "DragEvent", "dataTransfer"]]) {
    await page.keyboard.press("Escape");
    await page.evaluate(async ([type, event, holder, address]) => {
      const data = new DataTransfer();
      data.items.add(new File([Uint8Array.from(atob(address), each => each.charCodeAt(0))], "x.png", { type: "image/png" }));
      document.querySelector("#pad").dispatchEvent(new window[event](type, { [holder]: data, bubbles: true, cancelable: true }));
    }, [type, event, holder, fs.readFileSync(`${folder}/one.png`).toString("base64")]);
    await page.waitForFunction(() => document.querySelector("#status").textContent.includes("LeNet5: 1"));
    view[type] = await answers();
  }
  await page.setInputFiles("#file", `${folder}/two.jpg`);
  await page.waitForFunction(() => document.querySelector("#status").textContent.includes(":"));
  view.photograph = await answers();
  await page.setInputFiles("#file", { name: "x.png", mimeType: "image/png", buffer: Buffer.from("no picture") });
  await page.waitForFunction(() => document.querySelector("#status").textContent.includes("not a picture"));
  const sent = fs.readFileSync(`${folder}/one.png`).toString("base64");
  await page.goto(`${url}#data:image/png;base64,${sent}`);
  await page.waitForFunction(() => document.querySelector("#status").textContent.includes("LeNet5: 1"));
  seen.views[`${width} ${colorScheme}`] = view;
  await context.close();
}
const plain = await chromium.launchPersistentContext(`${folder}/profile-plain`,
  { executablePath, headless: true, args: flags, javaScriptEnabled: false });
const page = plain.pages()[0] ?? await plain.newPage();
await page.goto(url);
await page.screenshot({ path: `${folder}/plain.png` });
seen.plain = await page.locator("body").innerText();
await plain.close();
console.log(JSON.stringify(seen));
