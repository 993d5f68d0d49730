// The page: what is chosen stands in the address, everything else follows from it.
import { Catalog, magnitude } from "./catalog.js";
import { showFits } from "./fits.js";
import { Plot } from "./plot.js";
import { onTraffic, readRows, readText, traffic } from "./ranges.js";
import { Sky } from "./sky.js";
import { findRow, readSpectrum } from "./spectra.js";
import * as verdicts from "./verdicts.js";
import words from "./words.json";

const BASE = ".."; // the page lies in a folder of the results
const SMOOTH = 2; // sigma in pixels, unless the address says another
const ROWS = 100; // of a page of the table
const FINE = 0.001; // of 1 + z: by how much a key moves the redshift
const FILTERS = ["zMin", "zMax", "rMin", "rMax", "spectype", "tile", "targetid", "good", "primary"];
const $ = (id) => document.getElementById(id);
const whole = (number) => number.toLocaleString("en");
const pause = () => new Promise((resolve) => { setTimeout(resolve); });

const state = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
const catalog = new Catalog(BASE);
let tiles = [];
let found = new Uint32Array(0); // rows that pass the filter, sorted
let page = 0;
let linked = false; // the address names a target, which is being opened
let chosen = -1; // row of the catalogue; -1 where the target is not among those read
let spectrum = null;
let drawScans = null;

const plot = new Plot($("plot"), (view) => remember({ from: view?.[0].toFixed(1), to: view?.[1].toFixed(1) }), (z) => setRedshift(z));
const sky = new Sky($("sky"), (cell) => {
  const one = cell?.tiles.find(({ outcome }) => outcome === "converted") ?? cell?.tiles[0];
  choosePixel(cell && one ? `${cell.order}/${cell.pixel}` : "");
});

// ---- the address ----

let waiting = 0;
function remember(changes) {
  for (const [name, value] of Object.entries(changes)) {
    if (value === undefined || value === null || value === "" || value === false) delete state[name];
    else state[name] = String(value);
  }
  clearTimeout(waiting); // browsers refuse more than some changes a second
  waiting = setTimeout(() => history.replaceState(null, "", `#${new URLSearchParams(state)}`), 150);
}

addEventListener("hashchange", () => location.reload()); // a link that was typed or pasted

// ---- errors ----

function fail(error) {
  console.error(error);
  $("error").textContent = location.protocol === "file:"
    ? "A browser does not let a page read the files beside it. Serve the folder: desi-fits-to-parquet serve RESULTS"
    : error.message;
  $("error").hidden = false;
}
const guarded = (call) => async (...values) => {
  try {
    return await call(...values);
  } catch (error) {
    return fail(error);
  }
};

// ---- the filter and the table ----

// Which tiles a text means: a HEALPix pixel by order and number (6/10016), or a part of the tile's name.
function meaning(text) {
  if (!text) return null;
  if (/^\d+\/\d+$/.test(text)) return ({ order, pixel }) => `${order}/${pixel}` === text;
  const exact = tiles.some(({ name }) => name === text);
  return ({ name }) => (exact ? name === text : name.includes(text));
}

function showPixel() {
  const isWanted = meaning(state.tile);
  const meant = isWanted ? tiles.filter(isWanted) : [];
  $("filters").elements.tile.setCustomValidity(isWanted && !meant.length ? "No pixel of this collection has that in its name" : "");
  const same = meant.every(({ order, pixel }) => order === meant[0].order && pixel === meant[0].pixel);
  sky.pick(meant.length && same ? meant[0] : null);
}

function readFilter() {
  const isWanted = meaning(state.tile);
  const number = (text) => (text === undefined || text === "" || !Number.isFinite(Number(text)) ? null : Number(text));
  return {
    zMin: number(state.zMin), zMax: number(state.zMax), rMin: number(state.rMin), rMax: number(state.rMax),
    spectype: state.spectype, good: state.good === "true", primary: state.primary === "true",
    isWanted, cells: isWanted && tiles.filter(isWanted),
    targetid: state.targetid ? BigInt(/^-?\d{1,19}$/.test(state.targetid) ? state.targetid : 0) : null, // no target has 0
  };
}

