//! The house rules that a compiler does not keep: who may import whom, how long files get, where
//! features are asked for, which compiler is enough.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

/// Lines of a source file before its tests.
const LONGEST: usize = 400;

/// A module and what it must not name: `docs/architecture.md` says why.
const FORBIDDEN: &[(&str, &[&str])] = &[
    ("key", &["crate::message", "crate::turn", "crate::policy", "crate::store", "crate::session", "http::"]),
    ("message", &["crate::key", "crate::turn", "crate::policy", "crate::store", "crate::session", "http::"]),
    ("turn", &["crate::policy", "crate::history", "crate::store", "crate::session", "http::"]),
    ("policy", &["crate::store", "crate::session", "crate::identity", "http::"]),
    ("history", &["crate::store", "crate::session", "http::"]),
    (
        "store",
        &[
            "crate::session",
            "crate::layer",
            "crate::service",
            "crate::identity",
            "crate::error",
            "http::",
            "tower_",
            "axum",
        ],
    ),
    ("identity", &["crate::store", "crate::session", "crate::layer", "http_body", "tokio"]),
    (
        "diagnostics",
        &["crate::session", "crate::layer", "crate::service", "crate::future", "crate::body", "tower_", "axum"],
    ),
    ("session", &["http::", "http_body", "crate::layer", "crate::service", "crate::body", "tower_", "axum"]),
    ("body", &["crate::store", "crate::layer", "crate::service", "tower_", "axum"]),
    ("layer", &["axum_core"]),
    ("service", &["axum_core"]),
    ("future", &["axum_core"]),
];

/// Stores that must not know of each other.
const BACKENDS: &[&str] = &["memory", "sqlite", "redis", "postgres", "dynamodb"];

/// Stores around any store; these may use tower's retry budget.
const DECORATORS: &[&str] = &["shared", "cached", "resilient"];

struct Source {
    /// Below `src`, without the ending: `store/sqlite/append`.
    name: String,
    /// Without comments and without what follows `#[cfg(test)]`.
    code: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(directory: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, into);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            into.push(path);
        }
    }
}

fn sources() -> Vec<Source> {
    let mut paths = Vec::new();
    files(&root().join("src"), &mut paths);
    paths
        .iter()
        .map(|path| {
            let text = std::fs::read_to_string(path).unwrap();
            let code = text.split("#[cfg(test)]").next().unwrap();
            let code = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
            let name = path.strip_prefix(root().join("src")).unwrap().with_extension("");
            Source { name: name.to_string_lossy().replace('\\', "/"), code }
        })
        .collect()
}

fn is_in(name: &str, module: &str) -> bool {
    name == module || name.strip_prefix(module).is_some_and(|rest| rest.starts_with('/'))
}

