//! Keeps the code in the order in which an event travels: a stage knows only the stages above it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use finalizer::event::FailureCode;

/// The way of an event. A stage may use those before it in this list.
const STAGES: [&str; 11] = [
    "clock",
    "event",
    "webhook",
    "finalize",
    "store",
    "intake",
    "courier",
    "recordings",
    "retention",
    "api",
    "cli",
];

/// Stages that compute and do nothing else. All other modules of `src` that are no stage are
/// leaves: small tools for every stage but these.
const PURE: [&str; 3] = ["event", "webhook", "finalize"];

/// What a pure stage may not touch: time, chance, the machine, the network, the log.
const WORLD: [&str; 14] = [
    "Instant",
    "SystemTime",
    "std::env",
    "std::fs",
    "std::net",
    "std::process",
    "std::thread",
    "tokio",
    "sqlx",
    "lapin",
    "hyper",
    "rand",
    "tracing",
    "Utc::now",
];

#[test]
fn a_stage_knows_only_the_stages_above_it() {
    let mut wrong = Vec::new();
    for source in sources() {
        for used in modules_used(&source.code) {
            if !may_use(&source.module, &used) {
                wrong.push(format!("{} uses crate::{used}", source.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "against the order {STAGES:?}:\n{}", wrong.join("\n"));
}

#[test]
fn pure_stages_do_not_touch_the_world() {
    let mut wrong = Vec::new();
    for source in sources().filter(|source| PURE.contains(&source.module.as_str())) {
        for name in WORLD.into_iter().filter(|name| names(&source.code, name)) {
            wrong.push(format!("{} names {name}", source.path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_stage_exists() {
    let modules: BTreeSet<String> = sources().map(|source| source.module).collect();
    for stage in STAGES {
        assert!(modules.contains(stage), "there is no src/{stage}");
    }
}

#[test]
fn both_databases_have_the_same_migrations() {
    let postgres = file_names("migrations/postgres");
    assert_eq!(postgres, file_names("migrations/sqlite"));
    assert!(!postgres.is_empty());
}

/// One TLS stack, of which a C compiler is all that a build needs.
#[test]
fn no_dependency_brings_a_second_tls_stack() {
    let lock =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.lock")).unwrap();
    let is_locked = |name: &str| lock.contains(&format!("\nname = \"{name}\"\n"));
    assert!(is_locked("rustls") && is_locked("ring"));
    let others = ["aws-lc-rs", "aws-lc-sys", "boring-sys", "native-tls", "openssl", "openssl-sys"];
    let second: Vec<&str> = others.into_iter().filter(|name| is_locked(name)).collect();
    assert!(second.is_empty(), "{second:?}: find out with `cargo tree --invert`");
}

/// Two pages say which test proves what: a test that is renamed or gone would make them lie.
#[test]
fn the_tests_that_the_documents_name_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    collect_rust_files(&root.join("src"), &mut paths);
    collect_rust_files(&root.join("tests"), &mut paths);
    let code: String = paths.iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    for (page, heading, at_least) in [
        ("docs/webhooks.md", "## Every rule", 50),
        ("ARCHITECTURE.md", "## What becomes of an event", 10),
    ] {
        let page = fs::read_to_string(root.join(page)).unwrap();
        let (_, proofs) = page.split_once(heading).unwrap();
        let proofs = proofs.split_once("\n## ").map_or(proofs, |(proofs, _)| proofs);
        let rows = proofs.lines().filter_map(|line| line.strip_suffix('|')?.rsplit('|').next());
        let named: Vec<&str> = rows
            .flat_map(|cell| cell.split('`').skip(1).step_by(2))
            .filter(|name| name.contains('_'))
            .collect();
        assert!(named.len() >= at_least, "{named:?}");
        let is_missing = |name: &&&str| !code.contains(&format!("fn {name}("));
        let missing: Vec<_> = named.iter().filter(is_missing).collect();
        assert!(missing.is_empty(), "there are no such tests: {missing:?}");
    }
}

/// Every code that a failure can have stands in the table of what becomes of an event.
#[test]
fn the_table_of_outcomes_has_every_code() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    let (_, table) = page.split_once("## What becomes of an event").unwrap();
    let (table, _) = table.split_once("\n## ").unwrap();
    for code in FailureCode::ALL {
        assert!(table.contains(&format!("`{code}`")), "{code} is missing");
    }
}

#[test]
fn the_scan_sees_every_way_to_name_a_module() {
    let code =
        "use crate::{event::{self, Role}, store,\n api::router};\nfn f() { crate::cli::run() }";
    let used = modules_used(code);
    assert_eq!(
        used.iter().map(String::as_str).collect::<Vec<_>>(),
        ["api", "cli", "event", "store"]
    );
    assert!(names("use tokio::net;", "tokio"));
    assert!(names("let x = std::time::Instant::now();", "Instant"));
    assert!(names("use std::{env, io};", "std::env"));
    assert!(!names("fn operand() {}", "rand"));
}

fn may_use(module: &str, used: &str) -> bool {
    let place = |name: &str| STAGES.iter().position(|stage| *stage == name);
    match (place(module), place(used)) {
        _ if module == used => true,
        (Some(own), Some(other)) => other < own && !(PURE.contains(&module) && used == "clock"),
        (Some(_), None) => !PURE.contains(&module),
        (None, Some(_)) => used == "clock" || PURE.contains(&used),
        (None, None) => true,
    }
}

/// One file below `src`, without its comments and its unit tests.
struct Source {
    path: PathBuf,
    /// The first folder below `src`, or the file's own name.
    module: String,
    code: String,
}

fn sources() -> impl Iterator<Item = Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    collect_rust_files(&root, &mut paths);
    paths.into_iter().filter_map(move |path| {
        let inside = path.strip_prefix(&root).expect("it was found below src");
        let first = Path::new(inside.iter().next()?);
        let module = first.file_stem()?.to_str()?.to_owned();
        let is_root = ["lib", "main"].contains(&module.as_str());
        let is_test = path.file_stem()?.to_str()?.ends_with("tests");
        let code = code_of(&fs::read_to_string(&path).expect("a source file is readable text"));
        (!is_root && !is_test).then_some(Source { path, module, code })
    })
}

fn collect_rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("src has readable folders") {
        let path = entry.expect("src has readable entries").path();
        if path.is_dir() {
            collect_rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The code without comment lines, up to the unit tests at its end.
fn code_of(text: &str) -> String {
    let before_tests = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    let lines = before_tests.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

/// The modules that stand directly after `crate::`, grouped imports included.
fn modules_used(code: &str) -> BTreeSet<String> {
    code.split("crate::").skip(1).flat_map(first_names).collect()
}

/// The first name of each path in `rest`, which is one path or a group in braces.
fn first_names(rest: &str) -> Vec<String> {
    let Some(group) = rest.strip_prefix('{') else {
        return Vec::from([identifier(rest)]);
    };
    let mut depth = 0;
    let mut names = Vec::from([identifier(group)]);
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => names.push(identifier(&group[at + 1..])),
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

fn identifier(text: &str) -> String {
    text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// Whether the code names a crate (`tokio`) or a path (`std::time`, also as `std::{time, …}`).
fn names(code: &str, path: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let is_named = code.match_indices(path).any(|(at, _)| {
        let is_start = !code[..at].ends_with(is_word);
        is_start && !code[at + path.len()..].starts_with(is_word)
    });
    let in_group = path.strip_prefix("std::").is_some_and(|module| {
        code.split("std::{")
            .skip(1)
            .any(|rest| first_names(&format!("{{{rest}")).contains(&module.to_owned()))
    });
    is_named || in_group
}

fn file_names(folder: &str) -> BTreeSet<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let entries = fs::read_dir(folder).expect("migrations are there");
    let name = |entry: std::io::Result<fs::DirEntry>| entry.expect("it is readable").file_name();
    entries.map(|entry| name(entry).to_string_lossy().into_owned()).collect()
}