function applyFilter() {
  const rows = catalog.filter(readFilter());
  found = state.sort ? catalog.sort(rows, state.sort.replace("-", ""), state.sort.startsWith("-")) : rows;
  page = Math.min(page, Math.max(0, Math.ceil(found.length / ROWS) - 1));
  showTable();
}

// Show the page of the table on which the chosen target is.
function turnPage() {
  const place = found.indexOf(chosen);
  if (place >= 0) page = Math.floor(place / ROWS);
  showTable();
}

let scanning = 0;
let everything = false; // asked for once, it stays
const scan = guarded(async () => {
  const turn = ++scanning;
  let shown = 0;
  await catalog.scan(readFilter(), everything, async (matches) => {
    if (turn !== scanning) return false; // another filter was set meanwhile
    if (performance.now() - shown > 1000 && !state.sort) {
      applyFilter();
      shown = performance.now();
      chooseFirst();
    }
    showFound(matches, true);
    await pause();
    return turn === scanning;
  });
  if (turn === scanning) {
    applyFilter();
    showFound(found.length);
    chooseFirst();
  }
});

function chooseFirst() {
  if (chosen < 0 && !spectrum && !linked && found.length) choose(found[0]);
}

function showFound(n, reading = false) {
  const all = catalog.size >= catalog.total;
  const of = all ? `of ${whole(catalog.total)}` : `of the ${whole(catalog.size)} read so far (${whole(catalog.total)} in all)`;
  $("found").textContent = `${whole(n)} ${of}${reading ? ", reading …" : n ? "" : whyNone()}`;
  $("read-all").hidden = reading || all;
  $("read-all").textContent = "Read all";
}

// What became of the pixels that were asked for and give no target.
function whyNone() {
  const isWanted = meaning(state.tile);
  const meant = isWanted ? tiles.filter(isWanted) : [];
  if (!meant.length || meant.length > 3 || meant.some(({ outcome }) => outcome === "converted")) return "";
  return `. ${meant.map(({ name, outcome, reason }) => `${name}: ${outcome.replace("_", " ")}${reason ? `, ${reason}` : ""}`).join("; ")}`;
}

function showTable() {
  const body = document.querySelector("#list tbody");
  const rows = [];
  for (const i of found.subarray(page * ROWS, (page + 1) * ROWS)) {
    const row = document.createElement("tr");
    row.dataset.row = i;
    if (i === chosen) row.setAttribute("aria-current", "true");
    const { VI_QUALITY: quality } = verdictOf(i);
    if (quality) row.dataset.quality = quality;
    const r = catalog.r[i];
    const cells = [
      null, catalog.z[i].toFixed(4), r === r ? r.toFixed(2) : "–", catalog.classes.list[catalog.spectype[i]],
      catalog.zwarn[i], catalog.parts[catalog.file[i]].name,
    ];
    cells.forEach((text) => { row.insertCell().textContent = text; });
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = catalog.targetid[i];
    row.cells[0].append(button);
    rows.push(row);
  }
  body.replaceChildren(...rows);
  const pages = Math.max(1, Math.ceil(found.length / ROWS));
  $("page").textContent = `${whole(page + 1)} / ${whole(pages)}`;
  $("page-back").disabled = page === 0;
  $("page-on").disabled = page >= pages - 1;
  for (const button of document.querySelectorAll("[data-sort]")) {
    const [name, falling] = [state.sort?.replace("-", ""), state.sort?.startsWith("-")];
    const order = button.dataset.sort === name ? (falling ? "descending" : "ascending") : null;
    if (order) button.parentElement.setAttribute("aria-sort", order);
    else button.parentElement.removeAttribute("aria-sort");
  }
  body.querySelector("[aria-current]")?.scrollIntoView({ block: "nearest" });
  const place = found.indexOf(chosen);
  $("previous").disabled = place <= 0;
  $("next").disabled = !found.length || place === found.length - 1;
  const { options } = $("filters").elements.spectype;
  for (const name of catalog.classes.list) {
    if (name && ![...options].some(({ value }) => value === name)) options.add(new Option(name, name));
  }
  $("filters").elements.spectype.value = state.spectype ?? "";
}

