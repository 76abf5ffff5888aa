//! Writes the defaults as `config.toml`, and as the table of keys in the documentation.

use super::sections::Config;
use super::table::SETTINGS;

const HEAD: &str = "\
# Tidings' built-in defaults, every key. A copy need only keep what it changes.
# A key is also set by its environment variable: log.age_max is TIDINGS__LOG__AGE_MAX.
# Durations and sizes carry their unit: 500ms, 15s, 10m, 24h; 512B, 64KiB, 1MiB.
";

/// The defaults as `config.toml`, with a comment above each key.
pub fn toml() -> String {
    let defaults = Config::default();
    let (mut parts, mut section) = (vec![HEAD.to_owned()], "");
    for setting in SETTINGS {
        if setting.section() != section {
            section = setting.section();
            parts.push(format!("\n[{section}]\n"));
        }
        parts.push(format!("# {}\n", setting.about()));
        // A key with a value could not have tables of its name as well.
        if !setting.is_tables() {
            parts.push(format!("{} = {}\n", setting.name(), setting.value(&defaults)));
        }
    }
    parts.concat()
}

/// The table of keys, in Markdown.
pub fn markdown() -> String {
    let defaults = Config::default();
    let mut parts = vec!["| key | default | |\n|---|---|---|\n".to_owned()];
    for setting in SETTINGS {
        parts.push(format!("| `{}` | `{}` | {} |\n", setting.key, setting.value(&defaults), setting.about()));
    }
    parts.concat()
}
