for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const key = (row, i) => row.cells[i].textContent.trim();
  const number = text => /^[+-]?[\d.]/.test(text) ? parseFloat(text.replace(/,/g, "")) : NaN;
  const order = (a, b) => {
    const [x, y] = [number(a), number(b)];
    if (!isNaN(x) && !isNaN(y)) return x - y;
    return isNaN(x) === isNaN(y) ? a.localeCompare(b, "en", {numeric: true}) : isNaN(x) ? 1 : -1;
  };
  heads.forEach((head, i) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const rows = [...body.rows].sort((a, b) => order(key(a, i), key(b, i)) * (up ? 1 : -1));
      body.append(...rows);
    });
  });
}
const closed = () => document.querySelectorAll("details:not([open]):not(.run)");
let opened = [];
addEventListener("beforeprint", () => { opened = [...closed()]; opened.forEach(d => d.open = true); });
addEventListener("afterprint", () => opened.forEach(d => d.open = false));