function choosePixel(text) {
  remember({ tile: text });
  $("filters").elements.tile.value = text;
  showPixel();
  page = 0;
  applyFilter();
  scan();
}

// ---- the target ----

const choose = guarded(async (row, view = {}) => {
  chosen = row;
  await show(catalog.files.list[catalog.file[row]], catalog.row[row], view);
});

let showing = 0;
async function show(file, row, view = {}) {
  const turn = ++showing;
  turnPage();
  $("plot").setAttribute("aria-busy", "true");
  const read = await readSpectrum(BASE, file, row);
  if (turn !== showing) return; // another target was chosen meanwhile
  spectrum = read;
  const name = file.split("/").pop().replace(".parquet", "");
  remember({ target: spectrum.targetid, in: name, z: view.z, from: view.from, to: view.to });
  plot.view = view.from && view.to ? [Number(view.from), Number(view.to)] : null;
  $("name").textContent = spectrum.targetid;
  document.title = `${spectrum.targetid}, DESI spectra`;
  const kind = [spectrum.spectype, spectrum.subtype].filter(Boolean).join(" ");
  $("summary").textContent = `${kind}, z = ${spectrum.z.toFixed(4)}, ${name}`;
  drawScans = showFits($("fits"), spectrum, (z) => setRedshift(z));
  showFacts();
  showVerdict();
  const slider = $("z-slider");
  slider.min = -0.01;
  slider.max = Math.max(spectrum.z > 1.5 ? 6 : spectrum.z > 0.02 ? 2 : 0.02, spectrum.z);
  plot.show(spectrum);
  setRedshift(view.z ? Number(view.z) : spectrum.z, false);
  $("plot").removeAttribute("aria-busy");
}

function setRedshift(z, keep = true) {
  if (!spectrum || !(z > -1)) return;
  const slider = $("z-slider");
  if (z > slider.max) slider.max = z;
  slider.value = z;
  if (document.activeElement !== $("z-number")) $("z-number").value = z.toFixed(5);
  plot.set({ z });
  drawScans?.(z);
  describePlot();
  if (keep) remember({ z: Math.abs(z - spectrum.z) < 5e-7 ? "" : z.toFixed(6) });
}

function describePlot() {
  const masked = spectrum.arms.reduce((sum, { ivar }) => sum + ivar.filter((value) => !(value > 0)).length, 0);
  const [first, last] = plot.range;
  plot.canvas.setAttribute("aria-label", `Spectrum of target ${spectrum.targetid}: flux with its uncertainty from ${first.toFixed(0)} to ${last.toFixed(0)} Angstrom, ${masked} masked pixels, lines at redshift ${plot.options.z.toFixed(4)}`);
}

// ---- the verdict ----

function verdictOf(i) {
  const [survey, program, healpix] = catalog.parts[catalog.file[i]].name.match(/^(\w+)-(\w+)-(\d+)$/)?.slice(1) ?? [];
  return verdicts.verdict({ targetid: catalog.targetid[i], survey, program, healpix }) ?? {};
}

function showVerdict() {
  const said = verdicts.verdict(spectrum);
  const { quality, spectype, comment } = $("verdict").elements;
  quality.value = said?.VI_QUALITY ?? "";
  spectype.value = said?.VI_SPECTYPE ?? "";
  comment.value = said?.VI_COMMENT ?? "";
  showVerdicts();
}

function showVerdicts() {
  const n = verdicts.count();
  $("verdicts-save").textContent = n ? `Save CSV (${whole(n)})` : "Save CSV";
  $("verdicts-save").disabled = !n;
}

