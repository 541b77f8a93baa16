//! The rules of ARCHITECTURE.md that a machine can check: who imports whom, which files do I/O, what no file may hold.
#![allow(
    clippy::unwrap_used,
    reason = "a test crate; clippy.toml covers only #[test] functions"
)]

use std::fs;
use std::path::{Path, PathBuf};

/// Module, and the modules that it may import. A new edge is a commit of its own that says why.
const IMPORTS: &[(&str, &[&str])] = &[
    ("change", &[]),
    ("topic", &[]),
    ("auth", &[]),
    ("config", &[]),
    ("clock", &[]),
    ("metrics", &[]),
    ("shutdown", &[]),
    ("database", &[]),
    ("testing", &[]),
    ("catalog", &["change", "database"]),
    ("replication", &["change", "database"]),
    ("log", &["change"]),
    ("shadow", &["change"]),
    (
        "policy",
        &["change", "auth", "shadow", "catalog", "database"],
    ),
    (
        "routing",
        &["change", "auth", "policy", "catalog", "database"],
    ),
    ("presence", &["topic", "auth"]),
    ("broadcast", &["topic", "auth"]),
    (
        "realtime",
        &[
            "change",
            "topic",
            "auth",
            "routing",
            "presence",
            "broadcast",
            "catalog",
        ],
    ),
    ("messaging", &["change", "auth", "policy"]),
    (
        "cluster",
        &["change", "topic", "log", "presence", "broadcast"],
    ),
    (
        "pipeline",
        &[
            "change",
            "topic",
            "auth",
            "database",
            "catalog",
            "replication",
            "log",
            "shadow",
            "policy",
            "routing",
            "realtime",
        ],
    ),
    (
        "server",
        &[
            "topic",
            "auth",
            "log",
            "routing",
            "presence",
            "broadcast",
            "realtime",
            "cluster",
            "pipeline",
        ],
    ),
    (
        "cli",
        &[
            "auth",
            "config",
            "database",
            "catalog",
            "replication",
            "policy",
            "routing",
            "realtime",
            "cluster",
            "pipeline",
            "server",
        ],
    ),
    ("main", &["cli"]),
];

/// What every file that does I/O may import besides.
const IMPORTS_OF_IO: &[&str] = &["clock", "metrics", "shutdown"];

/// Modules that do I/O throughout; elsewhere a file says so in its first lines with `*io*`.
const IO_MODULES: &[&str] = &["pipeline", "server", "cli", "testing", "main"];

/// What only files that do I/O may name.
const IO_WORDS: &[&str] = &[
    "tokio::",
    "std::net",
    "std::fs",
    "std::env",
    "Instant::now",
    "SystemTime::now",
];

/// Of these a module says nothing: it is named after a thing of the domain.
const EMPTY_NAMES: &[&str] = &["utils", "util", "common", "helpers", "types", "misc"];

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

/// Every file below a folder, without what tools put there.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let name = entry.file_name();
        let made_by_tools = ["target", "node_modules", ".git", "corpus", "artifacts"];
        if made_by_tools.iter().any(|tool| name == *tool) {
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
    let rust = files(&src)
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    rust.map(|path| {
        let text = fs::read_to_string(&path).unwrap();
        let inside = path.strip_prefix(&src).unwrap();
        let module = inside
            .iter()
            .next()
            .unwrap()
            .to_str()
            .unwrap()
            .trim_end_matches(".rs")
            .to_owned();
        let marked = text
            .lines()
            .any(|line| line.starts_with("//!") && line.contains("*io*"));
        let io = marked || IO_MODULES.contains(&module.as_str());
        let code: Vec<&str> = text
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"))
            .collect();
        Source {
            module,
            code: code.join("\n"),
            io,
            path,
        }
    })
    .collect()
}

#[track_caller]
fn assert_none(rule: &str, broken: Vec<String>) {
    assert!(broken.is_empty(), "{rule}:\n{}", broken.join("\n"));
}

#[test]
fn modules_import_only_what_the_table_names() {
    let mut broken = Vec::new();
    for source in sources().iter().filter(|source| source.module != "lib") {
        let Some((_, allowed)) = IMPORTS.iter().find(|(module, _)| *module == source.module) else {
            broken.push(format!("{} is not in the table", source.module));
            continue;
        };
        let own = source
            .code
            .match_indices("crate::")
            .chain(source.code.match_indices("walcast::"));
        for (place, word) in own {
            let begins = source.code[..place]
                .chars()
                .next_back()
                .is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != '$');
            let target: String = source.code[place + word.len()..]
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect();
            let io_allows = source.io && IMPORTS_OF_IO.contains(&target.as_str());
            let is_module = IMPORTS.iter().any(|(module, _)| *module == target);
            if begins
                && is_module
                && target != source.module
                && !io_allows
                && !allowed.contains(&target.as_str())
            {
                broken.push(format!("{} names {target}", source.path.display()));
            }
        }
    }
    assert_none("a module imports what it may not", broken);
}

#[test]
fn imports_are_written_one_module_at_a_time() {
    let broken = sources()
        .iter()
        .flat_map(|source| ["super::super", "use crate::{"].map(|text| (source, text)))
        .filter(|(source, text)| source.code.contains(text))
        .map(|(source, text)| format!("{}: {text}", source.path.display()))
        .collect();
    assert_none("hides an edge between modules", broken);
}

#[test]
fn pure_files_name_no_io() {
    let mut broken = Vec::new();
    for source in sources()
        .iter()
        .filter(|source| !source.io && source.module != "lib")
    {
        // Tests may do what they like.
        let is_test = source.path.file_stem().is_some_and(|stem| stem == "tests");
        let code = source.code.split("#[cfg(test)]\nmod ").next().unwrap();
        for word in IO_WORDS
            .iter()
            .filter(|word| !is_test && code.contains(**word))
        {
            let exempt = *word != "tokio::" && source.module == "clock";
            if !exempt {
                broken.push(format!("{}: {word}", source.path.display()));
            }
        }
    }
    assert_none(
        "a pure file names I/O (mark it *io* in its first lines, or pass the value in)",
        broken,
    );
}

#[test]
fn modules_are_named_after_things() {
    let named = |path: &Path| {
        path.file_stem()
            .and_then(|stem| stem.to_str())
            .unwrap_or_default()
            .to_owned()
    };
    let broken = sources()
        .iter()
        .filter(|source| EMPTY_NAMES.contains(&named(&source.path).as_str()))
        .map(|source| source.path.display().to_string())
        .collect();
    assert_none("a name that says nothing", broken);
}

#[test]
fn no_file_knows_the_machine_it_was_written_on() {
    let forbidden = ["home", "root", "work", "Users"].map(|folder| format!("/{folder}/"));
    let mut broken = Vec::new();
    for path in files(root()) {
        // Not text: none of ours.
        let Ok(text) = fs::read_to_string(&path) else {
            continue;
        };
        for (number, line) in text.lines().enumerate() {
            let absolute = |folder: &String| {
                line.match_indices(folder.as_str()).any(|(place, _)| {
                    line[..place]
                        .chars()
                        .next_back()
                        .is_none_or(|c| !c.is_alphanumeric() && !"._-*$})]".contains(c))
                })
            };
            if forbidden.iter().any(absolute) {
                broken.push(format!("{}:{}", path.display(), number + 1));
            }
        }
        if path.ends_with("package-lock.json") && text.contains("\"resolved\"") {
            broken.push(format!("{}: the address of a registry", path.display()));
        }
    }
    assert_none("a path of somebody's machine", broken);
}
