// Asks the page each plan, by WebDriver BiDi or the browser's own protocol, and prints the answers.
import fs from "fs";
import puppeteer from "puppeteer-core";

const [browser, executablePath, address, file, widths] = process.argv.slice(2);
const plans = JSON.parse(fs.readFileSync(file, "utf8"));
const sizes = JSON.parse(widths);
const args = browser === "chrome" ? ["--no-sandbox", "--disable-gpu", "--disable-background-networking"] : [];
const timeout = 600000; // ms, on a busy machine
const driven = await puppeteer.launch({ browser, executablePath, headless: true, args, timeout, protocolTimeout: timeout });
const page = await driven.newPage();
page.setDefaultTimeout(timeout);
const elsewhere = [];
page.on("request", (one) => one.url().startsWith(address) || one.url().startsWith("data:") || elsewhere.push(one.url()));
const [answers, times] = [[], []];
for (const [number, plan] of plans.entries()) {
  const hash = `plan=${encodeURIComponent(JSON.stringify(plan))}`;
  if (number % Math.ceil(plans.length / sizes.length) === 0) {
    await page.setViewport({ width: sizes[Math.floor((number * sizes.length) / plans.length)], height: 900 });
  }
  const start = performance.now();
  if (number === 0) await page.goto(`${address}#${hash}`);
  else {
    await page.evaluate((text) => {
      delete document.getElementById("result").dataset.result;
      location.hash = text;
    }, hash);
  }
  await page.waitForSelector("#result[data-result]");
  times.push(Math.round(performance.now() - start));
  answers.push(JSON.parse(await page.$eval("#result", (one) => one.dataset.result)));
}
console.log(JSON.stringify({ version: await driven.version(), answers, times, elsewhere }));
await driven.close();
