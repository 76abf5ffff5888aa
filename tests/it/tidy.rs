//! What keeps the source as the design says it is.

mod circles;
mod deploy;
mod docs;
mod links;
mod plain;
mod source;
mod tables;

use std::collections::BTreeSet;

use source::{Source, crate_names, files, first_word, functions, rust, words};

const LINES_MAX: usize = 400;
const FUNCTION_LINES_MAX: usize = 70;

/// Fails with all faults at once.
fn none(rule: &str, faults: &[String]) {
    assert!(faults.is_empty(), "{rule}:\n  {}", faults.join("\n  "));
}

/// The top-level modules, in the order of `lib.rs`.
fn modules() -> Vec<String> {
    let lib = source::code(&source::read("src/lib.rs"));
    let modules: Vec<String> = words(&lib, "mod").map(|at| first_word(&lib[at + 4..]).to_owned()).collect();
    assert!(modules.len() > 5, "lib.rs lists the modules: {modules:?}");
    modules
}

/// The top-level module that a file belongs to.
fn module_of(path: &str) -> &str {
    first_word(path.strip_prefix("src/").unwrap_or_default())
}

#[test]
fn a_module_uses_only_modules_below_it() {
    // The order in `lib.rs` is the order of dependency: reading upwards, nothing refers to what is yet to come.
    let modules = modules();
    let place = |name: &str| modules.iter().position(|module| module == name);
    let mut faults = Vec::new();
    for file in rust(&["src"]) {
        let Some(own) = place(module_of(&file.path)) else { continue };
        let above = crate_names(&file.code).into_iter().filter(|name| place(name).is_some_and(|other| other < own));
        faults.extend(above.map(|name| format!("{}: crate::{name} is above it", file.path)));
        // Another way up, round the check.
        let around = modules.iter().filter(|name| words(&file.code, &format!("super::{name}::")).next().is_some());
        faults.extend(around.map(|name| format!("{}: say crate::{name}, not super::{name}", file.path)));
    }
    none("a module uses only modules below it in lib.rs", &faults);
}

#[test]
fn what_is_fenced_stays_behind_its_fence() {
    // Each crate or power that shapes the design is named in one place only.
    let http = |path: &str| path.starts_with("src/http") || path.starts_with("src/server");
    let fence = |file: &Source, name: &str, may: bool| {
        let used = words(&file.code, name).next().is_some();
        (used && !may).then(|| format!("{}: {name}", file.path))
    };
    let mut faults = Vec::new();
    for mut file in rust(&["src"]) {
        if file.path == "src/cli/serve.rs" {
            // The runtime that all runs in.
            file.code = file.code.replace("actix_web::rt::System::new()", "");
        }
        let path = file.path.as_str();
        faults.extend(fence(&file, "actix", module_of(path) == "topic"));
        faults.extend(fence(&file, "actix_http", http(path)));
        faults.extend(fence(&file, "actix_web", path == "src/http/fallback.rs" || path.starts_with("src/server")));
        faults.extend(fence(&file, "env::", path == "src/config.rs"));
        faults.extend(fence(&file, "std::env", path == "src/config.rs"));
    }
    for file in rust(&["src", "tests", "benches"]) {
        faults.extend(fence(&file, "process::exit", false));
    }
    none("named outside its fence", &faults);
}

#[test]
fn what_a_request_means_is_decided_in_one_place() {
    // The two readers of requests call `serve`, and only they; no middleware stands before it or behind it.
    let mut faults = Vec::new();
    for file in rust(&["src"]) {
        let path = file.path.as_str();
        if !path.starts_with("src/http") && !path.starts_with("src/server") {
            continue;
        }
        let calls = words(&file.code, "serve").any(|at| file.code[at..].starts_with("serve(&"));
        let is_reader = path == "src/http/fast.rs" || path == "src/http/fallback.rs";
        if calls != is_reader {
            faults.push(format!("{path}: {}", if calls { "it calls serve" } else { "it does not call serve" }));
        }
        let middleware = ["wrap", "wrap_fn", "middleware", "Transform"];
        let found = middleware.iter().filter(|word| words(&file.code, word).next().is_some());
        faults.extend(found.map(|word| format!("{path}: {word}")));
        // A reader refuses what cannot be read, and nothing else: it knows of no address and of no right.
        let rules = ["origin", "cors", "check_open", "is_draining", "method_not_allowed"];
        let found = rules.iter().filter(|word| is_reader && words(&file.code, word).next().is_some());
        faults.extend(found.map(|word| format!("{path}: {word} is a decision")));
    }
    none("decided outside of http/serve.rs", &faults);
}

