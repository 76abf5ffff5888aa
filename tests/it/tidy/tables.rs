//! What the documents say in tables is what the program has: they are made of its enums and settings.
//!
//! `TIDINGS_RENEW=1 cargo test --test it tidy::tables` writes what differs.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use tidings::{
    config::{checklist, document},
    frame::GapReason,
    http::Code,
    hub::End,
};

use super::source::{first_word, paths, read, rust, words, write};

/// Set, it makes these tests write what differs rather than fail.
const RENEW: &str = "TIDINGS_RENEW";

/// Two tests may write the same document.
static DOCUMENTS: Mutex<()> = Mutex::new(());

/// The documents: their paths and texts.
fn documents() -> Vec<(String, String)> {
    let mut documents = vec![("README.md".to_owned(), read("README.md"))];
    // Pictures are there, too.
    let pages = paths(&["docs"]).into_iter().filter(|path| path.ends_with(".md"));
    documents.extend(pages.map(|path| (path.clone(), read(&path))));
    documents
}

/// `text` with other rows in its table with this header row; `None` when it has no such table.
fn with_rows(text: &str, header: &str, rows: &[String]) -> Option<String> {
    let lines: Vec<&str> = text.split('\n').collect();
    let header_at = lines.iter().position(|line| *line == header)?;
    // The line of dashes is part of the head.
    let (head, rest) = lines.split_at(header_at + 2);
    let after = rest.iter().position(|line| !line.starts_with('|')).unwrap_or(rest.len());
    let lines = head.iter().copied().chain(rows.iter().map(String::as_str)).chain(rest[after..].iter().copied());
    Some(lines.collect::<Vec<_>>().join("\n"))
}

/// The first line that differs, as it is and as it must be.
fn difference(is: &str, must_be: &str) -> Option<String> {
    let lines = |text: &str| text.split('\n').map(str::to_owned).collect::<Vec<_>>();
    let (is, must_be) = (lines(is), lines(must_be));
    let at = (0..is.len().max(must_be.len())).find(|at| is.get(*at) != must_be.get(*at))?;
    let line = |lines: &[String]| lines.get(at).cloned().unwrap_or_else(|| "(the end)".to_owned());
    Some(format!("line {}\n  is:      {}\n  must be: {}", at + 1, line(&is), line(&must_be)))
}

/// Fails when a file differs from what the program makes of itself, or writes the file when `TIDINGS_RENEW` is set.
fn check(path: &str, is: &str, must_be: &str) {
    let Some(difference) = difference(is, must_be) else { return };
    if std::env::var_os(RENEW).is_some() {
        return write(path, must_be);
    }
    panic!("{path}, {difference}\n`{RENEW}=1 cargo test --test it tidy::tables` writes it");
}

/// Fails unless one document has one table with this header row, and that has these rows.
fn check_table(header: &str, rows: &[String]) {
    let _alone = DOCUMENTS.lock().unwrap_or_else(PoisonError::into_inner);
    let documents = documents();
    let count = documents.iter().flat_map(|(_, text)| text.split('\n')).filter(|line| *line == header).count();
    assert_eq!(count, 1, "README.md or a file in docs has the table `{header}`, and only once");
    for (path, text) in documents {
        if let Some(must_be) = with_rows(&text, header, rows) {
            check(&path, &text, &must_be);
        }
    }
}

/// The names of the variants of an enum without fields, as its source lists them.
fn variants(path: &str, name: &str) -> Vec<String> {
    let text = read(path);
    let begin = text.find(&format!("\npub enum {name} {{\n")).unwrap_or_else(|| panic!("{path} has the enum {name}"));
    let lines = text[begin + 1..].lines().skip(1).take_while(|line| *line != "}").map(str::trim);
    let names = lines.filter(|line| line.starts_with(|c: char| c.is_ascii_uppercase())).map(first_word);
    names.map(str::to_owned).collect()
}

/// Fails unless `all` has each variant of the enum, in order.
fn check_all<T: std::fmt::Debug>(path: &str, name: &str, all: &[T]) {
    let all: Vec<String> = all.iter().map(|variant| format!("{variant:?}")).collect();
    assert_eq!(all, variants(path, name), "{name}::ALL has each variant of {name}, in order");
}

#[test]
fn every_code_of_a_problem_is_documented_with_its_status_and_meaning() {
    // Clients branch on codes: the documents have each of them, and no other.
    check_all("src/http/code.rs", "Code", Code::ALL);
    let product: String = rust(&["src"]).into_iter().map(|file| file.code).collect();
    for code in Code::ALL {
        assert!(words(&product, &format!("Code::{code:?}")).next().is_some(), "{code:?} is sent by something");
    }
    let row = |code: &Code| format!("| `{}` | {} | {} |", code.as_str(), code.status().as_u16(), code.meaning());
    check_table("| code | status | |", &Code::ALL.iter().map(row).collect::<Vec<_>>());
}

#[test]
fn the_shipped_configuration_is_the_defaults() {
    check("config.toml", &read("config.toml"), &document::toml());
}

#[test]
fn every_key_is_documented_with_its_default_and_meaning() {
    let table = document::markdown();
    let lines: Vec<String> = table.lines().map(str::to_owned).collect();
    check_table(&lines[0], &lines[2..]);
}

#[test]
fn the_checklist_is_that_of_the_program() {
    // What `--check` asks about and what the page advises come from the same items.
    let quoted = |keys: &[&str]| keys.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
    let row = |item: &checklist::Item| format!("| {} | {} | {} |", item.advice, quoted(item.keys), item.asked);
    check_table("| item | key | `--check` asks if |", &checklist::ITEMS.iter().map(row).collect::<Vec<_>>());
}

#[test]
fn every_reason_of_a_gap_is_documented() {
    check_all("src/frame.rs", "GapReason", GapReason::ALL);
    let reasons: Vec<&str> = GapReason::ALL.iter().map(|reason| reason.as_str()).collect();
    let told = format!("| `broker.gap` | `{{\"reason\":\"{}\",", reasons.join("\\|"));
    let documents = documents();
    let rows = documents.iter().flat_map(|(_, text)| text.lines()).filter(|line| line.starts_with(&told)).count();
    assert_eq!(rows, 1, "one document has a row that begins with {told}");
}

#[test]
fn every_end_of_a_stream_has_a_word_of_its_own() {
    check_all("src/hub/end.rs", "End", End::ALL);
    let words: BTreeSet<&str> = End::ALL.iter().map(|end| end.as_str()).collect();
    assert_eq!(words.len(), End::ALL.len(), "{words:?}");
}

#[test]
fn tables_are_found_and_compared_as_they_are_written() {
    // The control of the other tests.
    let page = "# T\n| a | b |\n|---|---|\n| 1 | 2 |\n| 3 | 4 |\n\nText\n| a |\n";
    let rows = ["| 5 | 6 |".to_owned()];
    let renewed = with_rows(page, "| a | b |", &rows).expect("it has the table");
    assert_eq!(renewed, "# T\n| a | b |\n|---|---|\n| 5 | 6 |\n\nText\n| a |\n");
    assert_eq!(with_rows(page, "| b | a |", &rows), None);
    assert_eq!(with_rows("| a |\n|---|", "| a |", &rows).as_deref(), Some("| a |\n|---|\n| 5 | 6 |"), "at the end");
    assert_eq!(difference(page, page), None);
    assert_eq!(difference("a\nb", "a\nc").as_deref(), Some("line 2\n  is:      b\n  must be: c"));
    assert_eq!(difference("a", "a\n").as_deref(), Some("line 2\n  is:      (the end)\n  must be: "));
}
