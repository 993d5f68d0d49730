// Spectra: of a tile's file the row group is read that holds the target, and kept for its neighbours.
import { readMetadata, readRows } from "./ranges.js";

const ARMS = ["", "b_", "r_", "z_"]; // joined, or as the spectrograph has them
const SCALARS = [
  "survey", "program", "healpix", "targetid", "z", "zerr", "zwarn", "spectype", "subtype", "chi2", "deltachi2",
  "target_ra", "target_dec", "flux_g", "flux_r", "flux_z", "ebv", "coadd_exptime", "coadd_numexp", "morphtype",
  "z_rr", "z_qn", "z_new", "qso_maskbits", "rrdetails", "rrdetails_scans",
];
const WANTED = [...SCALARS, ...ARMS.flatMap((arm) => ["wavelength", "flux", "ivar", "mask"].map((name) => arm + name))];

const groups = new Map();
const KEPT = 4;

function rowGroup(url, start, end) {
  const key = `${url} ${start}`;
  const found = groups.get(key);
  groups.delete(key);
  const rows = found ?? readRows(url, WANTED, { rowStart: start, rowEnd: end });
  groups.set(key, rows);
  rows.catch(() => groups.delete(key));
  if (groups.size > KEPT) groups.delete(groups.keys().next().value);
  return rows;
}

export async function readSpectrum(base, file, row) {
  const url = `${base}/${file}`;
  const { row_groups: all } = await readMetadata(url);
  let start = 0;
  for (const group of all) {
    const end = start + Number(group.num_rows);
    if (row < end) return asSpectrum((await rowGroup(url, start, end))[row - start], file, row);
    start = end;
  }
  throw new Error(`${file} has ${start} rows, not row ${row}: the page is older than the data, load it again`);
}

// The row of a target in a tile's file; -1 where it is not there.
export async function findRow(base, file, targetid) {
  const rows = await readRows(`${base}/${file}`, ["targetid"]);
  return rows.findIndex((row) => row.targetid === targetid);
}

function asSpectrum(row, file, number) {
  const arms = ARMS.filter((arm) => row[`${arm}flux`]).map((arm) => ({
    name: arm.replace("_", ""),
    wavelength: Float64Array.from(row[`${arm}wavelength`]),
    flux: Float64Array.from(row[`${arm}flux`]),
    ivar: Float64Array.from(row[`${arm}ivar`]),
    mask: Int32Array.from(row[`${arm}mask`]),
  }));
  return { ...row, arms, file, row: number };
}

// Gaussian smoothing, weighted by ivar; `width` is its sigma in pixels. Gives flux and its sigma, NaN where no
// pixel near is good.
export function smooth({ flux, ivar }, width) {
  const n = flux.length;
  const value = new Float64Array(n);
  const sigma = new Float64Array(n);
  const reach = Math.ceil(3 * width);
  const kernel = Array.from({ length: reach + 1 }, (_, i) => (width ? Math.exp(-0.5 * (i / width) ** 2) : 1));
  for (let i = 0; i < n; i++) {
    if (!(ivar[i] > 0)) {
      value[i] = sigma[i] = NaN; // a masked pixel stays a gap
      continue;
    }
    let sum = 0;
    let weight = 0;
    let variance = 0;
    for (let j = Math.max(0, i - reach); j <= Math.min(n - 1, i + reach); j++) {
      if (!(ivar[j] > 0)) continue;
      const k = kernel[Math.abs(i - j)];
      sum += k * ivar[j] * flux[j];
      weight += k * ivar[j];
      variance += k * k * ivar[j];
    }
    value[i] = sum / weight;
    sigma[i] = Math.sqrt(variance) / weight;
  }
  return { value, sigma };
}
