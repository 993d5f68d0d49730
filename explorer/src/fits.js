// Redrock's fits of a target: the table of them, and chi2 against redshift where the Parquet has it.
import { ticks } from "./plot.js";
import words from "./words.json";

export function zwarnNames(bits) {
  const number = Number(bits);
  if (!number) return "0";
  return words.zwarn.filter((_, bit) => Math.floor(number / 2 ** bit) % 2).join(", ") || String(number);
}

const element = (name, text) => Object.assign(document.createElement(name), { textContent: text ?? "" });

// Show them in `root`; `choose` is told the redshift of the fit that was clicked.
export function showFits(root, spectrum, choose) {
  root.replaceChildren();
  const details = spectrum.rrdetails;
  const fits = details?.z?.map((_, i) => Object.fromEntries(Object.entries(details).map(([name, list]) => [name, list?.[i]])));
  const rows = fits?.length ? fits : [spectrum];
  const table = document.createElement("table");
  const head = table.createTHead().insertRow();
  for (const name of ["Fit", "z", "Class", "χ²", "Δχ² to next", "ZWARN"]) {
    head.append(Object.assign(element("th", name), { scope: "col" }));
  }
  const body = table.createTBody();
  rows.forEach((fit, i) => {
    const row = body.insertRow();
    const button = Object.assign(element("button", String(i + 1)), { type: "button" });
    button.setAttribute("aria-label", `Redshift ${fit.z.toFixed(4)} of fit ${i + 1}`);
    row.insertCell().append(button);
    const error = fit.zerr > 0 ? ` ± ${fit.zerr.toPrecision(2)}` : "";
    const kind = [fit.spectype, fit.subtype].filter(Boolean).join(" ");
    const number = (value, digits) => (Number.isFinite(value) ? value.toFixed(digits) : "–");
    for (const text of [fit.z.toFixed(5) + error, kind, number(fit.chi2, 1), number(fit.deltachi2, 1), zwarnNames(fit.zwarn ?? 0)]) {
      row.insertCell().textContent = text;
    }
    row.addEventListener("click", () => choose(fit.z));
  });
  root.append(table);
  if (!fits?.length) root.append(element("p", "The best fit alone: columns.rrdetails: true brings the others."));
  if (!spectrum.rrdetails_scans?.template?.length) return null;
  const canvas = document.createElement("canvas");
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `Chi-squared against redshift by template: ${spectrum.rrdetails_scans.template.join(", ")}`);
  root.prepend(canvas);
  return (z) => drawScans(canvas, spectrum.rrdetails_scans, z);
}

const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9", "#999999"];

function drawScans(canvas, { template, redshift, chi2 }, z) {
  const ratio = devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  if (!width) return;
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  const style = getComputedStyle(canvas);
  const all = chi2.flatMap((values) => Array.from(values)).filter(Number.isFinite);
  const far = redshift.flatMap((values) => Array.from(values));
  // an offset of log(1+z) shows stars, galaxies and quasars in one
  const [least, most] = [Math.min(...far), Math.max(...far)].map((value) => Math.log1p(value));
  const sorted = all.sort((a, b) => a - b);
  const [low, high] = [sorted[0], sorted[Math.floor(0.98 * (sorted.length - 1))]];
  const x = (value) => 8 + ((Math.log1p(value) - least) / (most - least)) * (width - 16);
  const y = (value) => height - 22 - ((value - low) / (high - low || 1)) * (height - 44);
  pen.font = `11px ${style.fontFamily}`;
  pen.textAlign = "center";
  pen.fillStyle = style.getPropertyValue("--soft");
  for (const value of ticks(0, Math.max(...far), 6)) pen.fillText(String(value), x(value), height - 6);
  pen.strokeStyle = style.getPropertyValue("--emission");
  pen.beginPath();
  pen.moveTo(x(z), 16);
  pen.lineTo(x(z), height - 20);
  pen.stroke();
  pen.textAlign = "left";
  let left = 8;
  template.forEach((name, i) => {
    pen.strokeStyle = pen.fillStyle = COLOURS[i % COLOURS.length];
    pen.beginPath();
    chi2[i].forEach((value, k) => pen.lineTo(x(redshift[i][k]), y(Math.min(value, high))));
    pen.stroke();
    pen.fillText(name, left, 11);
    left += pen.measureText(name).width + 10;
  });
}
