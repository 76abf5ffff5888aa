//! The code that `docs/clients.md` prints, to be run as it is.

use std::path::Path;

/// The first block of code below the heading `### name`.
pub fn code(name: &str) -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/clients.md");
    let page = std::fs::read_to_string(page).expect("docs/clients.md");
    block(&page, name).unwrap_or_else(|| panic!("docs/clients.md has no code below `### {name}`"))
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
