// Talks to the service: JSON or a form in, JSON out; waits where it is busy, and for it to come back where it is gone.

const TRIES = 5;
const pause = seconds => new Promise(done => setTimeout(done, 1000 * seconds));
const gone = document.getElementById('gone');
let waiting = null;

export class Refused extends Error {}

function once(method, route, body, onProgress) {
  return new Promise((done, failed) => {
    const request = new XMLHttpRequest();
    request.open(method, route);
    request.responseType = 'json';
    if (onProgress) request.upload.onprogress = event => onProgress(event.loaded / event.total);
    request.onload = () => done(request);
    request.onerror = () => failed(new Error('gone'));
    if (body && !(body instanceof FormData)) {
      request.setRequestHeader('content-type', 'application/json');
      body = JSON.stringify(body);
    }
    request.send(body || null);
  });
}

// Until the service answers again; all who ask meanwhile wait for the same.
async function back() {
  gone.hidden = false;
  for (;;) {
    try {
      const answer = await once('GET', '/api/health');
      if (answer.status === 200) break;
    } catch { /* not yet */ }
    await pause(1);
  }
  gone.hidden = true;
  waiting = null;
}

async function call(method, route, body, onProgress) {
  for (let tries = 1; ; tries++) {
    let answer;
    try {
      answer = await once(method, route, body, onProgress);
    } catch {
      await (waiting ||= back());
      if (tries >= TRIES) throw new Refused('The service cannot be reached.');
      continue;
    }
    if (answer.status === 401) { location.reload(); await pause(60); }
    if (answer.status < 400) return answer.response;
    const after = answer.getResponseHeader('retry-after');
    if (!after || tries >= TRIES) throw new Refused(told(answer));
    await pause(Number(after));
  }
}

function told(answer) {
  const fault = answer.response || {};
  if (!fault.error) return `The service answers ${answer.status}.`;
  return !fault.field || ['clip', 'like'].includes(fault.field) ? fault.error : `${fault.field}: ${fault.error}`;
}

export const get = route => call('GET', route);
export const post = (route, body, onProgress) => call('POST', route, body, onProgress);

export function form(fields) {
  const made = new FormData();
  for (const [name, value] of Object.entries(fields)) {
    for (const one of Array.isArray(value) ? value : [value]) if (one !== '' && one !== null && one !== undefined) made.append(name, one);
  }
  return made;
}
