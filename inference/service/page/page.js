// The page: the query is what stands in the form and in the address, and results follow it.

import { card, play } from './card.js';
import { watch } from './folder.js';
import { form, post } from './server.js';

const find = id => document.getElementById(id);
const TRACKS = ['seen', 'heard', 'said'], PAUSE = 250;
const HINT = 'Describe what is seen, heard or said, or give a file: what comes nearest is shown as moments that play.';
const UNSEARCHED = 'Give a picture, a sound or a clip, to have it captioned and to ask about it.';
let own = null;      // the file that results are to be like, of this machine
let like = '';       // or the path of one in the index
let index = { verbs: [], tracks: TRACKS, uploads: false };
let number = 0;      // of the search whose results are shown
let known = false;   // whether the service has told what it can do

// ---------------------------------------------------------------------------------------------------------------- the query

function weights() {
  const chosen = Object.fromEntries(TRACKS.filter(track => index.tracks.includes(track)).map(track => [track, Number(find(track).value)]));
  const values = Object.values(chosen);
  return values.every(value => value === values[0]) ? null : chosen;
}

function query() {
  return { text: find('text').value.trim(), without: find('without').value.trim(), words: find('words').value.trim(), top: Number(find('top').value),
           at_most_false: find('false').value, weights: weights(), like };
}

const isEmpty = asked => !asked.text && !asked.words && !asked.like && !own;

function address(asked) {
  const words = new URLSearchParams();
  if (asked.text) words.set('q', asked.text);
  for (const name of ['without', 'words', 'like']) if (asked[name]) words.set(name, asked[name]);
  if (asked.at_most_false) words.set('false', asked.at_most_false);
  if (asked.top !== 20) words.set('top', asked.top);
  for (const [track, weight] of Object.entries(asked.weights || {})) words.set(track, weight);
  return words.size ? `?${words}` : location.pathname;
}

function fromAddress() {
  const words = new URLSearchParams(location.search);
  find('text').value = words.get('q') || '';
  for (const name of ['without', 'words', 'false']) find(name).value = words.get(name) || '';
  find('top').value = words.get('top') || '20';
  for (const track of TRACKS) { find(track).value = words.get(track) || '1'; shown(find(track)); }
  like = words.get('like') || '';
  if (words.get('without') || words.get('words') || words.get('false')) find('more').open = true;
}

function shown(slider) {
  slider.parentElement.querySelector('output').textContent = Number(slider.value);
}

// --------------------------------------------------------------------------------------------------------------- searching

async function search({ keep = 'push' } = {}) {
  const asked = query(), mine = ++number, list = find('results');
  if (keep) history[`${keep}State`](null, '', address(asked));
  if (known && !index.verbs.includes('search')) return say(own ? '' : UNSEARCHED);
  document.title = asked.text ? `${asked.text} · OmniVAST` : 'OmniVAST';
  if (isEmpty(asked)) { list.replaceChildren(); return say(HINT); }
  list.classList.add('old');
  say(own ? 'Looking at your clip…' : '');
  const fields = { ...asked, text: asked.text ? [asked.text] : [], without: asked.without ? [asked.without] : [], like: asked.like ? [asked.like] : [] };
  try {
    const body = own ? form({ ...fields, like: [...fields.like, own], weights: asked.weights && JSON.stringify(asked.weights) })
      : { ...fields, at_most_false: asked.at_most_false ? Number(asked.at_most_false) : null };
    const { results } = await post('/api/search', body);
    if (mine === number) show(results, asked);
  } catch (error) {
    if (mine === number) { list.replaceChildren(); say(error.message, true); }
  } finally {
    if (mine === number) list.classList.remove('old');
  }
}

function show(results, asked) {
  find('results').replaceChildren(...results.map(moment => {
    const item = document.createElement('li');
    item.append(card({ path: moment.path }, { moment, weights: asked.weights, verbs: index.verbs, onLike: () => { forget(); find('text').value = ''; like = moment.path; search(); } }));
    return item;
  }));
  const about = [asked.text && `“${asked.text}”`, asked.like && `like ${asked.like}`, own && `like ${own.name}`, asked.words && `with “${asked.words}” said`].filter(Boolean).join(', ');
  if (results.length) return say(`${results.length === 1 ? 'One moment' : `${results.length} moments`}, the best first: ${about}`);
  say(asked.at_most_false ? `Nothing here matches ${about} as surely as you ask. Show the best, however unsure, to see what comes nearest.`
    : `Nothing here matches ${about}. Other words may, or other weights.`);
}

