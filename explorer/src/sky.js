// The map of the sky: the tiles' HEALPix pixels, by number of spectra or by outcome.
import { cell } from "./healpix.js";
import words from "./words.json";

const RAD = Math.PI / 180;
const CENTRE = 120; // DESI's maps have this right ascension in the middle
const range = (from, to, step) => Array.from({ length: Math.round((to - from) / step) + 1 }, (_, i) => from + i * step);
const WORST = Object.keys(words.outcomes); // a later one hides an earlier one

// Hammer's equal-area projection, RA growing to the left; from -1 to 1 in x, -0.5 to 0.5 in y.
function project(ra, dec, near) {
  let lon = ra - CENTRE;
  lon -= 360 * Math.round(lon / 360);
  if (near !== undefined) lon += 360 * Math.round((near - lon) / 360); // with its neighbour across the seam
  const half = (lon * RAD) / 2;
  const scale = Math.sqrt(1 + Math.cos(dec * RAD) * Math.cos(half));
  return [(-Math.cos(dec * RAD) * Math.sin(half)) / scale, (-0.5 * Math.sin(dec * RAD)) / scale, lon];
}

export class Sky {
  constructor(root, onPick) {
    this.canvas = root.querySelector("canvas");
    this.readout = root.querySelector(".readout");
    this.onPick = onPick;
    this.mode = "count";
    this.cells = [];
    this.picked = null;
    this.listen();
    new ResizeObserver(() => this.draw()).observe(root);
  }

  // Tiles of several surveys and programs share a pixel: their spectra are summed, the worst outcome is shown.
  setTiles(tiles) {
    const cells = new Map();
    for (const { order, pixel, outcome, n_rows: rows, reason, ...tile } of tiles) {
      const key = `${order}/${pixel}`;
      if (!cells.has(key)) {
        const { centre, corners } = cell(order, pixel);
        const middle = project(...centre);
        const shape = corners.map(([ra, dec]) => {
          const near = Math.abs(dec) > 89.999 ? [centre[0], dec] : [ra, dec];
          return project(...near, middle[2]);
        });
        cells.set(key, { key, order, pixel, centre, middle, shape, rows: 0, worst: 0, tiles: [] });
      }
      const one = cells.get(key);
      one.rows += Number(rows ?? 0);
      one.worst = Math.max(one.worst, WORST.indexOf(outcome));
      one.tiles.push({ name: `${tile.survey}-${tile.program}-${tile.healpix}`, outcome, reason });
    }
    this.cells = [...cells.values()];
    this.most = Math.max(1, ...this.cells.map(({ rows }) => rows));
    this.fit();
  }

  // The part of the sky that has tiles.
  fit() {
    const xs = this.cells.map(({ middle }) => middle[0]);
    const ys = this.cells.map(({ middle }) => middle[1]);
    const [left, right] = [Math.min(...xs), Math.max(...xs)];
    const [top, bottom] = [Math.min(...ys), Math.max(...ys)];
    if (!xs.length) return this.whole();
    this.look = { x: (left + right) / 2, y: (top + bottom) / 2, width: Math.min(2.05, Math.max(0.08, (right - left) * 1.15, (bottom - top) * 2.3)) };
    return this.draw();
  }

  whole() {
    this.look = { x: 0, y: 0, width: 2.05 };
    this.draw();
  }

  pick(pixel) {
    this.picked = pixel;
    this.draw();
  }

  setMode(mode) {
    this.mode = mode;
    this.draw();
  }

  // Degrees from one line of the grid to the next.
  get step() {
    return this.look.width < 0.1 ? 2 : this.look.width < 0.7 ? 10 : 30;
  }

  get scale() {
    return Math.min(this.canvas.clientWidth / this.look.width, (2 * this.canvas.clientHeight) / this.look.width);
  }

  place([x, y]) {
    return [
      this.canvas.clientWidth / 2 + (x - this.look.x) * this.scale,
      this.canvas.clientHeight / 2 + (y - this.look.y) * this.scale,
    ];
  }

  colour({ rows, worst }, from, to) {
    if (this.mode === "outcome") return words.outcomes[WORST[worst]];
    const share = rows ? 0.2 + 0.8 * (Math.log(1 + rows) / Math.log(1 + this.most)) : 0;
    return `color-mix(in oklab, ${to} ${Math.round(100 * share)}%, ${from})`;
  }

  draw() {
    const { canvas } = this;
    const ratio = devicePixelRatio || 1;
    if (!canvas.clientWidth || !this.look) return;
    canvas.width = Math.round(canvas.clientWidth * ratio);
    canvas.height = Math.round(canvas.clientHeight * ratio);
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    const style = getComputedStyle(canvas);
    const [grid, soft, none, most, ink] = ["grid", "soft", "none", "most", "ink"].map((name) => style.getPropertyValue(`--${name}`));
    pen.font = `11px ${style.fontFamily}`;
    this.drawGrid(pen, grid);
    const fills = new Map(); // one path for each colour: a hundred times fewer calls
    for (const one of this.cells) {
      const fill = this.colour(one, none, most);
      if (!fills.has(fill)) fills.set(fill, new Path2D());
      this.trace(fills.get(fill), one);
    }
    for (const [fill, path] of fills) {
      pen.fillStyle = fill;
      pen.fill(path);
    }
    this.nameGrid(pen, soft);
    const chosen = this.picked && this.cells.find(({ order, pixel }) => order === this.picked.order && pixel === this.picked.pixel);
    if (chosen) {
      const path = new Path2D();
      this.trace(path, chosen, 2);
      pen.strokeStyle = ink;
      pen.lineWidth = 2;
      pen.stroke(path);
    }
  }

