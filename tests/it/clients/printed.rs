//! The code that the documentation prints, to be run as it is.

use std::path::Path;

fn read(path: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The first block of code of `docs/clients.md` below the heading `### name`.
pub fn code(name: &str) -> String {
    code_of("docs/clients.md", name)
}

/// The first block of code of a page below the heading `### name`.
pub fn code_of(page: &str, name: &str) -> String {
    block(&read(page), name).unwrap_or_else(|| panic!("{page} has no code below `### {name}`"))
}

fn block(page: &str, name: &str) -> Option<String> {
    let mut lines = page.lines().skip_while(|line| *line != format!("### {name}")).skip(1);
    // Another heading ends the section; within code it would be a comment.
    let fence = lines.find(|line| line.starts_with('#') || line.starts_with("```"))?;
    fence.starts_with("```").then(|| lines.take_while(|line| *line != "```").map(|line| format!("{line}\n")).collect())
}

#[test]
fn printed_code_is_found_where_it_stands() {
    let page = "# P\n```sh\nno\n```\n### a\ntext\n```go\n# one\n\ntwo\n```\nmore\n```\nthree\n```\n### b\n## c\n```\nfour\n```\n";
    assert_eq!(block(page, "a").as_deref(), Some("# one\n\ntwo\n"));
    assert_eq!(block(page, "b"), None, "what follows belongs to another heading");
    assert_eq!(block(page, "P"), None);
}

#[test]
fn the_versions_that_are_printed_are_the_ones_that_run() {
    let page = read("docs/clients.md");
    let row = |name: &str| {
        let row = page.lines().find(|line| line.starts_with(&format!("| **`{name}`**")));
        row.and_then(|row| row.split('|').nth(2)).unwrap_or_else(|| panic!("a row for {name}")).trim().to_owned()
    };
    let installed = |file: &str, before: &str, name: &str| {
        let text = read(file);
        let (_, version) = text.split_once(before).unwrap_or_else(|| panic!("{file} has {before}"));
        let version = version.split(|c: char| c != '.' && !c.is_ascii_digit()).next().expect("a first one");
        assert_eq!(row(name), version, "{name}");
    };
    let requirements = "tests/it/clients/python/requirements.txt";
    for name in ["requests", "sseclient-py", "httpx-sse"] {
        installed(requirements, &format!("\n{name}=="), name);
    }
    installed("tests/run", "event-source-polyfill@", "event-source-polyfill");
    installed("tests/run", " eventsource@", "eventsource");
    installed("tests/it/clients/go/go.mod", "r3labs/sse/v2 v", "r3labs/sse");
    installed("tests/it/clients/rust/Cargo.toml", "reqwest-eventsource = \"=", "reqwest-eventsource");
}
