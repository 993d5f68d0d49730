// What a person says of a target: kept by the browser for this collection, and given as a table of CSV.
const KEY = `verdicts ${location.host}${location.pathname}`;
const COLUMNS = ["TARGETID", "SURVEY", "PROGRAM", "HEALPIX", "SPECTYPE", "Z", "VI_QUALITY", "VI_Z", "VI_SPECTYPE", "VI_COMMENT"];

const verdicts = JSON.parse(localStorage.getItem(KEY) ?? "{}");
const name = ({ targetid, survey, program, healpix }) => `${targetid} ${survey} ${program} ${healpix}`;

export const count = () => Object.keys(verdicts).length;
export const verdict = (target) => verdicts[name(target)];

// Keep what is said of a target; nothing said removes it.
export function judge(target, { quality, z, spectype, comment }) {
  if (quality === "" && !comment) delete verdicts[name(target)];
  else {
    const { targetid, survey, program, healpix } = target;
    const values = [targetid, survey, program, healpix, target.spectype, target.z, quality, z, spectype, comment];
    verdicts[name(target)] = Object.fromEntries(COLUMNS.map((column, i) => [column, String(values[i] ?? "")]));
  }
  localStorage.setItem(KEY, JSON.stringify(verdicts));
}

export function asCsv() {
  const quoted = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const lines = Object.values(verdicts).map((one) => COLUMNS.map((column) => quoted(one[column])).join(","));
  return `${[COLUMNS.join(","), ...lines].join("\n")}\n`;
}
