// What is indexed, how far indexing is, and what could not be read.

import { get, post } from './server.js';

const find = id => document.getElementById(id);
const many = (count, word) => `${count.toLocaleString('en')} ${word}${count === 1 ? '' : 's'}`;

function show(found) {
  const files = many(found.files, 'file');
  find('folder').textContent = found.verbs.includes('search') ? `${many(found.moments, 'moment')} in ${files}, searched by ${found.model}` : `${files}, looked at by ${found.model}`;
  find('indexing').hidden = found.state !== 'indexing';
  const bar = find('progress');
  if (found.total) { bar.max = found.total; bar.value = found.done; } else bar.removeAttribute('value');
  find('indexing').querySelector('label').textContent = found.total ? `Indexing: ${found.done} of ${many(found.total, 'file')}` : 'Looking for new files';
  const faults = Object.entries(found.faults), lines = faults.map(([path, why]) => why.includes(path) ? why : `${path}: ${why}`);
  if (found.error) lines.unshift(found.error);
  find('faults').hidden = !lines.length;
  find('faults').querySelector('summary').textContent = found.error ? 'The folder could not be indexed' : `${many(faults.length, 'file')} could not be read`;
  find('faults').querySelector('ul').replaceChildren(...lines.map(line => { const item = document.createElement('li'); item.textContent = line; return item; }));
  find('refresh').hidden = !found.follows || found.state === 'indexing';
}

// Calls `use` with what the service tells, often while it indexes, and seldom otherwise.
export function watch(use) {
  let timer;
  async function look() {
    clearTimeout(timer);
    let wait = 30;
    try {
      const found = await get('/api/index');
      show(found);
      use(found);
      if (found.state === 'indexing') wait = 1;
    } catch { /* the next look may succeed */ }
    timer = setTimeout(look, 1000 * wait);
  }
  find('refresh').onclick = () => post('/api/index').then(look);
  look();
  return { soon: look };
}
