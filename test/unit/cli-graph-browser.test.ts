import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { pathToFileURL } from "node:url";
import { type Browser, chromium, type Page } from "playwright-core";
import { type Graph } from "../../cli/graphFacts";
import { graphPage } from "../../cli/graphPage";
import { factsOf, graphOf, sampleFacts, stateVm } from "../helpers/sampleFleet";

const CHROMIUM = "/usr/bin/chromium";
const NEEDED = `${CHROMIUM} is missing: the set-up of the tests installs it on Debian; on other systems install Chromium and link it there`;

let browser: Browser;
let dir: string;
jest.setTimeout(60_000);

beforeAll(async () => {
  if (!fs.existsSync(CHROMIUM)) throw new Error(NEEDED);
  dir = fs.mkdtempSync(path.join(os.tmpdir(), "nixvm page "));
  // Root has no sandbox of Chromium's.
  const args = process.getuid?.() === 0 ? ["--no-sandbox"] : [];
  browser = await chromium.launch({ executablePath: CHROMIUM, args });
});

afterAll(async () => {
  await browser?.close();
  if (dir) fs.rmSync(dir, { recursive: true });
});

/** Opens the page as a file, as a user does; whatever it asks for and complains of is noted. */
async function open(graph: Graph, options: { colorScheme?: "light" | "dark"; width?: number } = {}) {
  const { colorScheme = "light", width = 1280 } = options;
  const file = path.join(dir, "the page.html");
  fs.writeFileSync(file, graphPage(graph));
  const page = await browser.newPage({ colorScheme, viewport: { width, height: 800 } });
  const [asked, complaints]: [string[], string[]] = [[], []];
  page.on("request", (request) => asked.push(request.url()));
  page.on("console", (message) => complaints.push(message.text()));
  page.on("pageerror", (error) => complaints.push(error.message));
  await page.goto(pathToFileURL(file).href);
  return { page, asked, complaints, url: pathToFileURL(file).href };
}

const textOf = (page: Page, selector: string) => page.locator(selector).allInnerTexts();

