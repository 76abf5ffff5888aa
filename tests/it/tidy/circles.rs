//! The order of the product's files. No file uses, over however many others, a file that uses it; and each file is listed
//! above those that it uses.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    none,
    source::{rust, uses_of},
};

/// For each file of the product, as a module path, the files that it names.
type Uses = BTreeMap<String, BTreeSet<String>>;

#[test]
fn files_form_no_circle() {
    // So the files can be read one after the other: none needs one that comes later to be understood.
    none("these files use each other", &circles(&uses(sources())));
}

#[test]
fn a_circle_is_found() {
    // The control.
    let file = |name: &str, code: &str| (name.to_owned(), code.to_owned());
    let sources = [
        file("a", "mod b; mod c; mod d; pub use b::B; fn f() { c::run() }"),
        file("a::b", "use super::c::{C, D,};"),
        file("a::c", "use crate::{a::{d::D}, event::X};"),
        file("a::d", "fn f(_: super::b::B) {}"),
        file("event", "use std::fmt;"),
    ];
    assert_eq!(circles(&uses(sources.into())), ["a::b, a::c, a::d"]);
}

#[test]
fn each_file_is_listed_above_those_that_it_uses() {
    // So the files of a module can be read in the order of its list, from the whole to the parts.
    let sources = sources();
    none("these files use one that is listed above them", &upward(&sources, &uses(sources.clone())));
}

#[test]
fn a_use_of_a_file_above_is_found() {
    // The control.
    let file = |name: &str, code: &str| (name.to_owned(), code.to_owned());
    let sources = vec![
        file("a", "mod b;\npub mod c;\nmod d;\n"),
        file("a::b", "use super::c::C;"),
        file("a::c", "use super::d;"),
        file("a::d", ""),
        file("a::d::e", "fn f(_: crate::a::b::B) {}"),
    ];
    assert_eq!(upward(&sources, &uses(sources.clone())), ["a::d::e uses a::b"]);
}

/// The uses of files that are listed above the file that uses them, or above its module.
fn upward(sources: &[(String, String)], uses: &Uses) -> Vec<String> {
    let mut found = Vec::new();
    for (module, code) in sources {
        let listed = code.lines().filter_map(|line| {
            let (_, name) = line.strip_suffix(';')?.split_once("mod ").filter(|(before, _)| !before.contains("//"))?;
            Some(format!("{module}::{name}"))
        });
        let listed: Vec<String> = listed.collect();
        let place = |name: &str| {
            let is_within = |file: &&String| name == **file || name.starts_with(&format!("{file}::"));
            listed.iter().rposition(|file| is_within(&file))
        };
        for (user, used) in uses {
            let Some(own) = place(user) else { continue };
            let above = used.iter().filter(|used| place(used).is_some_and(|other| other < own));
            found.extend(above.map(|used| format!("{user} uses {used}")));
        }
    }
    found
}

/// The module path and the code of each file, without tests.
fn sources() -> Vec<(String, String)> {
    let mut sources = Vec::new();
    for file in rust(&["src"]) {
        let name = file.path.trim_start_matches("src/").trim_end_matches(".rs").replace('/', "::");
        let is_test = name.split("::").any(|part| part == "tests" || part == "conformance");
        if name != "lib" && name != "main" && !is_test {
            let product = file.code.split("\nmod tests {").next().unwrap_or_default();
            sources.push((name, product.to_owned()));
        }
    }
    sources
}

fn uses(sources: Vec<(String, String)>) -> Uses {
    let names: BTreeSet<String> = sources.iter().map(|(name, _)| name.clone()).collect();
    let mut uses = Uses::new();
    for (name, code) in sources {
        let files = uses_of(&code).into_iter().filter_map(|path| file_of(&name, &path, &names));
        let others = files.filter(|file| *file != name).collect();
        uses.insert(name, others);
    }
    uses
}

/// The file that a path leads to, from the file `own`.
fn file_of(own: &str, path: &str, names: &BTreeSet<String>) -> Option<String> {
    let mut at: Vec<&str> = own.split("::").collect();
    let mut parts = path.split("::").peekable();
    match *parts.peek()? {
        "crate" => {
            at.clear();
            parts.next();
        }
        "super" => {
            while parts.next_if_eq(&"super").is_some() {
                at.pop();
            }
        }
        "self" => drop(parts.next()),
        child if names.contains(&format!("{own}::{child}")) => {}
        _ => return None,
    }
    for part in parts {
        at.push(part);
        if !names.contains(&at.join("::")) {
            at.pop();
            break;
        }
    }
    names.get(&at.join("::")).cloned()
}

/// The groups of files that use each other.
fn circles(uses: &Uses) -> Vec<String> {
    let reached: BTreeMap<&str, BTreeSet<&str>> = uses.keys().map(|name| (name.as_str(), reach(name, uses))).collect();
    let mut groups = BTreeSet::new();
    for (name, others) in &reached {
        let circle: Vec<&str> = others.iter().copied().filter(|other| reached[other].contains(name)).collect();
        if !circle.is_empty() {
            groups.insert(circle.join(", "));
        }
    }
    groups.into_iter().collect()
}

/// Every file that `name` uses, over however many others.
fn reach<'a>(name: &str, uses: &'a Uses) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut open: Vec<&str> = uses[name].iter().map(String::as_str).collect();
    while let Some(next) = open.pop() {
        if reached.insert(next) {
            open.extend(uses[next].iter().map(String::as_str));
        }
    }
    reached
}