function judge() {
  if (!spectrum) return;
  const { quality, spectype, comment } = $("verdict").elements;
  verdicts.judge(spectrum, {
    quality: quality.value, spectype: spectype.value, comment: comment.value.trim(), z: plot.options.z.toFixed(6),
  });
  showVerdicts();
  showTable();
}

function setQuality(value) {
  $("verdict").elements.quality.value = value;
  judge();
}

function saveVerdicts() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([verdicts.asCsv()], { type: "text/csv" }));
  link.download = "verdicts.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function showFacts() {
  const s = spectrum;
  const number = (value, digits, unit = "") => (Number.isFinite(value) ? `${value.toFixed(digits)}${unit}` : "");
  const masked = s.arms.reduce((sum, { ivar }) => sum + ivar.filter((value) => !(value > 0)).length, 0);
  const pixels = s.arms.reduce((sum, { ivar }) => sum + ivar.length, 0);
  const facts = [
    ["RA, Dec", [number(s.target_ra, 5), number(s.target_dec, 5)].filter(Boolean).join(", ")],
    ["g, r, z mag", ["flux_g", "flux_r", "flux_z"].map((name) => number(magnitude(s[name]), 2)).filter(Boolean).join(", ")],
    ["E(B−V)", number(s.ebv, 3)],
    ["Image model", s.morphtype],
    ["Exposures", s.coadd_numexp === undefined ? "" : `${s.coadd_numexp}, ${number(s.coadd_exptime, 0, " s")}`],
    ["QuasarNET z", number(s.z_qn, 4)],
    ["Redrock's first z", number(s.z_rr, 4)],
    ["Masked pixels", `${whole(masked)} of ${whole(pixels)}`],
    ["File, row", `${s.file}, ${s.row}`],
  ];
  $("facts").replaceChildren(...facts.filter(([, text]) => text).flatMap(([name, text]) => {
    const value = document.createElement("dd");
    value.textContent = text;
    if (name === "RA, Dec") value.append(" ", imageLink(s));
    return [Object.assign(document.createElement("dt"), { textContent: name }), value];
  }));
}

function imageLink({ target_ra: ra, target_dec: dec }) {
  const link = document.createElement("a");
  link.href = `https://www.legacysurvey.org/viewer?ra=${ra}&dec=${dec}&layer=ls-dr9&zoom=16&mark=${ra},${dec}`;
  link.target = "_blank";
  link.rel = "noreferrer";
  link.textContent = "image";
  link.title = "The Legacy Surveys' picture of the place, in a new window";
  return link;
}

function nudge(by) {
  if (spectrum) setRedshift(plot.options.z + by * (1 + plot.options.z));
}

function step(by) {
  const place = found.indexOf(chosen);
  const next = place < 0 ? 0 : place + by;
  if (next >= 0 && next < found.length) choose(found[next]);
}

// A link's target, without the catalogue: the tile's name tells its file.
async function openLink() {
  const tile = tiles.find(({ name }) => name === state.in);
  if (!tile) throw new Error(`${state.in}: no pixel of this collection; the link is of another one`);
  const folder = `Norder=${tile.order}/Dir=${tile.pixel - (tile.pixel % 10000)}/Npix=${tile.pixel}`;
  const file = `parquet/${tile.survey}-${tile.program}/dataset/${folder}/${tile.name}.parquet`;
  const targetid = BigInt(state.target);
  const row = await findRow(BASE, file, targetid);
  if (row < 0) throw new Error(`${state.in} has no target ${state.target}: the link is of another collection`);
  await show(file, row, { z: state.z, from: state.from, to: state.to });
  // it stands in the table when its part of the catalogue is read
  const home = catalog.partitions.find((one) => !one.read && Catalog.overlaps(one, tile));
  if (home) await catalog.read(home);
  for (let i = 0; i < catalog.size; i++) {
    if (catalog.targetid[i] === targetid && catalog.row[i] === row && catalog.files.list[catalog.file[i]] === file) chosen = i;
  }
  applyFilter();
}

// ---- controls ----