/// Whether `path` is named as a path of its own: `http::` is not in `tower_http::`.
fn names(code: &str, path: &str) -> bool {
    code.match_indices(path)
        .any(|(at, _)| !code[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_' || before == '"'))
}

#[test]
fn modules_know_only_what_they_may() {
    let mut broken = Vec::new();
    for source in sources() {
        for (module, forbidden) in FORBIDDEN.iter().filter(|(module, _)| is_in(&source.name, module)) {
            for path in forbidden.iter().filter(|path| names(&source.code, path)) {
                broken.push(format!("{} names {path}, which {module} must not", source.name));
            }
        }
        for own in BACKENDS.iter().filter(|own| is_in(&source.name, &format!("store/{own}"))) {
            for other in BACKENDS.iter().filter(|other| *other != own) {
                if names(&source.code, &format!("store::{other}")) || names(&source.code, &format!("super::{other}")) {
                    broken.push(format!("{} names the store {other}", source.name));
                }
            }
        }
        if source.name != "axum" && names(&source.code, "axum_core") {
            broken.push(format!("{} names axum-core", source.name));
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

/// A layer on the public API alone: it names no module that others cannot. What it calls is compiled
/// against that API in `tests/llm_alone.rs`.
#[test]
fn the_llm_layer_imports_only_what_is_exported() {
    let root = std::fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let hidden: Vec<_> = root
        .lines()
        .filter_map(|line| Some(format!("crate::{}::", line.strip_prefix("mod ")?.strip_suffix(';')?)))
        .collect();
    assert!(hidden.contains(&"crate::session::".to_owned()), "{hidden:?}");
    let mut broken = Vec::new();
    for source in sources().iter().filter(|source| is_in(&source.name, "llm")) {
        let named = hidden.iter().filter(|module| names(&source.code, module));
        broken.extend(named.map(|module| format!("{} names {module}, which is not exported", source.name)));
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn features_are_asked_for_on_modules_and_re_exports_only() {
    let mut broken = Vec::new();
    for source in sources() {
        let lines: Vec<_> = source.code.lines().map(str::trim).collect();
        for (index, line) in
            lines.iter().enumerate().filter(|(_, line)| line.starts_with("#[cfg(") && line.contains("feature"))
        {
            let next = lines[index + 1..].iter().find(|line| !line.starts_with("#[")).copied().unwrap_or_default();
            let module = next.ends_with(';') && (next.contains("mod ") || next.contains("use "));
            if !module && !next.starts_with("pub use ") && !next.starts_with("pub(crate) use ") {
                broken.push(format!("{}: {line} before {next}", source.name));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn files_stay_short() {
    let long = |source: &Source| source.code.lines().count() > LONGEST;
    let long: Vec<_> = sources().into_iter().filter(long).map(|source| source.name).collect();
    assert!(long.is_empty(), "more than {LONGEST} lines: {long:?}");
}

#[test]
fn every_store_is_named_here() {
    let stores = sources()
        .into_iter()
        .filter(|source| names(&source.code, "Sharing::") && source.code.contains("impl Store for"));
    for store in stores.filter(|source| source.name.starts_with("store/")) {
        assert!(
            BACKENDS.iter().chain(DECORATORS).any(|own| is_in(&store.name, &format!("store/{own}"))),
            "{} is not in BACKENDS",
            store.name
        );
    }
}

#[test]
fn every_feature_is_in_the_table() {
    let text = |path: &str| std::fs::read_to_string(root().join(path)).unwrap();
    let manifest = text("Cargo.toml");
    let features = manifest.split("[features]\n").nth(1).unwrap().split("\n[").next().unwrap();
    let features =
        features.lines().filter_map(|line| Some(line.split_once(" = [")?.0)).filter(|name| *name != "default");
    let root = text("src/lib.rs");
    let table: Vec<_> = root.lines().filter(|line| line.starts_with("//! | `")).collect();
    let missing: Vec<_> = features.filter(|name| !table.iter().any(|row| row.contains(&format!("`{name}`")))).collect();
    assert!(missing.is_empty() && table.len() > 5, "not in the table of src/lib.rs: {missing:?}");
}

/// The compiler that `rust-version` names must be enough for every dependency of the library.
#[test]
fn dependencies_need_no_newer_compiler() {
    let metadata = std::process::Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--all-features", "--locked"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(metadata.status.success(), "{}", String::from_utf8_lossy(&metadata.stderr));
    let metadata: Value = serde_json::from_slice(&metadata.stdout).unwrap();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let packages: HashMap<_, _> =
        metadata["packages"].as_array().unwrap().iter().map(|package| (text(&package["id"]), package)).collect();
    let nodes: HashMap<_, _> =
        metadata["resolve"]["nodes"].as_array().unwrap().iter().map(|node| (text(&node["id"]), node)).collect();

    let own = text(&metadata["resolve"]["root"]);
    let version = |package: &Value| -> Vec<u32> {
        let given = text(&package["rust_version"]);
        let parts = given.split('.').filter_map(|part| part.parse().ok());
        parts.chain(std::iter::repeat(0)).take(3).collect()
    };
    let stated = version(packages[&own]);
    let (mut seen, mut queue) = (HashSet::new(), vec![own]);
    let mut newer = Vec::new();
    while let Some(id) = queue.pop() {
        if !seen.insert(id.clone()) {
            continue;
        }
        if version(packages[&id]) > stated {
            newer.push(format!("{} needs {}", text(&packages[&id]["name"]), text(&packages[&id]["rust_version"])));
        }
        for dependency in nodes[&id]["deps"].as_array().unwrap() {
            // Tests and examples may need more than the library.
            if dependency["dep_kinds"].as_array().unwrap().iter().any(|kind| kind["kind"] != "dev") {
                queue.push(text(&dependency["pkg"]));
            }
        }
    }
    assert!(newer.is_empty(), "rust-version is {stated:?}: {newer:?}");
}
