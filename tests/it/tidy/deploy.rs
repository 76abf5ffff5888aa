//! What `deploy/` sets in the environment is known to the server.

use std::collections::BTreeSet;

use tidings::config::document;

use super::{none, source::files};

const PREFIX: &str = "TIDINGS__";
/// The longest comment.
const COLUMNS_MAX: usize = 120;

/// The variables that `text` names.
fn variables(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let rests = text.split(PREFIX).skip(1);
    rests.map(|rest| format!("{PREFIX}{}", rest.split(|c| !is_part(c)).next().unwrap_or_default())).collect()
}

/// The variables of all keys, as the table of keys has them.
fn known() -> BTreeSet<String> {
    let table = document::markdown();
    let keys = table.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    keys.map(|key| format!("{PREFIX}{}", key.to_uppercase().replace('.', "__"))).collect()
}

#[test]
fn every_setting_in_deploy_exists() {
    // Goal: the server refuses to start with a variable that it does not know, so no file may set one.
    let known = known();
    assert!(known.contains("TIDINGS__SERVER__HOST"), "{known:?}");
    let (mut faults, mut count) = (Vec::new(), 0);
    for file in files(&["deploy"]) {
        let found = variables(&file.text);
        count += found.len();
        faults.extend(found.difference(&known).map(|name| format!("{}: {name}", file.path)));
    }
    assert!(count >= 5, "variables are found: {count}");
    none("the server does not know these variables", &faults);
}

#[test]
fn comments_in_deploy_can_be_read() {
    let mut faults = Vec::new();
    for file in files(&["deploy"]) {
        let is_long = |line: &str| line.trim_start().starts_with('#') && line.chars().count() > COLUMNS_MAX;
        let long = file.text.lines().zip(1..).filter(|(line, _)| is_long(line));
        faults.extend(long.map(|(_, at)| format!("{}:{at}: more than {COLUMNS_MAX} columns", file.path)));
    }
    none("too wide", &faults);
}

#[test]
fn variables_are_found_as_they_are_written() {
    // The control of the other test.
    let found = variables("ENV TIDINGS__A__B=1 \\\n - {name: TIDINGS__C__D_E, value: x}\nTIDINGS__A__B: 2");
    assert_eq!(found.into_iter().collect::<Vec<_>>(), ["TIDINGS__A__B", "TIDINGS__C__D_E"]);
}
