// Opens the status page in headless Chromium, in both colour schemes and at two widths. Fails if the browser reports
// an error, if the page is wider than the screen, or if axe-core finds a violation. Saves a screenshot of each
// combination.
//
//     node look.mjs URL FOLDER
//
// Needs puppeteer-core and axe-core in NODE_PATH, and Debian's chromium.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const require = createRequire(join(process.env.PAGE_MODULES ?? process.cwd(), "x.js"));
const puppeteer = require("puppeteer-core");
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
const [url, folder] = process.argv.slice(2);

const browser = await puppeteer.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu"],
});
const problems = [];
for (const scheme of ["light", "dark"]) {
  for (const width of [1280, 360]) {
    const page = await browser.newPage();
    const report = (text) => problems.push(`${scheme} at ${width} px: ${text}`);
    page.on("console", (message) => {
      if (["error", "warning"].includes(message.type())) report(message.text());
    });
    page.on("pageerror", (error) => report(error.message));
    page.on("requestfailed", (request) => report(`${request.url()} cannot be loaded`));
    await page.setViewport({ width, height: 800 });
    await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
    const response = await page.goto(url, { waitUntil: "load" });
    if (response.status() !== 200) report(`status ${response.status()}`);
    const wide = await page.evaluate(() => document.documentElement.scrollWidth);
    if (wide > width) report(`the page is ${wide} px wide`);
    await page.evaluate(axe);
    const { violations } = await page.evaluate(() => globalThis.axe.run());
    for (const violation of violations) {
      report(`${violation.id}: ${violation.help}: ${violation.nodes.map((node) => node.html).join(" ")}`);
    }
    await page.screenshot({ path: join(folder, `status-${scheme}-${width}.png`), fullPage: true });
    await page.close();
  }
}
const page = await browser.newPage();
await page.setJavaScriptEnabled(false);
await page.goto(url);
if (!(await page.content()).includes("<h1")) problems.push("the page is empty without JavaScript");
await browser.close();
for (const problem of problems) console.error(problem);
process.exit(problems.length > 0 ? 1 : 0);
