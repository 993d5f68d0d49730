// s3rver: `node --openssl-legacy-provider s3rver.js FOLDER`.
// Prints its URL when it answers, keeps everything below the folder, ends with its standard input.
'use strict';

const S3rver = require('s3rver');

const PAGE = 10;  // so that a few tiles take several pages

const [directory] = process.argv.slice(2);
const server = new S3rver({ address: '127.0.0.1', port: 0, silent: true, directory });

// s3rver looks for the folders of a listing no deeper than one level below the prefix, and finds
// none where only folders lie there. What it lists without a delimiter is right.
const list = server.store.listObjects.bind(server.store);
server.store.listObjects = async (bucket, { delimiter, prefix = '', ...options }) => {
  if (!delimiter) {
    const maxKeys = Math.min(options.maxKeys, PAGE);
    return list(bucket, { ...options, prefix, maxKeys });
  }
  const all = await list(bucket, { ...options, prefix, maxKeys: Infinity });
  const folders = new Set();
  const objects = all.objects.filter(({ key }) => {
    const end = key.indexOf(delimiter, prefix.length);
    if (end !== -1) folders.add(key.slice(0, end + delimiter.length));
    return end === -1;
  });
  return { objects, commonPrefixes: [...folders].sort(), isTruncated: false };
};

server.run().then(({ port }) => console.log(`http://127.0.0.1:${port}`));
process.stdin.resume().on('end', () => process.exit());
