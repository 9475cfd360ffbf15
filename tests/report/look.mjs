// Opens the report in Chromium and prints, as JSON, what a person would notice.
import { createRequire } from "module";
import fs from "fs";
import { chromium } from "playwright-core";

const [executablePath, url, folder, who] = process.argv.slice(2);
const flags = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync", ...(who === "root" ? ["--no-sandbox"] : [])];
const seen = { console: [], requests: [], views: {} };

async function open(name, options) {
  const context = await chromium.launchPersistentContext(`${folder}/profile-${name}`,
    { executablePath, headless: true, args: flags, acceptDownloads: true, ...options });
  const page = context.pages()[0] ?? await context.newPage();
  page.on("console", message => seen.console.push(message.text()));
  page.on("pageerror", error => seen.console.push(String(error)));
  page.on("request", request => {
    if (request.url() !== url && !request.url().startsWith("data:")) seen.requests.push(request.url());
  });
  await page.goto(url);
  return { context, page };
}

const axe = fs.readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
for (const [width, colorScheme] of [[360, "light"], [1440, "light"], [1440, "dark"], [360, "dark"]]) {
  const name = `${width}-${colorScheme}`;
  const { context, page } = await open(name, { viewport: { width, height: 900 }, colorScheme });
  const view = await page.evaluate(() => ({
    overflow: Math.max(0, document.documentElement.scrollWidth - innerWidth),
    background: getComputedStyle(document.body).backgroundColor,
    summaryBottom: document.querySelector("#summary .lead").getBoundingClientRect().bottom,
  }));
  await page.evaluate(axe);
  view.violations = await page.evaluate(async () => (await axe.run()).violations.map(
    violation => `${violation.id}: ${violation.nodes.map(node => node.html.slice(0, 120)).join(" ")}`));
  seen.views[`${width} ${colorScheme}`] = view;

  if (name === "360-light") {  // only what keys can do
    await page.keyboard.press("Tab");
    seen.skip = await page.evaluate(() => document.activeElement.getAttribute("href"));
    const column = () => page.evaluate(() => {
      const head = [...document.querySelectorAll("#table th")].find(th => th.textContent === "Parameters");
      const rows = [...head.closest("table").tBodies[0].rows];
      return { sort: head.getAttribute("aria-sort"), column: rows.map(row => row.cells[head.cellIndex].textContent) };
    });
    for (let i = 0; i < 200; i++) {
      if (await page.evaluate(() => document.activeElement.matches(".scroll"))) break;
      await page.keyboard.press("Tab");
    }
    for (let i = 0; i < 5; i++) await page.keyboard.press("ArrowRight");
    await page.waitForTimeout(400);
    seen.scrolled = await page.evaluate(() => document.activeElement.scrollLeft);
    for (let i = 0; i < 20; i++) {
      if (await page.evaluate(() => document.activeElement.textContent === "Parameters")) break;
      await page.keyboard.press("Tab");
    }
    seen.sorting = [await column()];
    await page.keyboard.press("Enter");
    seen.sorting.push(await column());
    await page.keyboard.press("Space");
    seen.sorting.push(await column());
    const [download] = await Promise.all([page.waitForEvent("download"), page.click("a[download='comparison.csv']")]);
    seen.download = { name: download.suggestedFilename(),
      start: fs.readFileSync(await download.path(), "utf8").slice(0, 60) };
    seen.pdf = (await page.pdf({ format: "A4" })).subarray(0, 5).toString();
  }
  await context.close();
}
const { context, page } = await open("plain", { javaScriptEnabled: false });
seen.withoutScript = { tables: await page.locator("table").count(), buttons: await page.locator("button").count() };
await context.close();
console.log(JSON.stringify(seen));
