// The plot of a spectrum on a canvas; the names of lines stand above it as text.
import { ABSORPTION, EMISSION } from "./lines.js";
import { smooth } from "./spectra.js";
import words from "./words.json";

const LEFT = 62;
const RIGHT = 14;
const TOP = 84; // the rest-frame axis, and three rows of names
const BOTTOM = 40;

export function ticks(low, high, count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  const found = [];
  for (let k = Math.ceil(low / step); k * step <= high; k++) found.push(Number((k * step).toPrecision(12)));
  return found;
}

const quantile = (sorted, share) => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))];

export function maskNames(bits) {
  const names = words.mask.filter((_, bit) => bits & (1 << bit));
  if (bits & (1 << 30)) names.push("not a number");
  return names.join(", ");
}

export class Plot {
  constructor(root, onView, onRedshift) {
    this.canvas = root.querySelector("canvas");
    this.labels = root.querySelector(".labels");
    this.readout = root.querySelector(".readout");
    this.onView = onView;
    this.onRedshift = onRedshift;
    this.options = { z: 0, smooth: 0, emission: true, absorption: false, rest: false };
    this.view = null; // [first, last] observed wavelength; null: all
    this.listen();
    new ResizeObserver(() => this.draw()).observe(root);
  }

  get extent() {
    const ends = this.spectrum.arms.flatMap(({ wavelength }) => [wavelength[0], wavelength[wavelength.length - 1]]);
    return [Math.min(...ends), Math.max(...ends)];
  }

  get range() {
    return this.view ?? this.extent;
  }

  show(spectrum) {
    this.spectrum = spectrum;
    this.smoothed = this.calm = null;
    this.draw();
  }

  set(options) {
    if (options.smooth !== undefined && options.smooth !== this.options.smooth) this.smoothed = null;
    Object.assign(this.options, options);
    this.draw();
  }

  // Show from one wavelength to another; the whole where both are missing or all is in view.
  zoom(first, last) {
    if (!this.spectrum) return;
    const [low, high] = this.extent;
    if (first === undefined) this.view = null;
    else {
      const width = Math.min(high - low, Math.max(20, last - first));
      const begin = Math.max(low, Math.min(high - width, first));
      this.view = width >= high - low ? null : [begin, begin + width];
    }
    this.onView(this.view);
    this.draw();
  }

  zoomBy(factor, at = 0.5) {
    if (!this.spectrum) return;
    const [first, last] = this.range;
    const fixed = first + at * (last - first);
    this.zoom(fixed - at * (last - first) * factor, fixed + (1 - at) * (last - first) * factor);
  }

  panBy(share) {
    if (!this.spectrum || !this.view) return;
    const [first, last] = this.view;
    this.zoom(first + share * (last - first), last + share * (last - first));
  }

