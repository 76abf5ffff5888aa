//! The files of this repository, and just enough reading of Rust to check them.

use std::path::{Path, PathBuf};

/// One file.
pub struct Source {
    /// From the top of the repository, with `/`.
    pub path: String,
    pub text: String,
    /// Rust with comments and literals blanked out, line for line; empty for anything else.
    pub code: String,
}

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A file at the top.
pub fn read(path: &str) -> String {
    std::fs::read_to_string(top().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Writes a file at the top.
pub fn write(path: &str, text: &str) {
    std::fs::write(top().join(path), text).unwrap_or_else(|error| panic!("{path}: {error}"));
}

/// The path of every file under these folders; one that does not exist has none.
pub fn paths(folders: &[&str]) -> Vec<String> {
    let mut paths = Vec::new();
    for folder in folders {
        walk(&top().join(folder), &mut paths);
    }
    paths.sort();
    let name = |path: PathBuf| {
        path.strip_prefix(top()).expect("it is below").to_str().expect("a name in UTF-8").replace('\\', "/")
    };
    paths.into_iter().map(name).collect()
}

/// Whether there is such a file or folder.
pub fn exists(path: &str) -> bool {
    top().join(path).exists()
}

/// Every file under these folders.
pub fn files(folders: &[&str]) -> Vec<Source> {
    let source = |path: String| {
        let text = read(&path);
        let code = if path.ends_with(".rs") { code(&text) } else { String::new() };
        Source { path, text, code }
    };
    paths(folders).into_iter().map(source).collect()
}

/// Every Rust file under these folders.
pub fn rust(folders: &[&str]) -> Vec<Source> {
    let mut files = files(folders);
    files.retain(|file| file.path.ends_with(".rs"));
    files
}

fn walk(folder: &Path, paths: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            walk(&path, paths);
        } else {
            paths.push(path);
        }
    }
}

/// `text` with blanks for what is in comments, strings and characters.
pub fn code(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let blank = blank_len(rest, code.ends_with(is_word));
        let (taken, left) = rest.split_at(blank.unwrap_or(first.len_utf8()));
        match blank {
            Some(_) => code.extend(taken.chars().map(|c| if c == '\n' { c } else { ' ' })),
            None => code.push(first),
        }
        rest = left;
    }
    code
}

/// The length of the comment or literal that `rest` begins with.
fn blank_len(rest: &str, after_word: bool) -> Option<usize> {
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return Some(rest.find("*/").map_or(rest.len(), |at| at + 2));
    }
    let raw = rest.strip_prefix("br").or_else(|| rest.strip_prefix('r')).unwrap_or_default();
    let hashes = raw.len() - raw.trim_start_matches('#').len();
    if !after_word && raw[hashes..].starts_with('"') {
        let begin = rest.len() - raw.len() + hashes + 1;
        let end = format!("\"{}", &raw[..hashes]);
        return Some(rest[begin..].find(&end).map_or(rest.len(), |at| begin + at + end.len()));
    }
    if rest.starts_with('"') {
        return Some(quoted_len(rest, '"'));
    }
    // A lifetime has no second quote; a character has it after one character or one escape.
    let mut inside = rest.strip_prefix('\'')?.chars();
    let is_char = inside.next() == Some('\\') || inside.next() == Some('\'');
    is_char.then(|| quoted_len(rest, '\''))
}

fn quoted_len(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Where `word` stands in `code` as a whole word.
pub fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + use<'a> {
    code.match_indices(word).map(|(at, _)| at).filter(move |at| {
        let before = code[..*at].ends_with(is_word) && word.starts_with(is_word);
        let after = code[at + word.len()..].starts_with(is_word) && word.ends_with(is_word);
        !before && !after
    })
}

/// The word that `text` begins with.
pub fn first_word(text: &str) -> &str {
    &text[..text.find(|c| !is_word(c)).unwrap_or(text.len())]
}

/// The length of what `text` begins with up to the end of its first bracket.
pub fn bracket_len(text: &str) -> Option<usize> {
    let mut depth = 0;
    text.char_indices().find_map(|(at, c)| {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            _ => return None,
        }
        (depth == 0).then_some(at + 1)
    })
}

/// Names of the crate's modules that `code` uses, `use crate::{…}` included.
pub fn crate_names(code: &str) -> Vec<&str> {
    let mut names = Vec::new();
    for at in words(code, "crate") {
        let Some(path) = code[at..].strip_prefix("crate::") else { continue };
        let Some(group) = path.strip_prefix('{') else {
            names.push(first_word(path));
            continue;
        };
        let group = &group[..bracket_len(path).map_or(group.len(), |len| len - 2)];
        names.extend(parts(group).map(first_word).filter(|name| !name.is_empty()));
    }
    names
}

/// Every path in `code`, such as `super::hub::Hub`; those of a `use {…}` one by one.
pub fn uses_of(code: &str) -> Vec<String> {
    let pieces = code.split(|c: char| !is_word(c) && c != ':').map(|path| path.trim_matches(':'));
    let mut uses: Vec<String> = pieces.filter(|path| path.contains("::")).map(str::to_owned).collect();
    for at in words(code, "use") {
        let tree = &code[at + 3..];
        expand("", &tree[..tree.find(';').unwrap_or(tree.len())], &mut uses);
    }
    uses
}

/// Adds the paths of a `use` tree, each behind `prefix`.
fn expand(prefix: &str, tree: &str, uses: &mut Vec<String>) {
    let tree = tree.trim();
    let Some((head, group)) = tree.split_once('{') else {
        uses.push(format!("{prefix}{}", tree.split_whitespace().next().unwrap_or_default()));
        return;
    };
    let prefix = format!("{prefix}{head}");
    let group = group.rsplit_once('}').map_or(group, |(group, _)| group);
    for part in parts(group) {
        expand(&prefix, part, uses);
    }
}

/// The parts of a group in a `use` tree, groups within them whole.
fn parts(group: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0;
    let parts = group.split(move |c| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        c == ',' && depth == 0
    });
    // A comma may end the last part.
    parts.map(str::trim).filter(|part| !part.is_empty())
}

/// Name, first line and number of lines of each function.
pub fn functions(code: &str) -> Vec<(&str, usize, usize)> {
    let mut functions = Vec::new();
    for at in words(code, "fn") {
        let name = first_word(code[at + 2..].trim_start());
        // Not a function's type, which has no name, nor a function without a body.
        let Some(body) = (!name.is_empty()).then(|| body(&code[at..])).flatten() else { continue };
        let line = code[..at].matches('\n').count() + 1;
        functions.push((name, line, code[at..at + body].matches('\n').count() + 1));
    }
    functions
}

/// The length of a function up to the end of its body.
fn body(function: &str) -> Option<usize> {
    let mut depth = 0;
    for (at, c) in function.char_indices() {
        match c {
            '(' | '[' => depth += 1,
            ')' | ']' => depth -= 1,
            ';' if depth == 0 => return None,
            '{' if depth == 0 => return bracket_len(&function[at..]).map(|len| at + len),
            _ => {}
        }
    }
    None
}