function say(text, fault = false) {
  find('status').textContent = text;
  find('status').classList.toggle('fault', fault);
}

// ------------------------------------------------------------------------------------------------------------- one's own clip

function take(file) {
  forget();
  own = file;
  like = '';
  const made = card({ file }, { verbs: index.verbs }), verbs = made.querySelector('.verbs');
  if (index.uploads) verbs.append(button('Add to the folder', pressed => add(file, pressed, made)));
  verbs.append(button('Remove', () => { forget(); search(); }));
  find('own').replaceChildren(made);
  find('own').hidden = false;
  search();
}

function forget() {
  const media = find('own').querySelector('[src^="blob:"]');
  if (media) URL.revokeObjectURL(media.src);
  own = null;
  find('own').replaceChildren();
  find('own').hidden = true;
}

function button(text, press) {
  const made = document.createElement('button');
  made.type = 'button';
  made.className = 'quiet';
  made.textContent = text;
  made.onclick = () => press(made);
  return made;
}

async function add(file, pressed, made) {
  pressed.disabled = true;
  try {
    const { added } = await post('/api/index', form({ clip: file }), share => { pressed.textContent = `Sending: ${Math.floor(100 * share)} %`; });
    pressed.textContent = `Added as ${added[0]}`;
    watching.soon();
  } catch (error) {
    pressed.textContent = 'Add to the folder';
    pressed.disabled = false;
    const line = document.createElement('p');
    line.className = 'fault';
    line.textContent = error.message;
    made.querySelector('.facts > .said').append(line);
  }
}

// ------------------------------------------------------------------------------------------------------------------- events

function later(act) {
  let timer;
  return () => { clearTimeout(timer); timer = setTimeout(act, PAUSE); };
}

find('search').onsubmit = event => { event.preventDefault(); search(); };
const again = later(() => search({ keep: 'replace' }));
for (const track of TRACKS) find(track).oninput = event => { shown(event.target); again(); };
for (const name of ['top', 'false', 'without', 'words']) find(name).onchange = () => search();
window.onpopstate = () => { forget(); fromAddress(); search({ keep: '' }); };

find('choose').onclick = () => find('file').click();
find('file').onchange = event => { if (event.target.files[0]) take(event.target.files[0]); event.target.value = ''; };
let depth = 0;
document.ondragenter = event => { event.preventDefault(); document.body.classList.toggle('dragging', ++depth > 0); };
document.ondragleave = () => document.body.classList.toggle('dragging', --depth > 0);
document.ondragover = event => event.preventDefault();
document.ondrop = event => {
  event.preventDefault();
  depth = 0;
  document.body.classList.remove('dragging');
  if (event.dataTransfer.files[0]) take(event.dataTransfer.files[0]);
};

document.onkeydown = event => {
  const typing = event.target.closest('input, select, textarea'), here = event.target.closest('article');
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const cards = [...document.querySelectorAll('#results article')];
  const steps = { ArrowDown: 1, ArrowUp: -1 };
  if (event.key in steps && (!typing || event.target === find('text')) && !event.target.closest('video, audio') && cards.length) {
    event.preventDefault();
    const next = here ? cards.indexOf(here) + steps[event.key] : 0;
    next < 0 ? find('text').focus() : cards[Math.min(next, cards.length - 1)].focus();
  } else if (typing) {
    return;
  } else if (event.key === '/') {
    event.preventDefault();
    find('text').select();
  } else if (here && event.key === 'Enter' && event.target === here) {
    play(here);
  } else if (here && 'cal'.includes(event.key)) {
    event.preventDefault();
    here.querySelector({ c: '.caption', a: '.ask', l: '.like' }[event.key] + ':not([hidden])')?.click();
  }
};

const watching = watch(found => {
  index = found;
  for (const track of TRACKS) find(track).parentElement.hidden = !found.tracks.includes(track);
  find('search').classList.toggle('unsearched', !found.verbs.includes('search'));
  const first = !known;
  known = true;
  if (first) search({ keep: '' });
});
fromAddress();
