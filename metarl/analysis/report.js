// Headings of tables sort their rows: numbers from the highest, texts from the first; once more turns it round.
for (const table of document.querySelectorAll("table")) {
  table.querySelectorAll("thead th").forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    const numeric = head.classList.contains("number");
    const value = (row) => {
      const cell = row.cells[column];
      const text = cell.dataset.value ?? cell.textContent;
      return numeric ? (text === "" ? NaN : Number(text)) : text;
    };
    button.addEventListener("click", () => {
      const before = head.getAttribute("aria-sort");
      const up = before === null ? !numeric : before === "descending";
      const rows = [...table.tBodies[0].rows].map((row) => [value(row), row]);
      const empty = (key) => Number.isNaN(key);
      rows.sort(([a], [b]) => {
        if (empty(a) || empty(b)) return empty(a) - empty(b);
        return (up ? 1 : -1) * (numeric ? a - b : a.localeCompare(b));
      });
      table.tBodies[0].append(...rows.map(([, row]) => row));
      table.querySelectorAll("[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
    });
  });
}
