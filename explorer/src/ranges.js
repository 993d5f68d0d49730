// Reading files by ranges of bytes, and Parquet by its columns.
import { parquetMetadataAsync, parquetRead } from "hyparquet";
import { compressors } from "hyparquet-compressors";

export const traffic = { bytes: 0, requests: 0 };
const listeners = [];
export const onTraffic = (call) => listeners.push(call);

const TAIL = 1 << 17; // holds the footer of every file here: they take 50 to 110 kB

async function request(url, range) {
  let response;
  try {
    // no-store: a browser's cache could join bytes of a file to those of the one that replaced it
    response = await fetch(url, { cache: "no-store", headers: range ? { Range: `bytes=${range}` } : {} });
  } catch (error) {
    throw new Error(`${url} cannot be reached (${error.message}): is the server still running?`);
  }
  if (!response.ok) throw new Error(`${url}: the server answers ${response.status} ${response.statusText}`);
  const data = await response.arrayBuffer();
  traffic.bytes += data.byteLength;
  traffic.requests += 1;
  for (const call of listeners) call(traffic);
  return { response, data };
}

export async function readText(url) {
  return new TextDecoder().decode((await request(url)).data);
}

// A Parquet file whose footer is read once. One request tells its size and its last bytes.
async function open(url) {
  const { response, data } = await request(url, `-${TAIL}`);
  const whole = response.status !== 206; // this server knows no ranges
  const size = whole ? data.byteLength : Number(response.headers.get("Content-Range")?.split("/")[1]);
  if (!(size > 0)) throw new Error(`${url}: the server does not tell the size of the file`);
  const tail = size - data.byteLength;
  const file = {
    byteLength: size,
    async slice(start, end = size) {
      if (start >= tail) return data.slice(start - tail, end - tail);
      return (await request(url, `${start}-${end - 1}`)).data;
    },
  };
  const metadata = await parquetMetadataAsync(file, { initialFetchSize: TAIL });
  return { file, metadata };
}

const KEPT = 40;
const opened = new Map();

function openOnce(url) {
  const found = opened.get(url);
  opened.delete(url); // the one used last stands last
  const file = found ?? open(url);
  opened.set(url, file);
  file.catch(() => opened.delete(url));
  if (opened.size > KEPT) opened.delete(opened.keys().next().value);
  return file;
}

export const columnsOf = (metadata) => {
  const names = [];
  for (let i = 1, rest = 0; i < metadata.schema.length; i++) {
    const { name, num_children: children = 0 } = metadata.schema[i];
    if (rest === 0) names.push(name);
    else rest -= 1;
    rest += children;
  }
  return names;
};

export async function readMetadata(url) {
  return (await openOnce(url)).metadata;
}

// The columns wanted, of those that there are, in pieces: `each(name, values, first row)`.
export async function readColumns(url, wanted, each, rows = {}) {
  const { file, metadata } = await openOnce(url);
  const columns = columnsOf(metadata).filter((name) => wanted.includes(name));
  await parquetRead({
    file, metadata, compressors, columns, ...rows,
    onChunk: ({ columnName, columnData, rowStart }) => each(columnName, columnData, rowStart),
  });
  return Number(metadata.num_rows);
}

export async function readRows(url, wanted, rows = {}) {
  const { file, metadata } = await openOnce(url);
  const columns = columnsOf(metadata).filter((name) => wanted.includes(name));
  let found = [];
  await parquetRead({
    file, metadata, compressors, columns, ...rows, rowFormat: "object",
    onComplete: (all) => { found = all; },
  });
  return found;
}