/** Contrast of two colours as WCAG has it. */
function contrast(one: string, other: string): number {
  const light = (colour: string): number => {
    const [r = 0, g = 0, b = 0] = (colour.match(/[\d.]+/g) ?? []).map((part) => {
      const value = Number(part) / 255;
      return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const [low = 0, high = 0] = [light(one), light(other)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}

test("the page of a fleet asks for nothing but itself, and its policy has nothing to complain of", async () => {
  const { page, asked, complaints, url } = await open(graphOf(sampleFacts()));
  expect(asked).toEqual([url]);
  expect(complaints).toEqual([]);
  // The style sheet is let in by its hash: without it a card had no border.
  expect(await page.evaluate("getComputedStyle(document.querySelector('.vm')).borderTopStyle")).toBe("solid");
  expect(await textOf(page, "h2")).toEqual([
    ...["Needs a look (5)", "Pending rollout", "Host attic 1 VM", "Host rack-1 5 VMs", "Host rack-2 6 VMs"],
  ]);
  expect(await textOf(page, "#vm-4 dt")).toEqual(["overlay", "persistent", "seed", "domain"]);
  expect(await textOf(page, ".slab strong")).toEqual(
    ["25.11.2", "25.11.2", "25.11.2", "25.11.1"].map((v) => `Base image ${v}`),
  );
  await page.close();
});

test("hostile names are text on the page, and nothing runs", async () => {
  const name = `"><img src=x onerror=window.hit=1><svg onload=window.hit=1></svg><script>window.hit=1</script>`;
  const vm = { ...stateVm("web"), name, domain: name, host: name, overlayPath: name };
  const wave = { kind: "canary" as const, group: name, vms: [name], lanes: 1 };
  const facts = [{ ...factsOf(vm), group: name }];
  const { page, asked, complaints, url } = await open(graphOf(facts, { stack: name, pending: { waves: [wave] } }));
  expect(await page.evaluate("window.hit")).toBeUndefined();
  expect(await textOf(page, ".name")).toEqual([name]);
  expect(await page.title()).toBe(`nixvm: ${name}`);
  expect(await page.locator("img, script").count()).toBe(0);
  expect([asked, complaints]).toEqual([[url], []]);
  await page.close();
});

test("the policy holds against markup that would get in", async () => {
  const { page } = await open(graphOf(sampleFacts()));
  const content = (await page.content()).replace(
    "</main>",
    "<script>window.hit=1</script><img src=x onerror=window.hit=1></main>",
  );
  fs.writeFileSync(path.join(dir, "broken.html"), content);
  await page.goto(pathToFileURL(path.join(dir, "broken.html")).href);
  expect(await page.locator("img, script").count()).toBe(2);
  expect(await page.evaluate("window.hit")).toBeUndefined();
  await page.close();
});

test("every VM is reached and opened by the keyboard, and it is seen where one is", async () => {
  const many = Array.from({ length: 30 }, (_, n) => factsOf(stateVm(`web-${n + 1}`)));
  const { page } = await open(graphOf(many, { pending: { waves: [] } }));
  const focused = () => page.evaluate("document.activeElement.closest('details')?.id");
  while ((await focused()) === undefined) await page.keyboard.press("Tab");
  expect(await focused()).toBe("vm-0");
  expect(await page.evaluate("getComputedStyle(document.activeElement).outlineStyle")).toBe("solid");
  expect(await page.locator("#vm-0 .layers").isVisible()).toBe(false);
  await page.keyboard.press("Enter");
  expect(await page.locator("#vm-0 .layers").isVisible()).toBe(true);
  await page.keyboard.press("Tab");
  expect(await focused()).toBe("vm-1");
  await page.close();
});

test.each([
  [1, true],
  [12, true],
  [200, false],
])("%d VM(s) are legible, on a wide and on a narrow screen", async (count, unfolded) => {
  const facts = Array.from({ length: count }, (_, n) => ({ ...factsOf(stateVm(`web-${n + 1}`)), group: "web" }));
  const { page } = await open(graphOf(facts, { pending: { waves: [] } }));
  expect(await page.locator(".vm").count()).toBe(count);
  expect(await page.locator(".vm[open]").count()).toBe(unfolded ? count : 0);
  for (const width of [1280, 360]) {
    await page.setViewportSize({ width, height: 800 });
    expect(await page.evaluate("document.documentElement.scrollWidth")).toBeLessThanOrEqual(width);
    const cut = `[...document.querySelectorAll(".name, .pill, dd")]
      .filter((one) => one.clientWidth > 0 && one.scrollWidth > one.clientWidth + 1).length`;
    expect(await page.evaluate(cut)).toBe(0);
  }
  await page.close();
});

test.each(["light", "dark"] as const)("texts stand out from what is behind them, %s", async (colorScheme) => {
  const { page } = await open(graphOf(sampleFacts()), { colorScheme });
  const pairs = await page.evaluate<
    [string, string, string][]
  >(`["h1", ".soft", ".pill", ".slab strong", ".layer dt", ".layer dd span", ".why li", ".chips a", "footer"].flatMap((selector) =>
    [...document.querySelectorAll(selector)].map((element) => {
      let behind = element;
      while (behind && getComputedStyle(behind).backgroundColor === "rgba(0, 0, 0, 0)") behind = behind.parentElement;
      return [selector, getComputedStyle(element).color, getComputedStyle(behind).backgroundColor];
    }))`);
  expect(pairs.length).toBeGreaterThan(50);
  const poor = pairs.filter(([, colour, behind]) => contrast(colour, behind) < 4.5);
  expect(poor).toEqual([]);
  const behind = await page.evaluate("getComputedStyle(document.body).backgroundColor");
  expect(behind).toBe(colorScheme === "dark" ? "rgb(16, 20, 27)" : "rgb(246, 247, 249)");
  await page.close();
});

test("links of waves and of what needs a look lead to the VM", async () => {
  const { page } = await open(graphOf(sampleFacts()));
  await page.locator(".chips a", { hasText: "worker-2" }).click();
  expect(await page.locator(":target .name").innerText()).toBe("worker-2");
  const links = await page.evaluate<boolean[]>(
    "[...document.links].map((a) => document.querySelector(a.hash) !== null)",
  );
  expect(links.length).toBeGreaterThan(8);
  expect(links.every(Boolean)).toBe(true);
  await page.close();
});
