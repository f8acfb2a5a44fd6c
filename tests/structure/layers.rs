//! Which module may import which: no circle between files or between top-level modules, and no import of a higher
//! layer.

use std::sync::LazyLock;

use crate::files;
use crate::modules::{Graph, Step, told, top};

/// The layers, the lowest first. The modules in one line are one layer; within it, circles are refused as everywhere.
const LAYERS: &[&[&str]] = &[
    // The base: what every other module may use, and which imports none of them.
    &[
        "db",
        "config",
        "seal",
        "context",
        "correlation",
        "fault",
        "network",
        "startup",
        "metrics",
        "telemetry",
        "messages",
        "codec",
        "proto",
        "schema",
    ],
    // Calls and their policies.
    &["access"],
    // Clients of other systems.
    &["kanidm", "mail"],
    // Events, which everything that follows records.
    &["audit"],
    &["credential"],
    &["token"],
    // What most services are made of, in one value.
    &["shared"],
    // A transaction with its events, messages and revocations.
    &["change"],
    &["session"],
    &["authenticate"],
    &["directory", "migration"],
    &["server"],
    &["app"],
    &["cli"],
];

/// The library as it is; `main.rs` is another crate.
static GRAPH: LazyLock<Graph> = LazyLock::new(|| {
    let files: Vec<_> = files("src", ".rs").into_iter().filter(|(file, _)| file != "main.rs").collect();
    Graph::read(&files)
});

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|modules| modules.contains(&module))
}

/// Imports from a lower layer to a higher one.
fn climbs(graph: &Graph) -> Vec<Step> {
    let goes_up = |step: &Step| match (layer(top(&step.from)), layer(top(&step.to))) {
        (Some(from), Some(to)) => from < to,
        _ => false,
    };
    graph.steps().filter(goes_up).collect()
}

#[test]
fn no_circle_of_files() {
    let circles: Vec<String> = GRAPH.circles().iter().map(|circle| told(circle)).collect();
    assert!(circles.is_empty(), "files import each other in a circle:\n{}", circles.join("\n"));
}

#[test]
fn no_circle_of_top_level_modules() {
    let circles: Vec<String> = GRAPH.circles_of_modules().iter().map(|circle| told(circle)).collect();
    assert!(circles.is_empty(), "modules import each other in a circle:\n{}", circles.join("\n"));
}

#[test]
fn every_module_has_one_layer() {
    let mut found: Vec<String> = files("src", ".rs").iter().map(|(file, _)| top(file).to_owned()).collect();
    found.retain(|module| !["main", "lib", "fuzzing"].contains(&module.as_str()));
    found.sort();
    found.dedup();
    let mut known: Vec<&str> = LAYERS.concat();
    known.sort_unstable();
    assert_eq!(found, known, "the layers name every module of src/ once");
}

#[test]
fn nothing_imports_from_a_layer_above() {
    let climbs: Vec<String> =
        climbs(&GRAPH).iter().map(|step| format!("{}:{} imports {}", step.from, step.line, step.to)).collect();
    assert!(climbs.is_empty(), "imports from a higher layer:\n{}", climbs.join("\n"));
}

#[test]
fn an_import_from_above_is_found() {
    let mut graph = GRAPH.clone();
    graph.add("access/paging.rs", 7, "session/mod.rs");
    let climbs = climbs(&graph);
    assert_eq!(climbs, [Step { from: "access/paging.rs".into(), line: 7, to: "session/mod.rs".into() }]);
}
