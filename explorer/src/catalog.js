// The catalogue of all targets, read partition by partition: of its 125 columns only those that are shown.
import { columnsOf, readColumns, readMetadata, readRows, readText } from "./ranges.js";

const COLUMNS = ["targetid", "z", "zwarn", "spectype", "flux_r", "is_primary", "file", "row"];
const AHEAD = 100_000; // rows that are read without being asked for
const ENOUGH = 2_000; // matches after which reading waits
const FEW = 20; // pixels of which all is read at once

export const magnitude = (nanomaggies) => (nanomaggies > 0 ? 22.5 - 2.5 * Math.log10(nanomaggies) : NaN);

function grow(column, size) {
  if (column.length >= size) return column;
  const larger = new column.constructor(Math.max(size, 2 * column.length));
  larger.set(column);
  return larger;
}

// Texts as numbers: the same few stand in every row.
class Words {
  list = [];
  numbers = new Map();
  number(word) {
    let found = this.numbers.get(word);
    if (found === undefined) {
      found = this.list.length;
      this.list.push(word);
      this.numbers.set(word, found);
    }
    return found;
  }
}

// Places of a list from the least key to the greatest, equal ones as they stand. Each key is sorted together with its
// place, as one whole number, because that is many times faster than calling a function for each pair.
function argsort(keys) {
  const packed = new BigUint64Array(keys.length);
  const words = new Uint32Array(packed.buffer);
  for (let k = 0; k < keys.length; k++) {
    words[2 * k] = k;
    words[2 * k + 1] = keys[k];
  }
  packed.sort();
  const places = new Uint32Array(keys.length);
  for (let k = 0; k < keys.length; k++) places[k] = words[2 * k];
  return places;
}

// Whole numbers that rise as the values do, or fall; what is not a number comes last either way.
function keysOf(values, falling) {
  const keys = new Uint32Array(values.buffer);
  for (let k = 0; k < keys.length; k++) {
    if (values[k] !== values[k]) keys[k] = 0xffffffff;
    else {
      keys[k] = keys[k] >>> 31 ? ~keys[k] : keys[k] | 0x80000000;
      if (falling) keys[k] = ~keys[k];
    }
  }
  return keys;
}