#[test]
fn files_and_functions_can_be_read_at_a_sitting() {
    // At most 400 lines a file and 70 a function.
    let mut faults = Vec::new();
    for file in files(&["src", "tests", "benches", "static", "deploy"]) {
        let lines = file.text.lines().count();
        // Nobody reads what cargo writes.
        if lines > LINES_MAX && !file.path.ends_with("/Cargo.lock") {
            faults.push(format!("{}: {lines} lines", file.path));
        }
        let long = functions(&file.code).into_iter().filter(|(_, _, lines)| *lines > FUNCTION_LINES_MAX);
        faults.extend(long.map(|(name, at, lines)| format!("{}:{at}: {name} has {lines} lines", file.path)));
    }
    none("too long", &faults);
}

#[test]
fn every_file_says_what_it_is_for_and_has_nothing_left_over() {
    // Line 1 is the module's documentation; no notes to self, no debugging output.
    let leftovers = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X"), concat!("dbg", "!")];
    let mut faults = Vec::new();
    for file in files(&["src", "tests", "benches", "static"]) {
        if file.path.ends_with(".rs") && !file.text.starts_with("//! ") {
            faults.push(format!("{}: line 1 is not a `//!`", file.path));
        }
        let found = leftovers.iter().filter(|word| words(&file.text, word).next().is_some());
        faults.extend(found.map(|word| format!("{}: {word}", file.path)));
    }
    none("the file's first line or a leftover", &faults);
}

#[test]
fn every_file_is_part_of_the_build() {
    // A module that nothing declares is compiled by nobody; a fixture that nothing names is used by nobody.
    let all = files(&["src", "tests", "benches"]);
    let mut reached = BTreeSet::new();
    let is_root = |path: &str| {
        let (folder, name) = path.rsplit_once('/').unwrap_or_default();
        let crates = ["src/lib.rs", "tests/it/mutants.rs"];
        name == "main.rs" || crates.contains(&path) || (folder == "benches" && name.ends_with(".rs"))
    };
    let mut open: Vec<&Source> = all.iter().filter(|file| is_root(&file.path)).collect();
    assert!(open.len() >= 3, "src/lib.rs, src/main.rs and tests/it/main.rs are there");
    while let Some(file) = open.pop() {
        reached.insert(file.path.as_str());
        let (folder, name) = file.path.rsplit_once('/').expect("a folder");
        let stem = name.trim_end_matches(".rs");
        let base = if is_root(&file.path) { folder.to_owned() } else { format!("{folder}/{stem}") };
        for at in words(&file.code, "mod") {
            let child = first_word(file.code[at + 3..].trim_start());
            let path = format!("{base}/{child}.rs");
            open.extend(all.iter().filter(|file| file.path == path));
        }
    }
    let unused = |file: &&Source| {
        let (_, name) = file.path.rsplit_once('/').expect("a folder");
        let included = || all.iter().any(|other| other.path != file.path && other.text.contains(&format!("{name}\"")));
        let is_command = ["tests/run", "tests/mutants"].contains(&file.path.as_str());
        !reached.contains(file.path.as_str()) && !is_command && (file.path.ends_with(".rs") || !included())
    };
    let faults: Vec<String> = all.iter().filter(unused).map(|file| file.path.clone()).collect();
    none("nothing uses these files", &faults);
}

#[test]
fn sources_are_read_as_rust_reads_them() {
    // The control of the other tests: comments and literals hide nothing and add nothing.
    let text = "use crate::{\n    hub::{Carrier, log},\n    topic,\n};\n// crate::server\nlet a = \"crate::http {\"; let b = '{'; \
                let c: &'a str = r#\"\"crate::http\"#; let d = '\\''; crate::event::X; subcrate::config; b\"}\"";
    let code = source::code(text);
    assert_eq!(crate_names(&code), ["hub", "topic", "event"]);
    assert_eq!((code.matches('\n').count(), code.matches('{').count()), (5, 2));
    assert!(code.contains("let c: &'a str") && !code.contains("http"), "{code}");
    let text = "fn short() -> [u8; 3] { [1; 3] }\ntrait T { fn none(&self); }\ntype F = fn(u8);\nfn long(\n) {\n  if x {\n  }\n}\n";
    assert_eq!(functions(&source::code(text)), [("short", 1, 1), ("long", 4, 5)]);
    assert_eq!(words("actix_web::x; use actix::A; xactix::", "actix::").count(), 1);
}
