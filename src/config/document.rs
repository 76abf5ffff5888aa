//! The configuration as documents: the shipped `config.toml`, and the table of keys in the documentation.

use std::fmt::Write as _;

use super::sections::Config;
use super::setting::SETTINGS;

const HEAD: &str = "\
# Tidings' built-in defaults, every key. A copy need only keep what it changes.
# A key is also set by its environment variable: log.age_max is TIDINGS__LOG__AGE_MAX.
# Durations and sizes carry their unit: 500ms, 15s, 10m, 24h; 512B, 64KiB, 1MiB.
";

/// The defaults as a `config.toml`, with a comment above each key.
pub fn toml() -> String {
    let defaults = Config::default();
    let (mut text, mut section) = (HEAD.to_owned(), "");
    for setting in SETTINGS {
        if setting.section() != section {
            section = setting.section();
            line(&mut text, format_args!("\n[{section}]"));
        }
        line(&mut text, format_args!("# {}", setting.about()));
        line(&mut text, format_args!("{} = {}", setting.name(), setting.value(&defaults)));
    }
    text
}

/// The table of keys, in Markdown.
pub fn markdown() -> String {
    let defaults = Config::default();
    let mut text = "| key | default | |\n|---|---|---|\n".to_owned();
    for setting in SETTINGS {
        let (key, default, about) = (setting.key, setting.value(&defaults), setting.about());
        line(&mut text, format_args!("| `{key}` | `{default}` | {about} |"));
    }
    text
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    let written = writeln!(text, "{line}");
    debug_assert!(written.is_ok(), "text, into memory");
}
