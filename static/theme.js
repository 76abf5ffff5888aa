// Applies the remembered theme before the first paint; app.js owns the button that changes it.
// Without a remembered choice the page follows the system (see color-scheme in style.css).
(() => {
  let theme = null;
  try {
    theme = localStorage.getItem('tidings.theme');
  } catch {
    // Storage can be denied altogether; the system's theme is a fine answer then.
  }
  if (theme === 'light' || theme === 'dark') document.documentElement.dataset.theme = theme;
})();
