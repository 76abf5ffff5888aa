//! The tables in `docs/` say what is, all of it and nothing else.

use std::collections::BTreeSet;

use super::source::read;

type Names = BTreeSet<String>;

const API: &str = "docs/api.md";

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

fn same(page: &str, code: &Names, told: &Names) {
    let missing: Vec<_> = code.difference(told).collect();
    let unknown: Vec<_> = told.difference(code).collect();
    assert!(missing.is_empty() && unknown.is_empty(), "{page} lacks {missing:?}, the code lacks {unknown:?}");
}

#[test]
fn every_route_is_on_the_page_and_no_other() {
    // A row of the table under `## Routes` begins with each route, such as `GET /subscribe?topic=T`; the page's own parts are not routes to use.
    let serve = read("src/http/serve.rs");
    let paths = serve.split("(\"/").skip(1).filter_map(|rest| rest.split('"').next());
    let route = |path: &str| match path {
        "topics/" => "/topics/{topic}".to_owned(),
        // It follows the topic.
        "subscribers" => "/topics/{topic}/subscribers".to_owned(),
        "subscribers/" => "/subscribers/{id}".to_owned(),
        "subjects/" => "/subjects/{name}".to_owned(),
        path => format!("/{path}"),
    };
    let mut routes: Names = paths.map(route).collect();
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
    // The control of the other test.
    let page = "# T\n## Routes\n| `GET\\|PUT /a` | b |\n### Each\n| c |\n## Next\n| d |\n";
    assert_eq!(rows(section(page, "## Routes")), [vec!["`GET|PUT /a`", "b"], vec!["c"]]);
    assert_eq!(quoted("`a` and `b c`, d").collect::<Vec<_>>(), ["a", "b c"]);
}