function showLegend() {
  const entries = sky.mode === "count"
    ? [["ramp", "", `1 to ${whole(sky.most)} spectra a pixel`], ["", "var(--none)", "none"]]
    : Object.entries(words.outcomes).filter(([name]) => tiles.some(({ outcome }) => outcome === name))
      .map(([name, colour]) => ["", colour, `${name.replace("_", " ")} (${whole(tiles.filter(({ outcome }) => outcome === name).length)})`]);
  $("legend").replaceChildren(...entries.map(([kind, colour, text]) => {
    const entry = document.createElement("span");
    const spot = document.createElement("i");
    spot.className = kind;
    if (colour) spot.style.background = colour;
    entry.append(spot, text);
    return entry;
  }));
  sky.canvas.setAttribute("aria-label", `Map of the sky: ${whole(tiles.length)} HEALPix pixels of surveys and programs, by ${sky.mode === "count" ? "number of spectra" : "outcome"}. The field Pixel chooses one by its name.`);
}

const TOGGLES = { emission: "noEmission", absorption: "absorption", rest: "rest" };

function restoreControls() {
  const form = $("filters").elements;
  for (const name of FILTERS) {
    if (form[name].type === "checkbox") form[name].checked = state[name] === "true";
    else form[name].value = state[name] ?? "";
  }
  $("emission").checked = !state.noEmission;
  $("absorption").checked = Boolean(state.absorption);
  $("rest").checked = Boolean(state.rest);
  $("smooth").value = state.smooth ?? SMOOTH;
  showSmooth(Number($("smooth").value));
  $("map-mode").value = sky.mode = state.map ?? "count";
  plot.set({
    smooth: Number($("smooth").value), emission: $("emission").checked, absorption: $("absorption").checked, rest: $("rest").checked,
  });
}

function showSmooth(width) {
  $("smooth-value").textContent = `${width} px`;
  for (const part of document.querySelectorAll(".key .smoothed")) part.hidden = !width;
}

