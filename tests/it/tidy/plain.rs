//! Words that are not ours: private ones, which a reader would have to learn first.

use super::{
    none,
    source::{files, paths, read, words},
};

/// In code and text, in whatever case.
const PRIVATE: [&str; 16] = [
    "fullserver",
    "knock",
    "patience",
    "placement",
    "seat",
    "seats",
    "seldom",
    "shall",
    "shortway",
    "short_way",
    "tend",
    "tended",
    "told_to",
    "whoever",
    "wish",
    "wishes",
];
#[test]
fn no_private_word_is_left() {
    // Goal: a good engineer understands names and sentences at first reading; the list is of what was found, once.
    let mut faults = Vec::new();
    let mut texts: Vec<(String, String)> = files(&["src", "tests", "benches", "static", "deploy"])
        .into_iter()
        .map(|file| (file.path, file.text))
        .collect();
    let pages = paths(&["docs"]).into_iter().filter(|path| path.ends_with(".md"));
    texts.extend(pages.chain(["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"].map(str::to_owned)).map(
        |path| {
            let text = read(&path);
            (path, text)
        },
    ));
    texts.retain(|(path, _)| path != "tests/it/tidy/plain.rs" && !path.ends_with(".lock"));
    for (path, text) in texts {
        let lower = text.to_lowercase();
        let found = PRIVATE.iter().filter(|word| words(&lower, word).next().is_some());
        // As the word of a sentence it is fine.
        let found = found.copied().chain(words(&text, "Edge").map(|_| "Edge"));
        faults.extend(found.map(|word| format!("{path}: {word}")));
    }
    none("private words", &faults);
}
