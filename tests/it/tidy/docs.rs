//! The tables in `docs/` say what is, all of it and nothing else.

use std::collections::BTreeSet;

use super::source::{paths, read};

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
    let source = read("src/http/route.rs");
    let names = source.split("const NAMES").nth(1).and_then(|rest| rest.split("];").next()).expect("the names");
    let routes: Names =
        names.split('"').skip(1).step_by(2).filter(|name| *name != "other").map(str::to_owned).collect();
    assert!(routes.contains("/subscribe") && routes.contains("/topics/{topic}"), "{routes:?}");
    let mut told = Names::new();
    for row in rows(section(&read(API), "## Routes")) {
        let words = quoted(&row[0]).flat_map(|quoted| quoted.split(' ')).filter(|word| word.starts_with('/'));
        told.extend(words.map(|word| word.split(['?', '[']).next().unwrap_or_default().to_owned()));
    }
    same(API, &routes, &told);
}

#[test]
fn every_metric_is_on_the_page_and_no_other() {
    let sources = ["src/http/metrics.rs", "src/metrics/process.rs"].map(read).concat();
    let names = sources.split('"').skip(1).step_by(2);
    let is_metric = |name: &&str| name.starts_with("tidings_") || name.starts_with("process_");
    let metrics: Names = names.filter(is_metric).map(str::to_owned).collect();
    assert!(metrics.contains("tidings_streams_open") && metrics.contains("process_open_fds"), "{metrics:?}");
    let page = read("docs/metrics.md");
    let told = rows(section(&page, "## What there is")).into_iter().skip(2);
    let told: Names = told.flat_map(|row| quoted(&row[0]).map(str::to_owned).collect::<Vec<_>>()).collect();
    same("docs/metrics.md", &metrics, &told);
}

/// The tests in the table of threats: the cells of its last column.
fn tests_of_threats() -> Names {
    let page = read("docs/security.md");
    let rows = rows(section(&page, "## Threats"));
    assert!(rows.len() > 25, "the table is read");
    let mut told = Names::new();
    for row in &rows[2..] {
        let tests: Vec<&str> = quoted(&row[2]).collect();
        assert!(!tests.is_empty(), "{row:?} names a test");
        told.extend(tests.into_iter().map(str::to_owned));
    }
    told
}

/// The tests of a file, in the order in which they stand.
fn tests_in(text: &str) -> impl Iterator<Item = &str> {
    let attributes = text.split("\n#[").filter(|rest| rest.starts_with("test]") || rest.starts_with("tokio::test"));
    let begins = attributes.filter_map(|rest| rest.lines().nth(1));
    begins.filter_map(|line| line.split_once("fn ")?.1.split('(').next())
}

#[test]
fn every_threat_has_tests_that_exist() {
    // `a::b::name` is the test `name` in tests/it/a/b.rs, or in src/a/b.rs. Each test of the threats is in the table.
    let told = tests_of_threats();
    let files: Vec<String> = paths(&["tests/it", "src"]);
    for test in &told {
        let (module, name) = test.rsplit_once("::").unwrap_or_else(|| panic!("{test} has a module"));
        let path = module.replace("::", "/");
        let homes = [format!("tests/it/{path}.rs"), format!("src/{path}.rs")];
        let mut homes = homes.iter().filter(|home| files.contains(home));
        assert!(homes.any(|home| tests_in(&read(home)).any(|test| test == name)), "there is no test {test}");
    }
    for file in files.iter().filter(|file| file.starts_with("tests/it/hostile/threats")) {
        let module = file.trim_start_matches("tests/it/").trim_end_matches(".rs").replace('/', "::");
        for test in tests_in(&read(file)) {
            assert!(told.contains(&format!("{module}::{test}")), "{module}::{test} is not in the table of threats");
        }
    }
}

#[test]
fn tests_are_found_as_they_are_written() {
    // The control of the other test.
    let text = "\n#[test]\nfn one() {}\n#[allow]\nfn other() {}\n#[tokio::test(a)]\nasync fn two() {}\nfn three() {}\n";
    assert_eq!(tests_in(text).collect::<Vec<_>>(), ["one", "two"]);
}

#[test]
fn a_page_is_read_as_it_is_written() {
    // The control of the other test.
    let page = "# T\n## Routes\n| `GET\\|PUT /a` | b |\n### Each\n| c |\n## Next\n| d |\n";
    assert_eq!(rows(section(page, "## Routes")), [vec!["`GET|PUT /a`", "b"], vec!["c"]]);
    assert_eq!(quoted("`a` and `b c`, d").collect::<Vec<_>>(), ["a", "b c"]);
}
