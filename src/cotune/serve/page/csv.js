// Tables as people paste them: commas, semicolons or tabs, quotes as spreadsheets write them.

/** Return the rows of a table, each a list of cells; blank lines are left out. */
export function readTable(text) {
  const at = text.charCodeAt(0) === 0xfeff ? 1 : 0;
  const mark = separator(text.slice(at));
  const rows = [];
  let row = [];
  let cell = "";
  let quoted = false;
  const endRow = () => {
    row.push(cell);
    if (row.length > 1 || row[0].trim() !== "") rows.push(row);
    row = [];
    cell = "";
  };
  for (let i = at; i < text.length; i += 1) {
    const c = text[i];
    if (quoted) {
      if (c !== '"') cell += c;
      else if (text[i + 1] === '"') cell += text[(i += 1)];
      else quoted = false;
    } else if (c === '"' && cell === "") quoted = true;
    else if (c === mark) {
      row.push(cell);
      cell = "";
    } else if (c === "\n" || c === "\r") {
      if (c === "\r" && text[i + 1] === "\n") i += 1;
      endRow();
    } else cell += c;
  }
  if (cell !== "" || row.length) endRow();
  return rows;
}

/** Return the separator that the first line uses most, outside of quotes. */
function separator(text) {
  const first = text.replace(/"[^"]*"/g, "").split(/\r?\n|\r/, 1)[0];
  const marks = ["\t", ",", ";"].map((mark) => [mark, first.split(mark).length]);
  return marks.sort((a, b) => b[1] - a[1])[0][0];
}

/** Return rows as CSV. */
export function writeTable(rows) {
  const cell = (value) => {
    const text = value === null || value === undefined ? "" : String(value);
    return /[",\r\n]/.test(text) || text !== text.trim() ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return rows.map((row) => `${row.map(cell).join(",")}\r\n`).join("");
}
