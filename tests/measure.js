// Measures the pages in this document's frames, each as wide as its window would be, and writes what is wrong with them into #found.

// Where a line may break anyway; what stands between is a word.
const WORDS = /[^\s\u2010-\u2015\/-]+/g;
// A table of more columns may be wider than a narrow window, in a box of its own that scrolls.
const MOST_COLUMNS = 6;

function name(element) {
  const kind = element.getAttribute('class');
  return element.tagName.toLowerCase() + (kind ? '.' + kind.split(' ').join('.') : '');
}

// The nearest ancestor that is no run of text: a cell, a column, a paragraph, a drawing.
function holder(element, view) {
  let own = element;
  while (view.getComputedStyle(own).display === 'inline' && own.tagName !== 'svg') own = own.parentElement;
  return own;
}

function sticksOut(word, box) {
  return word.left < box.left - 1 || word.right > box.right + 1;
}

function words(page, view, faults) {
  const walker = page.createTreeWalker(page.body, NodeFilter.SHOW_TEXT), range = page.createRange();
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const parent = node.parentElement;
    for (const word of node.data.matchAll(WORDS)) {
      range.setStart(node, word.index);
      range.setEnd(node, word.index + word[0].length);
      const lines = new Set([...range.getClientRects()].filter(box => box.width > 0).map(box => Math.round(box.top)));
      if (lines.size > 1) faults.push(`${name(parent)} breaks '${word[0]}' into ${lines.size} lines`);
      const own = range.getBoundingClientRect();
      if (sticksOut(own, holder(parent, view).getBoundingClientRect())) faults.push(`'${word[0]}' is wider than its ${name(parent)}`);
      for (let outer = parent; outer !== page.body; outer = outer.parentElement) {
        const box = outer.getBoundingClientRect(), flow = view.getComputedStyle(outer).overflowX;
        const hides = outer.tagName === 'svg' || flow === 'hidden' || flow === 'clip';
        if (hides && (sticksOut(own, box) || own.top < box.top - 1 || own.bottom > box.bottom + 1))
          faults.push(`${name(outer)} cuts off '${word[0]}'`);
      }
    }
  }
}

function drawings(page, faults) {
  for (const drawing of page.querySelectorAll('svg')) {
    const texts = [...drawing.querySelectorAll('text')].map(text => [text.textContent, text.getBoundingClientRect()]);
    texts.forEach(([one, a], number) => texts.slice(number + 1).forEach(([other, b]) => {
      const across = Math.min(a.right, b.right) - Math.max(a.left, b.left), down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (across > 1 && down > 2) faults.push(`in a drawing '${one}' lies over '${other}'`);
    }));
  }
}

function boxes(page, faults) {
  const width = page.documentElement.clientWidth;
  if (page.documentElement.scrollWidth > width) faults.push(`the page is ${page.documentElement.scrollWidth} px wide`);
  for (const element of page.body.querySelectorAll('*')) {
    const box = element.getBoundingClientRect();
    if (box.width && !element.parentElement.closest('.scroll') && (box.right > width + 1 || box.left < -1))
      faults.push(`${name(element)} reaches from ${box.left.toFixed()} to ${box.right.toFixed()} px`);
  }
  for (const box of page.querySelectorAll('.scroll')) {
    const columns = box.querySelectorAll('thead tr:last-child th').length;
    if (box.scrollWidth > box.clientWidth + 1 && (columns <= MOST_COLUMNS || width >= 800 && columns <= 2 * MOST_COLUMNS))
      faults.push(`a table of ${columns} columns is ${box.scrollWidth} px wide in ${box.clientWidth}: ${box.textContent.slice(0, 40)}`);
  }
}

function measure(frame) {
  const page = frame.contentDocument, faults = [];
  boxes(page, faults);
  words(page, frame.contentWindow, faults);
  drawings(page, faults);
  return [...new Set(faults)];
}

window.addEventListener('load', () => {
  const found = {};
  for (const frame of document.querySelectorAll('iframe')) found[frame.title] = measure(frame);
  document.getElementById('found').textContent = JSON.stringify(found);
});
