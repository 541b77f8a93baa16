//! The rules of ARCHITECTURE.md that a machine can check: who imports whom, which files do I/O, what no file may hold.
#![allow(
    clippy::unwrap_used,
    reason = "a test crate; clippy.toml covers only #[test] functions"
)]

use std::fs;
use std::path::{Path, PathBuf};

/// Each module and the modules that it may import. A new edge is a commit of its own that says why.
const IMPORTS: &str = "
    change:
    topic:
    websocket:
    auth:
    config:
    clock:
    metrics:
    shutdown:
    database:
    testing:
    catalog: change database
    replication: change database
    log: change
    policy: change auth catalog database
    shadow: change policy database
    routing: change policy catalog database
    realtime: change topic auth routing catalog
    rooms: topic log realtime
    messages: change topic auth log database realtime
    pipeline: change topic auth database catalog replication log shadow policy routing realtime rooms
    server: change topic auth log routing realtime rooms messages pipeline websocket
    cli: auth config database catalog replication log policy shadow realtime rooms messages pipeline server
    main: cli
";

/// What every file that does I/O may import besides.
const IMPORTS_OF_IO: &[&str] = &["clock", "metrics", "shutdown"];

/// Modules that do I/O throughout; elsewhere a file says so in its `//!` lines with `*io*` or `(io)`.
const IO_MODULES: &str = "pipeline server messages cli testing main clock shutdown";

/// What only files that do I/O may name; addresses are values.
const IO_WORDS: &str = "tokio:: std::net std::fs std::env Instant::now SystemTime::now";
const NO_IO_WORDS: &[&str] = &["std::net::SocketAddr", "std::net::IpAddr"];

/// A module is named after a thing of the domain; these say nothing.
const EMPTY_NAMES: &str = "utils util common helpers types misc";

struct Source {
    path: PathBuf,
    module: String,
    /// Without comments.
    code: String,
    io: bool,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn has(words: &str, word: &str) -> bool {
    words.split_whitespace().any(|known| known == word)
}

/// Every file below a folder, without what tools put there.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        if has("target node_modules .git corpus artifacts", &name) {
            continue;
        }
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}

fn sources() -> Vec<Source> {
    let src = root().join("src");
    let mut paths = files(&src);
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "rs"));
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        let first = path.strip_prefix(&src).unwrap().iter().next().unwrap();
        let module = first.to_str().unwrap().trim_end_matches(".rs").to_owned();
        let mut docs = text.lines().filter(|line| line.starts_with("//!"));
        let marked = docs.any(|line| line.contains("*io*") || line.contains("(io)"));
        let code = text
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"));
        Source {
            io: marked || has(IO_MODULES, &module),
            code: code.collect::<Vec<_>>().join("\n"),
            module,
            path,
        }
    };
    let is_library = |source: &Source| source.module == "lib";
    paths
        .into_iter()
        .map(read)
        .filter(|source| !is_library(source))
        .collect()
}

/// Names that stand directly behind `prefix`.
fn names_behind<'a>(code: &'a str, prefix: &'a str) -> impl Iterator<Item = &'a str> {
    code.split(prefix).skip(1).map(|rest| {
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
        &rest[..end.unwrap_or(rest.len())]
    })
}

#[track_caller]
fn assert_none(rule: &str, broken: &[String]) {
    assert!(broken.is_empty(), "{rule}:\n{}", broken.join("\n"));
}

#[test]
fn modules_import_only_what_the_table_names() {
    let table: Vec<(&str, &str)> = IMPORTS
        .lines()
        .filter_map(|line| line.trim().split_once(':'))
        .collect();
    let mut broken = Vec::new();
    for source in sources() {
        let Some((_, allowed)) = table.iter().find(|(module, _)| *module == source.module) else {
            broken.push(format!("{} is not in the table", source.module));
            continue;
        };
        let prefix = if source.module == "main" {
            "walcast::"
        } else {
            "crate::"
        };
        for target in names_behind(&source.code, prefix) {
            let is_module =
                table.iter().any(|(module, _)| *module == target) && target != source.module;
            let io_allows = source.io && IMPORTS_OF_IO.contains(&target);
            if is_module && !io_allows && !has(allowed, target) {
                broken.push(format!("{} names {target}", source.path.display()));
            }
        }
    }
    assert_none("a module imports what it may not", &broken);
}

#[test]
fn imports_are_written_one_module_at_a_time() {
    let mut broken = Vec::new();
    for source in sources() {
        for text in ["super::super", "use crate::{"]
            .iter()
            .filter(|text| source.code.contains(**text))
        {
            broken.push(format!("{}: {text}", source.path.display()));
        }
    }
    assert_none("hides an edge between modules", &broken);
}

#[test]
fn pure_files_name_no_io() {
    let mut broken = Vec::new();
    for mut source in sources() {
        NO_IO_WORDS
            .iter()
            .for_each(|word| source.code = source.code.replace(word, ""));
        // Tests may do what they like.
        let code = source.code.split("#[cfg(test)]\nmod ").next().unwrap();
        let is_pure = !source.io
            && !source.path.ends_with("tests.rs")
            && !source.path.iter().any(|part| part == "tests");
        for word in IO_WORDS
            .split(' ')
            .filter(|word| is_pure && code.contains(word))
        {
            broken.push(format!("{}: {word}", source.path.display()));
        }
    }
    let rule = "a pure file names I/O (mark it *io* in its first lines, or pass the value in)";
    assert_none(rule, &broken);
}

#[test]
fn modules_are_named_after_things() {
    let named = |path: &Path| path.file_stem().unwrap().to_str().unwrap().to_owned();
    let mut broken: Vec<String> = sources().iter().map(|source| named(&source.path)).collect();
    broken.retain(|name| has(EMPTY_NAMES, name));
    assert_none("a name that says nothing", &broken);
}

#[test]
fn no_file_knows_the_machine_it_was_written_on() {
    let folders = ["home", "root", "work", "Users"].map(|folder| format!("/{folder}/"));
    let begins_there = |line: &str, place: usize| {
        let before = line[..place].chars().next_back();
        before.is_none_or(|c| !c.is_alphanumeric() && !"._-*$})]~".contains(c))
    };
    let mut broken = Vec::new();
    for path in files(root()) {
        // What is no text is none of ours.
        let text = fs::read_to_string(&path).unwrap_or_default();
        for (line, number) in text.lines().zip(1..) {
            let mut places = folders
                .iter()
                .flat_map(|folder| line.match_indices(folder.as_str()));
            if places.any(|(place, _)| begins_there(line, place)) {
                broken.push(format!("{}:{number}", path.display()));
            }
        }
        if path.ends_with("package-lock.json") && text.contains("\"resolved\"") {
            broken.push(format!("{}: the address of a registry", path.display()));
        }
    }
    assert_none("a path of somebody's machine", &broken);
}
