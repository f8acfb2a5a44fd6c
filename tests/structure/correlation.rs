//! Work that a call leaves behind keeps the call's correlation id.

use super::files;

/// `tokio::spawn` loses the span and the id of the call. Where there is no call, a plain task will do.
#[test]
fn tasks_of_calls_are_spawned_by_one_module() {
    let without_calls = ["correlation.rs", "app.rs", "cli/serve.rs", "server/http.rs", "server/grpc.rs"];
    let spawns = ["tokio::spawn", "task::spawn(", "spawn_local"];
    let offenders: Vec<String> = files("src", ".rs")
        .into_iter()
        .filter(|(file, text)| {
            let is_exempt = without_calls.contains(&file.as_str()) || file.contains("fuzzing");
            !is_exempt
                && text
                    .lines()
                    .any(|line| !line.trim_start().starts_with("//") && spawns.iter().any(|s| line.contains(s)))
        })
        .map(|(file, _)| file)
        .collect();
    assert!(offenders.is_empty(), "spawn by crate::correlation::spawn, which keeps the call's id: {offenders:?}");
}