function listen() {
  const form = $("filters");
  let typing = 0;
  const changed = () => {
    for (const name of FILTERS) {
      const field = form.elements[name];
      remember({ [name]: field.type === "checkbox" ? field.checked : field.value.trim() });
    }
    showPixel();
    page = 0;
    applyFilter();
    scan();
  };
  form.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(changed, 200);
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(changed));
  $("read-all").addEventListener("click", () => {
    everything = true;
    scan();
  });
  $("page-back").addEventListener("click", () => { page -= 1; showTable(); });
  $("page-on").addEventListener("click", () => { page += 1; showTable(); });
  document.querySelector("#list tbody").addEventListener("click", (event) => {
    const row = event.target.closest("tr");
    if (!row) return;
    choose(Number(row.dataset.row));
    if (matchMedia("(max-width: 1000px)").matches) $("target").scrollIntoView(); // it stands below
  });
  for (const button of document.querySelectorAll("[data-sort]")) {
    button.addEventListener("click", () => {
      const name = button.dataset.sort;
      remember({ sort: state.sort === name ? `-${name}` : state.sort === `-${name}` ? "" : name });
      page = 0;
      applyFilter();
    });
  }
  $("previous").addEventListener("click", () => step(-1));
  $("next").addEventListener("click", () => step(1));
  $("z-slider").addEventListener("input", () => setRedshift(Number($("z-slider").value)));
  $("z-number").addEventListener("input", () => setRedshift(Number($("z-number").value)));
  $("z-reset").addEventListener("click", () => spectrum && setRedshift(spectrum.z));
  $("z-slider").addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 }[event.key];
    if (!by) return;
    event.preventDefault();
    nudge(by * (event.shiftKey ? FINE / 10 : FINE));
  });
  $("verdict").addEventListener("input", judge);
  $("verdict").addEventListener("submit", (event) => event.preventDefault());
  $("verdicts-save").addEventListener("click", saveVerdicts);
  $("smooth").addEventListener("input", () => {
    const width = Number($("smooth").value);
    showSmooth(width);
    plot.set({ smooth: width });
    remember({ smooth: width === SMOOTH ? "" : width });
  });
  for (const [id, key] of Object.entries(TOGGLES)) {
    $(id).addEventListener("change", () => {
      const on = $(id).checked;
      plot.set({ [id]: on });
      remember({ [key]: id === "emission" ? !on : on });
    });
  }
  $("zoom-in").addEventListener("click", () => plot.zoomBy(0.6));
  $("zoom-out").addEventListener("click", () => plot.zoomBy(1 / 0.6));
  $("zoom-all").addEventListener("click", () => plot.zoom());
  $("map-mode").addEventListener("change", () => {
    sky.setMode($("map-mode").value);
    remember({ map: sky.mode === "count" ? "" : sky.mode });
    showLegend();
  });
  $("sky-fit").addEventListener("click", () => sky.fit());
  $("sky-whole").addEventListener("click", () => sky.whole());
  $("help-button").addEventListener("click", () => {
    $("help").hidden = !$("help").hidden;
    $("help-button").setAttribute("aria-expanded", String(!$("help").hidden));
  });
  $("theme").addEventListener("click", () => {
    const dark = getComputedStyle(document.documentElement).colorScheme === "dark";
    setTheme(dark ? "light" : "dark");
    localStorage.setItem("theme", dark ? "light" : "dark");
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  addEventListener("keydown", press);
  onTraffic(showTraffic);
}

function press(event) {
  const typed = event.target.matches("input:not([type=checkbox], [type=range]), select");
  if (typed || event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  const onSlider = event.target.matches("input[type=range]");
  const actions = {
    n: () => step(1), j: () => step(1), p: () => step(-1), k: () => step(-1),
    "+": () => plot.zoomBy(0.6), "=": () => plot.zoomBy(0.6), "-": () => plot.zoomBy(1 / 0.6), w: () => plot.zoom(),
    "[": () => nudge(-FINE), "]": () => nudge(FINE), "{": () => nudge(-FINE / 10), "}": () => nudge(FINE / 10),
    ...Object.fromEntries(["0", "1", "2", "3", "4"].map((quality) => [quality, () => setQuality(quality)])),
    r: () => $("rest").click(), e: () => $("emission").click(), a: () => $("absorption").click(),
    z: () => $("z-reset").click(), "?": () => $("help-button").click(),
    ...(onSlider ? {} : { ArrowLeft: () => plot.panBy(-0.2), ArrowRight: () => plot.panBy(0.2) }),
  };
  if (!actions[event.key]) return;
  event.preventDefault();
  actions[event.key]();
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  redraw();
}

function redraw() {
  sky.draw();
  plot.draw();
  drawScans?.(plot.options.z);
}

function showTraffic({ bytes, requests }) {
  $("traffic").textContent = `${(bytes / 1e6).toFixed(2)} MB read in ${whole(requests)} requests`;
}

const start = guarded(async () => {
  const theme = localStorage.getItem("theme");
  if (theme) setTheme(theme);
  restoreControls();
  listen();
  const [properties, listed] = await Promise.all([
    readText(`${BASE}/collection.properties`),
    readRows(`${BASE}/report/tiles.parquet`, ["survey", "program", "healpix", "order", "pixel", "outcome", "n_rows", "reason"]),
    catalog.open(),
  ]);
  tiles = listed.map((tile) => ({ ...tile, name: `${tile.survey}-${tile.program}-${tile.healpix}` }));
  const title = properties.match(/^obs_title=(.+)$/m)?.[1] ?? "DESI spectra";
  $("title").textContent = title;
  $("count").textContent = `${whole(catalog.total)} spectra in ${whole(tiles.length)} pixels`;
  sky.setTiles(tiles);
  showPixel();
  showLegend();
  $("tiles").replaceChildren(...tiles.slice(0, 2000).map(({ name }) => new Option("", name)));
  linked = Boolean(state.target && state.in);
  const link = linked;
  if (link) await guarded(openLink)();
  linked = false;
  await scan();
  if (link) turnPage();
});

window.explorer = { traffic }; // what a test reads
start();
