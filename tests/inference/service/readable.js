// What cannot be read, or pressed without seeing it, on the page that this is run in.
(() => {
  const faults = [];
  const numbers = colour => colour.match(/[\d.]+/g).map(Number);
  const light = colour => numbers(colour).slice(0, 3).map(value => value / 255)
    .map(value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
    .reduce((sum, value, place) => sum + value * [0.2126, 0.7152, 0.0722][place], 0);
  const ground = element => {
    for (let own = element; own; own = own.parentElement) {
      const colour = getComputedStyle(own).backgroundColor, values = numbers(colour);
      if (values.length < 4 || values[3] === 1) return colour;
    }
    return 'rgb(255, 255, 255)';
  };
  for (const element of document.querySelectorAll('body *')) {
    if (!element.checkVisibility() || element.disabled) continue;
    const text = [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim());
    if (!text && !['INPUT', 'SELECT'].includes(element.tagName)) continue;
    const [a, b] = [light(getComputedStyle(element).color), light(ground(element))].sort((x, y) => y - x);
    const contrast = (a + 0.05) / (b + 0.05);
    if (contrast < 4.5) faults.push(`${element.tagName} '${element.textContent.trim().slice(0, 30)}': contrast ${contrast.toFixed(1)}`);
  }
  for (const element of document.querySelectorAll('button, input, select, a, video, audio')) {
    const name = element.getAttribute('aria-label') || element.title || element.textContent.trim() || [...element.labels || []].map(label => label.textContent.trim()).join();
    if (!name) faults.push(`${element.outerHTML.slice(0, 60)}: has no name`);
  }
  for (const image of document.querySelectorAll('img:not([alt])')) faults.push(`${image.src}: has no text in its place`);
  const ids = [...document.querySelectorAll('[id]')].map(element => element.id);
  for (const id of new Set(ids)) if (ids.filter(other => other === id).length > 1) faults.push(`two elements are called ${id}`);
  if (document.querySelectorAll('h1').length !== 1 || document.querySelectorAll('main').length !== 1) faults.push('not one h1 and one main');
  return faults;
})()
