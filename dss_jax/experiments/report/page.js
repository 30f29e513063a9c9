// The browser of test examples and of configurations. Everything comes from this file; text is only
// ever set as text. How the blocks are packed is browser.py's.
'use strict';
(() => {
  const PAGE = 20;
  const $ = (id) => document.getElementById(id);
  const say = (text) => { $('status').textContent = text; };

  async function inflated(id) {
    const element = $(`data-${id}`);
    if (!element) return null;
    const packed = Uint8Array.from(atob(element.textContent), (letter) => letter.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream('deflate-raw'));
    return new Response(stream).arrayBuffer();
  }
  const json = async (id) => {
    const bytes = await inflated(id);
    return bytes && JSON.parse(new TextDecoder().decode(bytes));
  };

  function make(tag, text, name) {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    if (name) element.className = name;
    return element;
  }
  function fill(select, texts) {
    select.replaceChildren(...texts.map((text, value) => {
      const option = make('option', text);
      option.value = String(value);
      return option;
    }));
  }

  let data, sheet, number = 0, codes = [], chosen = [], page = 0;
  const written = new Map();

  async function rationales(run) {
    const id = `rationales-${number}-${run}`;
    if (!written.has(id)) written.set(id, await json(id));
    return written.get(id);
  }

  const answer = (example, run) => {
    const at = codes[number].start + example * sheet.runs.length + run;
    const size = sheet.ids.length * sheet.runs.length;
    const code = codes.bytes[at] | (codes.bytes[at + size] << 8);
    const [label, right] = sheet.answers[example][code];
    return { label: data.labels[label], right: right === 1 };
  };
  const teacherRight = (example) => sheet.teacher !== null && sheet.teacher.right[example] === 1;

  const FILTERS = {
    flips: (e, a, b) => a !== b,
    a: (e, a, b) => a && !b,
    b: (e, a, b) => !a && b,
    neither: (e, a, b) => !a && !b,
    both: (e, a, b) => a && b,
    teacher: (e, a) => teacherRight(e) && !a,
    student: (e, a) => a && !teacherRight(e),
    all: () => true,
  };

  function choose() {
    const [a, b] = ['run-a', 'run-b'].map((id) => Number($(id).value));
    const wanted = $('find').value.trim().toLowerCase();
    const passes = FILTERS[$('which').value];
    chosen = [];
    for (let e = 0; e < sheet.ids.length; e++) {
      if (!passes(e, answer(e, a).right, answer(e, b).right)) continue;
      if (wanted && !sheet.inputs[e].toLowerCase().includes(wanted)) continue;
      chosen.push(e);
    }
    page = 0;
    show();
  }

  function line(list, term, label, right, why) {
    list.append(make('dt', term));
    const value = make('dd');
    if (right === null) value.append(label || '(blank)');
    else value.append(make('span', `${label || '(blank)'} ${right ? '✓ right' : '✗ wrong'}`, right ? 'right' : 'wrong'));
    if (why) value.append(make('span', why, 'why'));
    list.append(value);
  }

  function others(example) {
    const list = make('ul', undefined, 'others');
    sheet.runs.forEach((run, place) => {
      const said = answer(example, place);
      const item = make('li', `${run.label}: `);
      item.append(make('span', `${said.label || '(blank)'} ${said.right ? '✓' : '✗'}`, said.right ? 'right' : 'wrong'));
      const texts = written.get(`rationales-${number}-${place}`);
      if (texts && texts[example]) item.append(make('span', texts[example], 'why'));
      list.append(item);
    });
    return list;
  }

  async function card(example) {
    const article = make('article');
    article.append(make('h3', `Example ${sheet.ids[example]}`), make('p', sheet.inputs[example], 'asked'));
    const list = make('dl');
    line(list, 'Gold', data.labels[sheet.golds[example]], null);
    const why = sheet.rationales && sheet.rationales[example];
    if (sheet.teacher) line(list, 'Teacher', data.labels[sheet.teacher.labels[example]], teacherRight(example), why);
    else if (why) line(list, 'Teacher', 'its rationale:', null, why);
    for (const [name, id] of [['First', 'run-a'], ['Second', 'run-b']]) {
      const run = Number($(id).value), said = answer(example, run), texts = await rationales(run);
      line(list, `${name}: ${sheet.runs[run].name}`, said.label, said.right, texts && texts[example]);
    }
    article.append(list);
    let right = 0;
    for (let run = 0; run < sheet.runs.length; run++) right += answer(example, run).right ? 1 : 0;
    const details = make('details');
    details.append(make('summary', `${right} of ${sheet.runs.length} students are right`));
    details.addEventListener('toggle', async () => {
      if (!details.open || details.childElementCount > 1) return;
      for (let run = 0; run < sheet.runs.length; run++) await rationales(run);
      if (details.childElementCount === 1) details.append(others(example));
    });
    article.append(details);
    return article;
  }

  let turn = 0;
  async function show() {
    const mine = ++turn;
    const shown = chosen.slice(page * PAGE, (page + 1) * PAGE);
    const cards = [];
    for (const example of shown) cards.push(await card(example));
    if (mine !== turn) return;  // another choice came meanwhile
    $('list').replaceChildren(...cards);
    const pages = Math.max(1, Math.ceil(chosen.length / PAGE));
    say(`${chosen.length} of ${sheet.ids.length} examples; page ${page + 1} of ${pages}.`);
    $('before').disabled = page === 0;
    $('after').disabled = page + 1 >= pages;
    $('pager').hidden = pages === 1;
  }

  function open() {
    number = Number($('sheet').value);
    sheet = data.sheets[number];
    const texts = sheet.runs.map((run) => `${run.label} (${run.accuracy} %)`);
    fill($('run-a'), texts);
    fill($('run-b'), texts);
    $('run-a').value = String(sheet.first[0]);
    $('run-b').value = String(sheet.first[1]);
    for (const value of ['teacher', 'student']) {
      $('which').querySelector(`[value=${value}]`).disabled = sheet.teacher === null;
    }
    choose();
  }

  async function examples() {
    data = await json('examples');
    if (!data || !data.sheets.length) return;
    codes.bytes = new Uint8Array(await inflated('codes'));
    let start = 0;
    codes.push(...data.sheets.map((one) => {
      const place = { start };
      start += 2 * one.ids.length * one.runs.length;
      return place;
    }));
    fill($('sheet'), data.sheets.map((one, at) => `${at + 1}: ${one.task}, ${one.ids.length} examples, ${one.runs.length} students`));
    $('sheet').addEventListener('change', open);
    for (const id of ['run-a', 'run-b', 'which']) $(id).addEventListener('change', choose);
    $('find').addEventListener('input', choose);
    $('browser').addEventListener('submit', (event) => event.preventDefault());
    const move = (by) => () => { page += by; show(); $('examples').scrollIntoView(); };
    $('before').addEventListener('click', move(-1));
    $('after').addEventListener('click', move(1));
    $('browser').hidden = false;
    open();
  }

  async function configurations() {
    const texts = await json('configs');
    const names = Object.keys(texts || {}).filter((name) => texts[name]);
    if (!names.length) return;
    fill($('run-c'), names);
    const change = () => { $('config').textContent = texts[names[Number($('run-c').value)]]; };
    $('run-c').addEventListener('change', change);
    $('settings').hidden = false;
    change();
  }

  if (typeof DecompressionStream === 'undefined') {
    say('This browser cannot inflate what is packed in this file; a newer one can.');
  } else {
    examples().catch((error) => say(`The examples cannot be shown: ${error.message}`));
    configurations().catch((error) => say(`The configurations cannot be shown: ${error.message}`));
  }
})();