  listen() {
    const { canvas } = this;
    const share = (event) => {
      const box = canvas.getBoundingClientRect();
      return Math.max(0, Math.min(1, (event.clientX - box.left - LEFT) / (box.width - LEFT - RIGHT)));
    };
    const wave = (event) => this.range[0] + share(event) * (this.range[1] - this.range[0]);
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      if (Math.abs(event.deltaX) > Math.abs(event.deltaY)) this.panBy(event.deltaX / 800);
      else this.zoomBy(Math.exp(event.deltaY / 500), share(event));
    }, { passive: false });
    let held = null;
    canvas.addEventListener("pointerdown", (event) => {
      if (!this.spectrum) return;
      held = { at: event.clientX, range: this.range, from: wave(event), z: this.options.z, moves: event.shiftKey };
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (held?.moves) this.onRedshift(((1 + held.z) * wave(event)) / held.from - 1);
      else if (held) {
        const [first, last] = held.range;
        const move = ((event.clientX - held.at) / (canvas.clientWidth - LEFT - RIGHT)) * (last - first);
        if (this.view) this.zoom(first - move, last - move);
      }
      this.tell(share(event));
    });
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => { held = null; });
    canvas.addEventListener("pointerleave", () => { this.readout.textContent = ""; });
    canvas.addEventListener("dblclick", () => this.zoom());
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -0.2, ArrowRight: 0.2 }[event.key];
      if (!step) return;
      event.preventDefault();
      this.panBy(step);
    });
  }

  tell(share) {
    if (!this.spectrum) return;
    const [first, last] = this.range;
    const at = first + share * (last - first);
    for (const { wavelength, flux, ivar, mask, name } of this.spectrum.arms) {
      const step = wavelength[1] - wavelength[0];
      const i = Math.round((at - wavelength[0]) / step);
      if (!(i >= 0 && i < wavelength.length)) continue;
      const rest = wavelength[i] / (1 + this.options.z);
      const value = ivar[i] > 0
        ? `${flux[i].toFixed(2)} ± ${(1 / Math.sqrt(ivar[i])).toFixed(2)}`
        : `masked${mask[i] ? ` (${maskNames(mask[i])})` : ""}`;
      this.readout.textContent = `${wavelength[i].toFixed(1)} Å, rest ${rest.toFixed(1)} Å: ${value}${name ? `, arm ${name.toUpperCase()}` : ""}`;
      return;
    }
  }

  draw() {
    const { canvas, spectrum } = this;
    const ratio = devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    if (!width || !height) return;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    pen.clearRect(0, 0, width, height);
    this.labels.replaceChildren();
    if (!spectrum) return;
    const style = getComputedStyle(canvas);
    const colour = (name) => style.getPropertyValue(`--${name}`);
    pen.font = `12px ${style.fontFamily}`;
    this.calm ??= spectrum.arms.map((arm) => smooth(arm, 8));
    this.smoothed ??= spectrum.arms.map((arm) => smooth(arm, this.options.smooth));

    const [first, last] = this.range;
    const inner = { left: LEFT, right: width - RIGHT, top: TOP, bottom: height - BOTTOM };
    const x = (wave) => inner.left + ((wave - first) / (last - first)) * (inner.right - inner.left);
    const [low, high] = this.limits(first, last);
    const y = (flux) => inner.bottom - ((flux - low) / (high - low)) * (inner.bottom - inner.top);

    this.drawAxes(pen, colour, inner, x, y, [first, last], [low, high]);
    pen.save();
    pen.beginPath();
    pen.rect(inner.left, inner.top, inner.right - inner.left, inner.bottom - inner.top);
    pen.clip();
    spectrum.arms.forEach((arm, k) => this.drawArm(pen, colour, inner, x, y, arm, this.smoothed[k], [first, last]));
    pen.restore();
    this.drawLines(pen, colour, inner, x);
  }

  // What is in view: the spectrum without its noise, and room for most of the noise that is shown.
  limits(first, last) {
    const [calm, noise] = [[], []];
    this.spectrum.arms.forEach(({ wavelength }, k) => {
      const { value } = this.calm[k];
      const { sigma } = this.smoothed[k];
      for (let i = 0; i < value.length; i++) {
        if (wavelength[i] < first || wavelength[i] > last || !Number.isFinite(value[i])) continue;
        calm.push(value[i]);
        noise.push(sigma[i]);
      }
    });
    if (!calm.length) return [0, 1];
    const rising = (a, b) => a - b;
    calm.sort(rising);
    const room = 3 * quantile(noise.sort(rising), 0.7) || 1;
    return [Math.min(0, quantile(calm, 0.002)) - room, quantile(calm, 0.999) + room];
  }

  drawAxes(pen, colour, inner, x, y, waves, fluxes) {
    const { z, rest } = this.options;
    const { left, right, top, bottom } = inner;
    pen.lineWidth = 1;
    pen.textBaseline = "middle";
    pen.textAlign = "right";
    for (const value of ticks(...fluxes, 6)) {
      pen.strokeStyle = colour("grid");
      line(pen, left, y(value), right, y(value));
      pen.fillStyle = colour("soft");
      pen.fillText(String(value), left - 8, y(value));
    }
    // the axis below is the chosen one, the other stands above
    const [below, above] = rest ? [1 + z, 1] : [1, 1 + z];
    const axis = (scale, at, side, name) => {
      pen.strokeStyle = colour("soft");
      pen.fillStyle = colour("soft");
      pen.textAlign = "center";
      line(pen, left, at, right, at);
      for (const value of ticks(waves[0] / scale, waves[1] / scale, Math.max(3, (right - left) / 110))) {
        const place = x(value * scale);
        line(pen, place, at, place, at + side * 5);
        pen.fillText(String(value), place, at + side * 14);
      }
      pen.fillStyle = colour("ink");
      pen.fillText(name, (left + right) / 2, at + side * 31);
    };
    const names = ["Observed wavelength (Å, vacuum)", `Rest wavelength at z = ${z.toFixed(4)} (Å, vacuum)`];
    axis(below, bottom, 1, names[rest ? 1 : 0]);
    axis(above, 40, -1, names[rest ? 0 : 1]);
    pen.save();
    pen.translate(14, (top + bottom) / 2);
    pen.rotate(-Math.PI / 2);
    pen.textAlign = "center";
    pen.fillText("Flux (10⁻¹⁷ erg s⁻¹ cm⁻² Å⁻¹)", 0, 0);
    pen.restore();
  }

  drawArm(pen, colour, inner, x, y, arm, smoothed, [first, last]) {
    const { wavelength, flux, ivar } = arm;
    const { value, sigma } = smoothed;
    const n = wavelength.length;
    const step = wavelength[1] - wavelength[0];
    const begin = Math.max(0, Math.floor((first - wavelength[0]) / step) - 1);
    const end = Math.min(n, Math.ceil((last - wavelength[0]) / step) + 2);
    // masked pixels: a band over the whole height and a mark at its foot, one for each run of them
    for (let i = begin; i < end; i++) {
      if (ivar[i] > 0) continue;
      let stop = i;
      while (stop + 1 < end && !(ivar[stop + 1] > 0)) stop += 1;
      const from = x(wavelength[i] - step / 2);
      const size = Math.max(1, x(wavelength[stop] + step / 2) - from);
      pen.fillStyle = colour("masked");
      pen.fillRect(from, inner.top, size, inner.bottom - inner.top);
      pen.fillStyle = colour("mark");
      pen.fillRect(from, inner.bottom - 6, size, 6);
      i = stop;
    }
    const trace = (values) => {
      pen.beginPath();
      let down = false;
      for (let i = begin; i < end; i++) {
        if (!(ivar[i] > 0)) down = false;
        else if (down) pen.lineTo(x(wavelength[i]), y(values[i]));
        else pen.moveTo(x(wavelength[i]), y(values[i]));
        down = ivar[i] > 0;
      }
      pen.stroke();
    };
    pen.lineJoin = "round";
    if (this.options.smooth > 0) {
      pen.lineWidth = 0.6;
      pen.strokeStyle = colour("raw");
      trace(flux);
    }
    pen.lineWidth = 0.8;
    pen.strokeStyle = colour("noise");
    trace(ivar.map((value) => 1 / Math.sqrt(value)));
    // one sigma to either side
    pen.fillStyle = colour("band");
    for (let i = begin; i < end; i++) {
      if (!(sigma[i] > 0)) continue;
      let stop = i;
      while (stop + 1 < end && sigma[stop + 1] > 0) stop += 1;
      pen.beginPath();
      for (let j = i; j <= stop; j++) pen.lineTo(x(wavelength[j]), y(value[j] + sigma[j]));
      for (let j = stop; j >= i; j--) pen.lineTo(x(wavelength[j]), y(value[j] - sigma[j]));
      pen.fill();
      i = stop;
    }
    pen.lineWidth = this.options.smooth > 0 ? 1.3 : 0.9;
    pen.strokeStyle = colour("trace");
    trace(value);
  }

  drawLines(pen, colour, inner, x) {
    const { z, emission, absorption } = this.options;
    const shown = [
      ...(emission ? EMISSION.map(([name, wave]) => ({ name, wave, kind: "emission" })) : []),
      ...(absorption ? ABSORPTION.map(([name, wave]) => ({ name, wave, kind: "absorption" })) : []),
    ].sort((a, b) => a.wave - b.wave);
    const taken = [-Infinity, -Infinity, -Infinity]; // where each row of names ends
    for (const { name, wave, kind } of shown) {
      const place = x(wave * (1 + z));
      if (place < inner.left || place > inner.right) continue;
      pen.strokeStyle = colour(kind);
      pen.lineWidth = 1;
      pen.setLineDash(kind === "emission" ? [] : [4, 3]);
      line(pen, place, inner.top, place, inner.bottom);
      pen.setLineDash([]);
      const half = pen.measureText(name).width / 2;
      const row = taken.findIndex((end) => place - half > end + 3);
      if (row < 0) continue; // no room for its name; it has one when zoomed
      taken[row] = place + half;
      const label = document.createElement("span");
      label.className = kind;
      label.textContent = name;
      label.title = `${name}, ${wave} Å at rest`;
      label.style.left = `${place}px`;
      label.style.top = `${inner.top - 15 - row * 13}px`;
      this.labels.append(label);
    }
  }
}

function line(pen, x1, y1, x2, y2) {
  pen.beginPath();
  pen.moveTo(x1, y1);
  pen.lineTo(x2, y2);
  pen.stroke();
}