  trace(path, { middle, shape }, more = 0) {
    const points = shape.map((corner) => this.place(corner));
    const width = Math.max(...points.map(([x]) => x)) - Math.min(...points.map(([x]) => x));
    if (width < 7) { // too small to be seen or hit: a spot
      const [x, y] = this.place(middle);
      const size = (this.cells.length > 2000 ? Math.max(1.2, width / 2) : 3.5) + more;
      path.moveTo(x + size, y);
      path.arc(x, y, size, 0, 2 * Math.PI);
      return;
    }
    points.forEach(([x, y], i) => (i ? path.lineTo(x, y) : path.moveTo(x, y)));
    path.closePath();
  }

  drawGrid(pen, grid) {
    pen.strokeStyle = grid;
    pen.lineWidth = 1;
    const curve = (points) => {
      pen.beginPath();
      points.forEach(([ra, dec], i) => {
        const [x, y] = this.place(project(ra, dec, undefined));
        if (i) pen.lineTo(x, y);
        else pen.moveTo(x, y);
      });
      pen.stroke();
    };
    const fine = this.step;
    const [east, west] = [CENTRE - 179.99, CENTRE + 179.99];
    for (const dec of range(-60, 60, fine)) curve(range(east, west, 359.98 / 120).map((ra) => [ra, dec]));
    for (const ra of [east, west, ...range(0, 360 - fine, fine)]) curve(range(-90, 90, 2).map((dec) => [ra, dec]));
  }

  nameGrid(pen, soft) {
    const fine = this.step;
    pen.fillStyle = soft;
    pen.textBaseline = "middle";
    pen.textAlign = "center";
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const inside = ([x, y]) => x > 12 && x < width - 12 && y > 8 && y < height - 8;
    for (const ra of range(0, 360 - 2 * fine, 2 * fine)) {
      const at = this.place(project(ra, 0));
      if (inside(at)) pen.fillText(`${ra}°`, at[0], at[1] + 8);
    }
    for (const dec of range(-60, 60, fine)) {
      const at = this.place(project(CENTRE, dec));
      if (dec && inside(at)) pen.fillText(`${dec > 0 ? "+" : "−"}${Math.abs(dec)}°`, at[0], at[1]);
    }
  }

  nearest(event) {
    const box = this.canvas.getBoundingClientRect();
    const [px, py] = [event.clientX - box.left, event.clientY - box.top];
    let best = null;
    let least = Infinity;
    for (const one of this.cells) {
      const [x, y] = this.place(one.middle);
      const distance = Math.hypot(x - px, y - py);
      if (distance < least) [best, least] = [one, distance];
    }
    if (!best) return null;
    const xs = best.shape.map((corner) => this.place(corner)[0]);
    return least <= Math.max(8, (Math.max(...xs) - Math.min(...xs)) / 2) ? best : null;
  }

  listen() {
    const { canvas } = this;
    let held = null;
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      const box = canvas.getBoundingClientRect();
      const dx = event.clientX - box.left - canvas.clientWidth / 2;
      const dy = event.clientY - box.top - canvas.clientHeight / 2;
      const old = this.scale;
      this.look.width = Math.max(0.01, Math.min(2.05, this.look.width * Math.exp(event.deltaY / 500)));
      this.look.x += dx / old - dx / this.scale;
      this.look.y += dy / old - dy / this.scale;
      this.draw();
    }, { passive: false });
    canvas.addEventListener("pointerdown", (event) => {
      held = { x: event.clientX, y: event.clientY, look: { ...this.look }, moved: false };
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (held) {
        const [dx, dy] = [event.clientX - held.x, event.clientY - held.y];
        held.moved ||= Math.hypot(dx, dy) > 4;
        if (!held.moved) return;
        this.look.x = held.look.x - dx / this.scale;
        this.look.y = held.look.y - dy / this.scale;
        this.draw();
        return;
      }
      const one = this.nearest(event);
      canvas.style.cursor = one ? "pointer" : "grab";
      this.readout.textContent = one ? this.describe(one) : "";
    });
    canvas.addEventListener("pointerup", (event) => {
      const click = held && !held.moved;
      held = null;
      if (click) this.onPick(this.nearest(event));
    });
    canvas.addEventListener("pointercancel", () => { held = null; });
    canvas.addEventListener("pointerleave", () => { this.readout.textContent = ""; });
  }

  describe({ tiles, rows }) {
    const bad = tiles.find(({ reason }) => reason);
    return `${tiles.map(({ name, outcome }) => `${name}: ${outcome.replace("_", " ")}`).join("; ")}; ${rows} spectra${bad ? ` (${bad.reason})` : ""}`;
  }
}
