// A clip as a card: it plays its moment, and can be captioned and asked about. `source` is {path} of the index or {file} of this machine.

import { form, post } from './server.js';

const PICTURE = /\.(jpe?g|png|webp|gif|bmp|tiff?|avif|ppm)$/i, SOUND = /\.(wav|mp3|ogg|oga|opus|flac|m4a|aac|wma|aiff?)$/i;
const LACKS = { vision: 'nothing to see', audio: 'no sound', subtitle: 'no subtitle' };
const template = document.getElementById('card');

export const url = path => '/media/' + path.split('/').map(encodeURIComponent).join('/');

export function clock(seconds) {
  const whole = Math.floor(seconds), parts = [Math.floor(whole / 60) % 60, whole % 60];
  const text = `${parts[0]}:${String(parts[1]).padStart(2, '0')}`;
  return whole >= 3600 ? `${Math.floor(whole / 3600)}:${text.padStart(5, '0')}` : text;
}

// A player that stands at the start of the moment, and stops at its end.
function player(source, moment) {
  const name = source.file ? source.file.name : source.path, place = source.file ? URL.createObjectURL(source.file) : url(source.path);
  if (PICTURE.test(name)) {
    const image = new Image();
    image.src = place;
    image.alt = name;
    image.loading = 'lazy';
    image.onerror = () => image.replaceWith(note('This picture cannot be shown here.'));
    return image;
  }
  const media = document.createElement(SOUND.test(name) ? 'audio' : 'video');
  media.controls = true;
  media.preload = 'none';
  media.playsInline = true;
  media.title = name;
  media.src = moment ? `${place}#t=${moment.start},${moment.end}` : place;
  media.onerror = () => media.replaceWith(note('This browser cannot play the file.'));
  if (moment) media.onloadedmetadata = () => { if (media.currentTime < moment.start - 0.05) media.currentTime = moment.start; };
  seen.observe(media);
  return media;
}

// Only what comes into view is fetched.
const seen = new IntersectionObserver(entries => {
  for (const { isIntersecting, target } of entries) if (isIntersecting) { target.preload = 'metadata'; seen.unobserve(target); }
}, { rootMargin: '200px' });

function note(text, kind) {
  const line = document.createElement('p');
  line.textContent = text;
  if (kind) line.className = kind;
  return line;
}

export function play(card) {
  const media = card.querySelector('video, audio');
  if (!media) return;
  for (const other of document.querySelectorAll('video, audio')) if (other !== media) other.pause();
  if (!media.paused) return media.pause();
  const start = Number(card.dataset.start), end = Number(card.dataset.end);
  if (end && (media.currentTime < start - 0.05 || media.currentTime >= end - 0.05)) media.currentTime = start;
  media.play().catch(() => {});
}

// The scores by each track alone, and a sentence that says without which one most of the score would go.
function tracks(card, moment, weights) {
  const names = Object.keys(moment.tracks);
  const rows = names.map(name => {
    const label = note(name), bar = document.createElement('div'), fill = document.createElement('i'), score = note(moment.tracks[name].toFixed(2));
    bar.className = 'bar';
    fill.className = name;
    fill.style.width = `${100 * Math.max(0, Math.min(1, moment.tracks[name]))}%`;
    bar.append(fill);
    return [label, bar, score];
  });
  card.querySelector('.tracks').append(...rows.flat());
  const counted = names.filter(name => !weights || weights[name] > 0);
  if (moment.by) card.querySelector('.reason').textContent = `Found ${counted.length > 1 ? 'most of all ' : ''}by what is ${moment.by}.`;
}

export function card(source, { moment = null, weights = null, verbs = [], onLike = null } = {}) {
  const made = template.content.firstElementChild.cloneNode(true), find = kind => made.querySelector(kind);
  const name = source.file ? source.file.name : source.path;
  made.querySelector('h2').textContent = name;
  made.setAttribute('aria-label', name);
  find('.media').append(player(source, moment));
  if (moment) {
    made.dataset.start = moment.start;
    made.dataset.end = moment.end;
    find('.play').textContent = moment.end > 0 ? `▶ ${clock(moment.start)} – ${clock(Math.ceil(moment.end))}` : 'picture';
    find('.play').disabled = !(moment.end > 0);
    find('.sure').textContent = moment.probability === null ? `score ${moment.score.toFixed(2)}` : sure(moment.probability);
    find('.sure').title = moment.probability === null ? '' : 'How often a text about something else finds nothing as good here';
    find('blockquote').textContent = moment.said;
    find('blockquote').hidden = !moment.said;
    tracks(made, moment, weights);
  } else find('.where').hidden = true;
  find('.play').onclick = () => play(made);
  find('.caption').hidden = !verbs.includes('caption');
  const turns = [], converses = verbs.includes('chat');
  find('.ask').hidden = !converses && !verbs.includes('answer');
  find('.like').hidden = !onLike;
  find('.like').onclick = onLike;
  find('.caption').onclick = () => tell(made, find('.caption'), '/api/caption', { clip: source.file || source.path }, found => [[found.text]]);
  find('.ask').onclick = () => { find('.question').hidden = false; find('.question input').focus(); };
  find('.question').onsubmit = event => {
    event.preventDefault();
    const fields = { clip: source.file || source.path, question: find('.question input').value };
    if (!converses) return tell(made, find('.question button'), '/api/answer', fields, found => [[found.text, found.question]]);
    // The service keeps nothing of a conversation: all of it is sent again. A form leaves out what is empty.
    const said = { clip: fields.clip, question: [...turns.map(turn => turn[0]), fields.question], answer: turns.map(turn => turn[1] || ' ') };
    tell(made, find('.question button'), '/api/chat', said, found => {
      turns.push([found.question, found.text]);
      find('.question input').value = '';
      return [[found.text, found.question]];
    });
  };
  return made;
}

const sure = probability => probability < 0.01 ? 'less than 1 % sure' : `${Math.floor(100 * probability)} % sure`;

// Ask the service about a clip, and write what it says below the card. `lines` makes [text, small text before it] of a result.
async function tell(made, button, route, fields, lines) {
  const place = made.querySelector('.facts > .said'), waiting = note('…');
  button.disabled = true;
  place.append(waiting);
  try {
    const sending = share => { waiting.textContent = fields.clip instanceof File && share < 1 ? `sending: ${Math.floor(100 * share)} %` : '…'; };
    const { results } = await post(route, form(fields), sending);
    for (const found of results) {
      for (const [text, before] of lines(found)) {
        const line = note(text || '(no words)');
        if (before) line.prepend(small(before));
        if (found.missing.length) line.append(small(`has ${found.missing.map(track => LACKS[track] || track).join(', ')}`));
        place.append(line);
      }
    }
  } catch (error) {
    place.append(note(error.message, 'fault'));
  } finally {
    waiting.remove();
    button.disabled = false;
  }
}

function small(text) {
  const line = document.createElement('small');
  line.textContent = text;
  return line;
}