// What the path of a spectrum's file tells: parquet/main-dark/dataset/Norder=6/Dir=0/Npix=5/main-dark-5.parquet
export function fileParts(file) {
  const [, order, pixel] = file.match(/Norder=(\d+)\/.*Npix=(\d+)\//) ?? [];
  return { name: file.split("/").pop().replace(/\.parquet$/, ""), order: Number(order), pixel: Number(pixel) };
}

export class Catalog {
  constructor(base) {
    this.base = base;
    this.size = 0; // rows read
    this.total = 0; // rows of the catalogue
    this.partitions = [];
    this.classes = new Words();
    this.files = new Words();
    this.parts = []; // of each file
    this.z = new Float64Array(0);
    this.r = new Float32Array(0);
    this.zwarn = new Int32Array(0);
    this.spectype = new Uint8Array(0);
    this.primary = new Uint8Array(0);
    this.file = new Uint32Array(0);
    this.row = new Int32Array(0);
    this.targetid = new BigInt64Array(0);
  }

  async open() {
    const [info, properties] = await Promise.all([
      readText(`${this.base}/catalog/partition_info.csv`),
      readText(`${this.base}/catalog/hats.properties`),
    ]);
    this.total = Number(properties.match(/^hats_nrows=(\d+)/m)?.[1] ?? 0);
    this.partitions = info.trim().split("\n").slice(1).map((line) => {
      const [order, pixel] = line.split(",").map(Number);
      const folder = `Norder=${order}/Dir=${pixel - (pixel % 10000)}`;
      return { order, pixel, url: `${this.base}/catalog/dataset/${folder}/Npix=${pixel}.parquet`, read: false };
    });
    if (this.partitions.length) {
      this.columns = new Set(columnsOf(await readMetadata(this.partitions[0].url)));
    }
  }

  get left() {
    return this.partitions.filter((partition) => !partition.read);
  }

  has(column) {
    return this.columns?.has(column) ?? false;
  }

  // Whether a pixel (order, number) and a partition have sky in common.
  static overlaps(partition, { order, pixel }) {
    const up = order - partition.order;
    return up >= 0 ? Math.floor(pixel / 4 ** up) === partition.pixel : Math.floor(partition.pixel / 4 ** -up) === pixel;
  }

  async read(partition) {
    const first = this.size;
    const { row_groups: groups } = await readMetadata(partition.url);
    const last = first + groups.reduce((sum, group) => sum + Number(group.num_rows), 0);
    for (const name of ["z", "r", "zwarn", "spectype", "primary", "file", "row", "targetid"]) {
      this[name] = grow(this[name], Math.max(last, this.total));
    }
    this.z.fill(NaN, first, last);
    this.r.fill(NaN, first, last);
    const unknown = this.classes.number("");
    this.spectype.fill(unknown, first, last);
    this.primary.fill(1, first, last);
    await readColumns(partition.url, COLUMNS, (name, values, start) => {
      const at = first + start;
      const n = values.length;
      if (name === "z") for (let i = 0; i < n; i++) this.z[at + i] = values[i] ?? NaN;
      else if (name === "flux_r") for (let i = 0; i < n; i++) this.r[at + i] = magnitude(values[i]);
      else if (name === "zwarn") for (let i = 0; i < n; i++) this.zwarn[at + i] = Number(values[i] ?? 0);
      else if (name === "spectype") for (let i = 0; i < n; i++) this.spectype[at + i] = this.classes.number(values[i] ?? "");
      else if (name === "is_primary") for (let i = 0; i < n; i++) this.primary[at + i] = values[i] ? 1 : 0;
      else if (name === "row") for (let i = 0; i < n; i++) this.row[at + i] = values[i];
      else if (name === "targetid") for (let i = 0; i < n; i++) this.targetid[at + i] = values[i];
      else if (name === "file") for (let i = 0; i < n; i++) this.file[at + i] = this.files.number(values[i]);
    });
    for (let i = this.parts.length; i < this.files.list.length; i++) this.parts.push(fileParts(this.files.list[i]));
    this.size = last;
    this.total = Math.max(this.total, last);
    partition.read = true;
  }

  // Read on until there is enough to show; a tile or a TARGETID is read where it lies.
  // `wait` is told the number of matches after each partition and says false to stop.
  async scan(filter, everything, wait) {
    let where = this.left;
    const few = filter.cells && filter.cells.length <= FEW;
    if (!everything && filter.cells) {
      where = where.filter((one) => filter.cells.some((cell) => Catalog.overlaps(one, cell)));
    }
    if (!everything && filter.targetid !== null) {
      const found = await this.lookUp(filter.targetid);
      where = where.filter((one) => found.some((p) => p.order === one.order && p.pixel === one.pixel));
    }
    let matches = this.filter(filter).length;
    for (const partition of where) {
      const whole = everything || few || filter.targetid !== null;
      if (!whole && matches >= ENOUGH && this.size >= AHEAD) return;
      const first = this.size;
      await this.read(partition);
      matches += this.filter(filter, first).length;
      if (!(await wait(matches))) return;
    }
  }

  // The partitions that hold a TARGETID, by the index of the collection.
  async lookUp(targetid) {
    const index = `${this.base}/catalog_targetid/dataset/index/part.0.parquet`;
    const { row_groups: groups } = await readMetadata(index);
    const found = [];
    let start = 0;
    for (const group of groups) {
      const end = start + Number(group.num_rows);
      const { min_value: low, max_value: high } = group.columns[0].meta_data.statistics ?? {};
      if (low === undefined || (low <= targetid && targetid <= high)) {
        const rows = await readRows(index, ["targetid", "Norder", "Npix"], { rowStart: start, rowEnd: end });
        for (const row of rows) {
          if (row.targetid === targetid) found.push({ order: Number(row.Norder), pixel: Number(row.Npix) });
        }
      }
      start = end;
    }
    return found;
  }

  // Numbers of the rows read, from `first` on, that pass the filter.
  filter({ zMin, zMax, rMin, rMax, spectype, good, primary, isWanted, targetid }, first = 0) {
    const wantedClass = spectype ? this.classes.numbers.get(spectype) ?? -1 : null;
    const inPixel = isWanted && this.parts.map(isWanted);
    const found = new Uint32Array(this.size - first);
    let n = 0;
    for (let i = first; i < this.size; i++) {
      if (zMin !== null && !(this.z[i] >= zMin)) continue;
      if (zMax !== null && !(this.z[i] <= zMax)) continue;
      if (rMin !== null && !(this.r[i] >= rMin)) continue;
      if (rMax !== null && !(this.r[i] <= rMax)) continue;
      if (wantedClass !== null && this.spectype[i] !== wantedClass) continue;
      if (good && this.zwarn[i] !== 0) continue;
      if (primary && !this.primary[i]) continue;
      if (inPixel && !inPixel[this.file[i]]) continue;
      if (targetid !== null && this.targetid[i] !== targetid) continue;
      found[n++] = i;
    }
    return found.subarray(0, n);
  }

  // Sort rows by a column; what has no value stands last either way.
  sort(rows, column, falling) {
    if (column === "targetid") { // 64 bits: by the lower half, then by the upper one
      const halves = new Uint32Array(this.targetid.buffer);
      const half = (ordered, which) => {
        const keys = new Uint32Array(ordered.length);
        const sign = which ? 0x80000000 : 0;
        for (let k = 0; k < keys.length; k++) {
          const key = halves[2 * ordered[k] + which] ^ sign;
          keys[k] = falling ? ~key : key;
        }
        return argsort(keys).map((k) => ordered[k]);
      };
      return half(half(rows, 0), 1);
    }
    const ranks = column === "tile" ? this.tileRanks() : null;
    const key = ranks ?? this[column];
    if (!key) return rows;
    const values = new Float32Array(rows.length);
    for (let k = 0; k < values.length; k++) values[k] = ranks ? ranks[this.file[rows[k]]] : key[rows[k]];
    return argsort(keysOf(values, falling)).map((k) => rows[k]);
  }

  tileRanks() {
    if (this.ranks?.length !== this.parts.length) {
      const order = this.parts.map((_, i) => i);
      order.sort((a, b) => this.parts[a].name.localeCompare(this.parts[b].name, "en", { numeric: true }));
      this.ranks = new Uint32Array(order.length);
      order.forEach((file, rank) => { this.ranks[file] = rank; });
    }
    return this.ranks;
  }
}
