// Runs before the first paint, so that a chosen theme doesn't flash. A file of its own because the
// Content-Security-Policy allows no inline script.
try {
  const chosen = localStorage.getItem("winnow.theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch {
  // Storage is blocked: the system's preference holds.
}
