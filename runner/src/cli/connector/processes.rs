//! The processes of a program that this process has started.

use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

/// Kills them, and does not wait for their end.
pub fn kill(program: &Path) -> Result<(), String> {
    let found = of(program);
    if found.is_empty() {
        return Err("no process of the connector is found".to_owned());
    }
    for id in found {
        let pid = i32::try_from(id).ok().and_then(Pid::from_raw);
        if let Some(Err(error)) = pid.map(|pid| kill_process(pid, Signal::KILL)) {
            // It went by itself in between.
            tracing::debug!(%error, id, "a process could not be killed");
        }
    }
    Ok(())
}

/// The resident memory of the largest of them in bytes, where the system says it.
pub fn memory(program: &Path) -> Option<u64> {
    of(program).into_iter().filter_map(ingest_conformance::resident_of).max()
}

/// Their ids: children of ours whose program it is.
fn of(program: &Path) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let ids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    ids.filter(|id| parent(*id) == Some(std::process::id())).filter(|id| runs(*id, program)).collect()
}

/// Whether a process runs a program, itself or, where it is a script, by an interpreter.
fn runs(id: u32, program: &Path) -> bool {
    let command = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
    let mut words = command.split(|byte| *byte == 0).filter_map(|word| std::str::from_utf8(word).ok());
    std::fs::read_link(format!("/proc/{id}/exe")).is_ok_and(|path| path == program)
        || words.any(|word| Path::new(word).canonicalize().is_ok_and(|path| path == program))
}

fn parent(id: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}
