//! The tables in `docs/` say what is, all of it and nothing else.

use std::collections::BTreeSet;

use tidings::config::SETTINGS;

use super::source::read;

type Names = BTreeSet<String>;

const API: &str = "docs/api.md";
const CONFIGURATION: &str = "docs/configuration.md";

/// The rows of the tables in `text`: the cells of each.
fn rows(text: &str) -> Vec<Vec<String>> {
    let rows = text.lines().map(str::trim).filter_map(|line| line.strip_prefix('|')?.strip_suffix('|'));
    // A `\|` is a bar within a cell.
    let cells = |row: &str| row.replace("\\|", "\0").split('|').map(|cell| cell.trim().replace('\0', "|")).collect();
    rows.map(cells).collect()
}

/// What follows the heading, up to the next one of its level or above.
fn section<'a>(text: &'a str, heading: &str) -> &'a str {
    let level = heading.split(' ').next().unwrap_or_default().len();
    let begin = text.find(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("there is the heading `{heading}`"));
    let rest = &text[begin + heading.len() + 2..];
    let end = (1..=level).filter_map(|level| rest.find(&format!("\n{} ", "#".repeat(level)))).min();
    &rest[..end.unwrap_or(rest.len())]
}

/// The words in backticks.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

/// What of each row is in backticks and passes `is_name`, in the first cell that has any.
fn names(rows: &[Vec<String>], is_name: fn(&str) -> bool) -> Names {
    let name = |cell: &String| quoted(cell).filter(|word| is_name(word)).map(str::to_owned).collect();
    let of_row = |row: &Vec<String>| row.iter().map(name).find(|names: &Names| !names.is_empty());
    rows.iter().filter_map(of_row).flatten().collect()
}

fn same(page: &str, code: &Names, told: &Names) {
    let missing: Vec<_> = code.difference(told).collect();
    let unknown: Vec<_> = told.difference(code).collect();
    assert!(missing.is_empty() && unknown.is_empty(), "{page} lacks {missing:?}, the code lacks {unknown:?}");
}

fn is_code(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_lowercase())
        && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

fn is_key(word: &str) -> bool {
    word.split_once('.').is_some_and(|(section, name)| is_code(section) && is_code(name))
}

#[test]
fn every_key_is_on_the_page_and_no_other() {
    // The tables of the page have each key of the configuration.
    let keys: Names = SETTINGS.iter().map(|setting| setting.key.to_owned()).collect();
    same(CONFIGURATION, &keys, &names(&rows(&read(CONFIGURATION)), is_key));
}

#[test]
fn every_route_is_on_the_page_and_no_other() {
    // A row of the table under `## Routes` begins with each route, such as `GET /subscribe?topic=T`; the page's own parts are not routes to use.
    let serve = read("src/http/serve.rs");
    let exact = serve.split("\" => Some(Route::").filter_map(|before| before.rsplit('"').next());
    let mut routes: Names = exact.filter(|route| route.starts_with('/')).map(str::to_owned).collect();
    let prefixes = serve.split("path.strip_prefix(\"").skip(1).filter_map(|rest| rest.split('"').next());
    routes.extend(prefixes.map(|prefix| format!("{prefix}{{topic}}")));
    routes.insert("/".to_owned());
    assert!(routes.contains("/subscribe") && routes.contains("/topics/{topic}"), "{routes:?}");
    let mut told = Names::new();
    for row in rows(section(&read(API), "## Routes")) {
        let words = quoted(&row[0]).flat_map(|quoted| quoted.split(' ')).filter(|word| word.starts_with('/'));
        told.extend(words.map(|word| word.split(['?', '[']).next().unwrap_or_default().to_owned()));
    }
    same(API, &routes, &told);
}

#[test]
fn a_page_is_read_as_it_is_written() {
    // The control of the other tests, on a page that has every case.
    let page = "# T\n## Configuration\nAlso `x.y` in text.\n| key | is |\n|--|--|\n| `log.age_max` | as `a.b` |\n### Errors\n\
                | status | code |\n|---|:--|\n| 400 | `bad_topic`, `gap` | `topic` |\n## Next\n| `no_more` |\n";
    let keys = names(&rows(section(page, "## Configuration")), is_key);
    assert_eq!(keys, Names::from(["log.age_max".to_owned()]));
    assert_eq!(
        names(&rows(section(page, "### Errors")), is_code),
        Names::from(["bad_topic".to_owned(), "gap".to_owned()])
    );
    assert_eq!(rows("| `GET\\|PUT /a` | b |"), [["`GET|PUT /a`", "b"]]);
    assert!(!is_code("on_gap=fail") && !is_code("400") && !is_key("config"));
}
