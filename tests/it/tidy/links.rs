//! The pages: short, linked, and no link of theirs leads nowhere.

use std::collections::BTreeSet;

use super::{
    none,
    source::{exists, paths, read},
};

const README_LINES_MAX: usize = 200;
const COLUMNS_MAX: usize = 120;

/// One page.
struct Page {
    /// From the top of the repository.
    path: String,
    text: String,
}

impl Page {
    /// Every link to something in the repository: the path from the top, and the anchor, which may be empty.
    fn links(&self) -> Vec<(String, String)> {
        let folder = self.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let mut links = Vec::new();
        for target in targets(&self.text) {
            if target.contains("://") {
                continue;
            }
            let (path, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let path = if path.is_empty() { self.path.clone() } else { resolve(folder, path) };
            links.push((path, anchor.to_owned()));
        }
        links
    }
}

/// All pages, those in `docs/` last.
fn pages() -> Vec<Page> {
    let mut names = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"].map(str::to_owned).to_vec();
    names.extend(paths(&["docs"]).into_iter().filter(|path| path.ends_with(".md")));
    names.into_iter().map(|path| Page { text: read(&path), path }).collect()
}

/// `path` as somebody in `folder` means it.
fn resolve(folder: &str, path: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in path.split('/') {
        match part {
            ".." => drop(parts.pop()),
            "" | "." => {}
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// The lines that are no code.
fn prose(text: &str) -> Vec<&str> {
    let mut is_code = false;
    let mut prose = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
        } else if !is_code {
            prose.push(line);
        }
    }
    prose
}

/// What is in the round brackets of each link and picture.
fn targets(text: &str) -> Vec<String> {
    let prose = prose(text).join("\n");
    let without_code: String = prose.split('`').step_by(2).collect();
    let after = without_code.split("](").skip(1);
    after.filter_map(|rest| Some(rest.split_once(')')?.0.to_owned())).collect()
}

/// The anchors of the headings, as GitHub makes them.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = prose(text)
        .into_iter()
        .filter_map(|line| line.trim_start_matches('#').strip_prefix(' ').filter(|_| line.starts_with('#')));
    let anchor = |heading: &str| {
        let kept = heading.to_lowercase().replace(' ', "-");
        kept.chars().filter(|c| c.is_alphanumeric() || *c == '-' || *c == '_').collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn every_link_leads_to_something() {
    let mut faults = Vec::new();
    let mut count = 0;
    for page in pages() {
        for (path, anchor) in page.links() {
            count += 1;
            if !exists(&path) {
                faults.push(format!("{}: there is no {path}", page.path));
            } else if !anchor.is_empty() && !anchors(&read(&path)).contains(&anchor) {
                faults.push(format!("{}: {path} has no #{anchor}", page.path));
            }
        }
    }
    assert!(count > 20, "links are found: {count}");
    none("a link leads nowhere", &faults);
}

#[test]
fn every_page_is_linked() {
    // A reader who begins at the README finds every page and every picture.
    let pages = pages();
    let mut reached = BTreeSet::from(["README.md".to_owned()]);
    let mut open = vec!["README.md".to_owned()];
    while let Some(path) = open.pop() {
        let Some(page) = pages.iter().find(|page| page.path == path) else { continue };
        for (path, _) in page.links() {
            if reached.insert(path.clone()) {
                open.push(path);
            }
        }
    }
    let mut all = paths(&["docs"]);
    all.extend(pages.into_iter().map(|page| page.path));
    assert!(all.len() > 5, "pages are found: {all:?}");
    let faults: Vec<String> = all.into_iter().filter(|path| !reached.contains(path)).collect();
    none("no way leads there from README.md", &faults);
}

#[test]
fn pages_can_be_read_at_a_sitting() {
    let mut faults = Vec::new();
    for page in pages() {
        let lines = page.text.lines().count();
        if page.path == "README.md" && lines > README_LINES_MAX {
            faults.push(format!("README.md has {lines} lines, and may have {README_LINES_MAX}"));
        }
        // A row of a table cannot be wrapped.
        let wide = |line: &str| line.chars().count() > COLUMNS_MAX && !line.starts_with('|');
        let wide = page.text.lines().zip(1..).filter(|(line, _)| wide(line));
        faults.extend(wide.map(|(_, at)| format!("{}:{at}: more than {COLUMNS_MAX} columns", page.path)));
        // The first sentence says what the page is for.
        let purpose = page.text.lines().nth(2).unwrap_or_default();
        if page.path.starts_with("docs/") && !purpose.starts_with("This page is for ") {
            faults.push(format!("{}:3: \"{purpose}\" does not say who the page is for", page.path));
        }
    }
    none("not easy to read", &faults);
}

#[test]
fn links_are_read_as_they_are_written() {
    // The control of the other tests, on a page that has every case.
    let text = "# One\n[a](b.md#c) and `[no](code)`, [two\nlines](../x.md)\n![picture](p.png) [far](https://e.org/#f)\n\
                ```sh\n# [no](fence)\n```\n## The broker's `own/events`\n[here](#one)\n#none\n";
    let page = Page { path: "docs/page.md".to_owned(), text: text.to_owned() };
    let links = page.links();
    let links: Vec<(&str, &str)> = links.iter().map(|(path, anchor)| (path.as_str(), anchor.as_str())).collect();
    assert_eq!(links, [("docs/b.md", "c"), ("x.md", ""), ("docs/p.png", ""), ("docs/page.md", "one")]);
    let found = anchors(text);
    assert_eq!(found.iter().map(String::as_str).collect::<Vec<_>>(), ["one", "the-brokers-ownevents"]);
}
